//! The JAR in use: a private copy, named by its content, so that a file replaced under a running JVM harms nothing.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

/// Largest JAR, in bytes.
const MAX_JAR_LEN: u64 = 256 * 1024 * 1024;
const MAX_LIBRARIES: usize = 256;

/// What a JAR and its libraries are together: SHA-256, as 64 lower-case hexadecimal digits, over the SHA-256 (32 bytes
/// each) of the JAR and then of each library, in the order of the bytes of their file names. Names do not count.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct JarDigest(String);

/// Text that is no digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest of a JAR has 64 lower-case hexadecimal digits; `midward-mid jar hash` computes it")]
pub struct InvalidJarDigest;

impl TryFrom<String> for JarDigest {
    type Error = InvalidJarDigest;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let legal = text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if legal { Ok(Self(text)) } else { Err(InvalidJarDigest) }
    }
}

impl JarDigest {
    /// Of a JAR and what would join its class path: `lib_dir`, by default `lib/` beside the JAR, when there is one.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// When a file cannot be read.
    pub fn of(jar: &Path, lib_dir: Option<&Path>) -> io::Result<Self> {
        let state_dir = PathBuf::new();
        let store = JarStore { jar: jar.to_owned(), lib_dir: lib_dir.map(Path::to_owned), state_dir };
        digest_of(&store.sources()?).map(Self)
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Where the customer's files are, and where copies go.
#[derive(Clone, Debug)]
pub(super) struct JarStore {
    pub(super) jar: PathBuf,
    pub(super) lib_dir: Option<PathBuf>,
    pub(super) state_dir: PathBuf,
}

/// What the customer's files looked like: paths, sizes, inodes and times. Equal marks mean nothing was replaced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mark(Vec<(PathBuf, u64, u64, i64, i64)>);

/// A private copy of the JAR and its libraries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Staged {
    pub(super) folder: PathBuf,
    pub(super) jar: PathBuf,
    pub(super) libraries: Vec<PathBuf>,
    /// SHA-256 over all, in hexadecimal.
    pub(super) digest: String,
}

impl JarStore {
    /// Looks at the files without reading them. Blocks.
    pub(super) fn mark(&self) -> io::Result<Mark> {
        self.sources()?
            .into_iter()
            .map(|path| {
                let meta = fs::metadata(&path)?;
                if !meta.is_file() {
                    return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
                }
                Ok((path, meta.len(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
            })
            .collect::<io::Result<_>>()
            .map(Mark)
    }

    /// Copies the files into the folder that their content names. What is hashed is the copy, so that a file which
    /// changes meanwhile cannot end up under a wrong name. Blocks.
    pub(super) fn stage(&self) -> io::Result<Staged> {
        let jars = self.state_dir.join("jars");
        DirBuilder::new().recursive(true).mode(0o700).create(&jars)?;
        let sources = self.sources()?;
        let (temporary, digest) = fresh_folder(&jars).and_then(|folder| {
            let copied = copy_all(&sources, &folder);
            if copied.is_err() {
                fs::remove_dir_all(&folder)?;
            }
            Ok((folder, copied?))
        })?;
        let folder = jars.join(&digest);
        let names: Vec<_> = (0..sources.len()).map(|index| folder.join(copy_name(index))).collect();
        if digest_of(&names).is_ok_and(|known| known == digest) {
            // Copied before. A running JVM may still read it, so it stays untouched.
            fs::remove_dir_all(&temporary)?;
        } else {
            if folder.exists() {
                fs::remove_dir_all(&folder)?;
            }
            fs::rename(&temporary, &folder)?;
        }
        let mut names = names.into_iter();
        let jar = names.next().unwrap_or_default();
        Ok(Staged { jar, libraries: names.collect(), folder, digest })
    }

    /// Removes all copies but those of these digests. Blocks.
    pub(super) fn prune(&self, keep: &[String]) -> io::Result<()> {
        for entry in fs::read_dir(self.state_dir.join("jars"))? {
            let entry = entry?;
            if !keep.iter().any(|digest| entry.file_name() == digest.as_str()) {
                fs::remove_dir_all(entry.path())?;
            }
        }
        Ok(())
    }

    /// The JAR, then its libraries in the order of their names.
    fn sources(&self) -> io::Result<Vec<PathBuf>> {
        let beside = self.jar.parent().map(|parent| parent.join("lib"));
        let lib_dir = self.lib_dir.clone().or_else(|| beside.filter(|lib| lib.is_dir()));
        let mut libraries = Vec::new();
        if let Some(lib_dir) = lib_dir {
            for entry in fs::read_dir(lib_dir)? {
                let path = entry?.path();
                if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("jar")) {
                    libraries.push(path);
                }
            }
        }
        if libraries.len() > MAX_LIBRARIES {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "more than 256 libraries"));
        }
        libraries.sort();
        Ok(std::iter::once(self.jar.clone()).chain(libraries).collect())
    }
}

fn fresh_folder(parent: &Path) -> io::Result<PathBuf> {
    let mut number = 0_u32;
    loop {
        let folder = parent.join(format!(".new-{}-{number}", std::process::id()));
        match DirBuilder::new().mode(0o700).create(&folder) {
            Err(taken) if taken.kind() == io::ErrorKind::AlreadyExists && number < 10_000 => number += 1,
            made => return made.map(|()| folder),
        }
    }
}

fn copy_all(sources: &[PathBuf], folder: &Path) -> io::Result<String> {
    let copies: Vec<_> = (0..sources.len()).map(|index| folder.join(copy_name(index))).collect();
    for (source, copy) in sources.iter().zip(&copies) {
        let copied = io::copy(&mut File::open(source)?.take(MAX_JAR_LEN + 1), &mut File::create_new(copy)?)?;
        if copied > MAX_JAR_LEN {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "a JAR of more than 256 MiB"));
        }
    }
    digest_of(&copies)
}

