//! What the MID keeps about its instance: files with mode 0600 in a folder with mode 0700.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use midward_core::{Failure, Hop, Secret};
use serde::{Deserialize, Serialize};

const INSTANCE_FILE: &str = "instance.json";
const CA_FILE: &str = "instance-ca.pem";
const STAGED_CA_FILE: &str = "enroll-ca.pem";
const KEY_FILE: &str = "mid-key.p8";

/// The result of an enrollment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Enrollment {
    /// Origin of the instance, without a trailing slash.
    pub instance_url: String,
    pub instance_id: String,
    /// The instance's Ed25519 public key (32 bytes, base64url): proves a signed state.
    pub instance_key: String,
    pub mid_id: String,
    pub name: String,
}

impl Enrollment {
    /// The pinned key's bytes.
    pub fn pinned_key(&self) -> Result<[u8; 32], Failure> {
        URL_SAFE_NO_PAD.decode(&self.instance_key).ok().and_then(|bytes| bytes.try_into().ok()).ok_or_else(|| {
            Failure::permanent(
                Hop::Mid,
                "enrollment_invalid",
                "the instance's key is not 32 bytes of base64url",
                "Enroll again with a new enrollment token.",
            )
        })
    }
}

/// The folder.
#[derive(Clone, Debug)]
pub struct StateDir(PathBuf);

impl StateDir {
    /// Opens the folder, or makes it.
    pub fn open(path: &Path) -> Result<Self, Failure> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| io_failure(path, &error))?;
        Ok(Self(path.to_owned()))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `None` when this MID is not enrolled.
    pub fn enrollment(&self) -> Result<Option<Enrollment>, Failure> {
        let path = self.0.join(INSTANCE_FILE);
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_failure(&path, &error)),
        };
        serde_json::from_slice(&bytes).map(Some).map_err(|_| {
            Failure::permanent(
                Hop::Mid,
                "enrollment_invalid",
                format!("{} is damaged", path.display()),
                "Restore it, or enroll again with a new enrollment token.",
            )
        })
    }

    /// The file of the instance's CA, when the enrollment brought one.
    pub fn ca_file(&self) -> Option<PathBuf> {
        Some(self.0.join(CA_FILE)).filter(|path| path.exists())
    }

    /// Writes a CA that is needed before there is an enrollment, and tells where.
    pub fn stage_ca(&self, pem: &str) -> Result<PathBuf, Failure> {
        self.write(STAGED_CA_FILE, pem.as_bytes())?;
        Ok(self.0.join(STAGED_CA_FILE))
    }

    /// The key of an enrollment with this one-time secret whose answer did not come.
    pub(crate) fn staged_key(&self, secret: &str) -> Result<Option<Secret>, Failure> {
        let path = self.0.join(staged_key_file(secret));
        if path.exists() { read_key(&path).map(Some) } else { Ok(None) }
    }

    /// Keeps a key before it is registered.
    pub(crate) fn stage_key(&self, secret: &str, key: &Secret) -> Result<(), Failure> {
        self.write(&staged_key_file(secret), key.expose())
    }

    pub(crate) fn unstage_key(&self, secret: &str) -> Result<(), Failure> {
        let path = self.0.join(staged_key_file(secret));
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_failure(&path, &error)),
            _ => Ok(()),
        }
    }

    /// The MID's own key: Ed25519, PKCS #8.
    pub fn key(&self) -> Result<Secret, Failure> {
        read_key(&self.0.join(KEY_FILE))
    }

    /// Writes all files; the enrollment last, since it says that the others are there.
    pub fn save(&self, enrollment: &Enrollment, ca_pem: Option<&str>, key: &Secret) -> Result<(), Failure> {
        self.write(KEY_FILE, key.expose())?;
        match ca_pem {
            Some(pem) => self.write(CA_FILE, pem.as_bytes())?,
            None => match fs::remove_file(self.0.join(CA_FILE)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(io_failure(&self.0.join(CA_FILE), &error));
                }
                _ => {}
            },
        }
        let json = serde_json::to_vec_pretty(enrollment).unwrap_or_default();
        self.write(INSTANCE_FILE, &json)
    }

    /// Fails when the folder cannot be written, before a one-time token is spent.
    pub fn probe(&self) -> Result<(), Failure> {
        self.write(".probe", b"")?;
        let path = self.0.join(".probe");
        fs::remove_file(&path).map_err(|error| io_failure(&path, &error))
    }

    /// Replaces a file in one step.
    fn write(&self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let write = || {
            let _ = fs::remove_file(&new);
            let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            fs::rename(&new, &path)
        };
        write().map_err(|error| io_failure(&path, &error))
    }
}