/// As [`JarDigest`] tells.
fn digest_of(files: &[PathBuf]) -> io::Result<String> {
    let mut all = Sha256::new();
    for file in files {
        let mut one = Sha256::new();
        let mut from = File::open(file)?;
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match from.read(&mut buffer)? {
                0 => break,
                read => one.update(&buffer[..read]),
            }
        }
        all.update(one.finalize());
    }
    let mut digest = String::with_capacity(64);
    for byte in all.finalize() {
        let _ = write!(digest, "{byte:02x}");
    }
    Ok(digest)
}

fn copy_name(index: usize) -> String {
    index.checked_sub(1).map_or_else(|| "resolver.jar".to_owned(), |library| format!("lib-{library:03}.jar"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_named_by_jar_and_libraries_together() {
        let folder = tempfile::tempdir().expect("folder");
        let jar = folder.path().join("a.jar");
        let lib = folder.path().join("lib");
        fs::create_dir(&lib).expect("lib");
        fs::write(&jar, "one").expect("jar");
        fs::write(lib.join("b.jar"), "two").expect("library");
        let store = JarStore { jar: jar.clone(), lib_dir: None, state_dir: folder.path().join("state") };
        let mark = store.mark().expect("mark");
        let first = store.stage().expect("staged");
        assert_eq!(store.stage().expect("staged again"), first);
        assert_eq!(JarDigest::of(&jar, None).expect("read").as_str(), first.digest);
        // From: printf one | sha256sum; printf two | sha256sum; both as bytes | sha256sum
        assert_eq!(first.digest, "11914c19a28a98c57d12f3cce6c32b7944784f4b4781a706c24eb1dc284e2856");
        assert_eq!(fs::read(&first.libraries[0]).expect("copied"), b"two");

        fs::write(lib.join("b.jar"), "changed").expect("library");
        assert_ne!(store.mark().expect("mark"), mark);
        let second = store.stage().expect("staged");
        assert_ne!(second.digest, first.digest);
        assert_eq!(fs::read(&first.libraries[0]).expect("the old copy stays"), b"two");
        let left: Vec<_> = fs::read_dir(folder.path().join("state/jars")).expect("list").collect();
        assert_eq!(left.len(), 2, "no temporary folder is left: {left:?}");

        fs::write(&second.jar, "damaged").expect("written");
        assert_eq!(store.stage().expect("copied again"), second);
        assert_eq!(fs::read(&second.jar).expect("whole"), b"one");
        store.prune(std::slice::from_ref(&second.digest)).expect("pruned");
        assert!(!first.folder.exists() && second.folder.exists());
    }

    #[test]
    fn a_missing_jar_is_an_error() {
        let folder = tempfile::tempdir().expect("folder");
        let store = JarStore { jar: folder.path().join("no.jar"), lib_dir: None, state_dir: folder.path().into() };
        assert_eq!(store.mark().expect_err("missing").kind(), io::ErrorKind::NotFound);
    }
}