/// Named by the one-time secret's digest, so that another token gets another key.
fn staged_key_file(secret: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, secret.as_bytes());
    format!("enroll-{}.p8", URL_SAFE_NO_PAD.encode(&digest.as_ref()[..12]))
}

fn read_key(path: &Path) -> Result<Secret, Failure> {
    let mode = fs::metadata(path).map_err(|error| io_failure(path, &error))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Failure::permanent(
            Hop::Mid,
            "mid_key_exposed",
            format!("{} can be read by others than its owner", path.display()),
            "Run `chmod 600` on it; enroll again if somebody may have read it.",
        ));
    }
    fs::read(path).map(Secret::new).map_err(|error| io_failure(path, &error))
}

fn io_failure(path: &Path, error: &io::Error) -> Failure {
    Failure::permanent(
        Hop::Mid,
        "state_not_accessible",
        format!("{}: {error}", path.display()),
        "Make the state folder readable and writable for the MID Server's user.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_enrollment_survives_and_only_its_owner_reads_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(&folder.path().join("state")).expect("made");
        assert_eq!(state.enrollment(), Ok(None));
        let enrollment = Enrollment {
            instance_url: "https://127.0.0.1:1".into(),
            instance_id: "i".into(),
            instance_key: URL_SAFE_NO_PAD.encode([7; 32]),
            mid_id: "m".into(),
            name: "edge".into(),
        };
        state.save(&enrollment, Some("PEM"), &Secret::from("key")).expect("saved");
        assert_eq!(state.enrollment(), Ok(Some(enrollment.clone())));
        assert_eq!(enrollment.pinned_key(), Ok([7; 32]));
        assert!(state.ca_file().is_some());
        for name in [INSTANCE_FILE, CA_FILE, KEY_FILE] {
            let mode = fs::metadata(state.path().join(name)).expect("there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        state.key().expect("its owner's");
        let key = state.path().join(KEY_FILE);
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).expect("a mode");
        assert_eq!(state.key().expect_err("exposed").code, "mid_key_exposed");
        state.save(&enrollment, None, &Secret::from("key")).expect("saved");
        assert_eq!(state.ca_file(), None);
    }

    #[test]
    fn a_damaged_enrollment_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(INSTANCE_FILE), "{").expect("written");
        let state = StateDir::open(folder.path()).expect("open");
        assert_eq!(state.enrollment().expect_err("damaged").code, "enrollment_invalid");
    }

    #[test]
    fn a_key_waits_for_its_own_enrollment() {
        let folder = tempfile::tempdir().expect("a folder");
        let state = StateDir::open(folder.path()).expect("open");
        assert!(state.staged_key("one").expect("none").is_none());
        state.stage_key("one", &Secret::from("key")).expect("kept");
        assert_eq!(state.staged_key("one").expect("read").map(|key| key.expose().to_vec()), Some(b"key".to_vec()));
        assert!(state.staged_key("two").expect("none").is_none(), "another token's key is another one");
        let names: Vec<_> = fs::read_dir(folder.path()).expect("read").map(|entry| entry.expect("one")).collect();
        assert!(names.len() == 1 && !names[0].file_name().to_string_lossy().contains("one"));
        let mode = names[0].metadata().expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        state.unstage_key("one").expect("gone");
        state.unstage_key("one").expect("nothing to do");
        assert!(state.staged_key("one").expect("none").is_none());
    }
}
