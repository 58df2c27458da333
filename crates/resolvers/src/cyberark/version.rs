//! Whether CyberArk's `JavaPasswordSDK.jar` is that of the AIM client which is installed.
//!
//! The JAR says its version in its manifest (`Implementation-Version`). The AIM client has no command for it: its
//! version is that of its package, `CARKaim-14.02.4.3.x86_64.rpm` or `.deb`, which the package manager knows.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::config::AimVersion;

/// Where packages are listed.
#[derive(Clone, Debug)]
pub(crate) struct VersionCheck {
    wanted: AimVersion,
    dpkg_status: PathBuf,
    rpm: PathBuf,
}

/// What came of a comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The same, or nothing to compare.
    Fits,
    /// Another one than the configuration says: not to be used.
    Refused(String),
    /// Another one than is installed.
    Doubtful(String),
}

impl VersionCheck {
    pub(crate) fn new(wanted: &AimVersion) -> Self {
        Self { wanted: wanted.clone(), dpkg_status: "/var/lib/dpkg/status".into(), rpm: "/usr/bin/rpm".into() }
    }

    /// Reads files and may run `rpm`: blocks.
    pub(crate) fn judge(&self, jar: Option<&str>) -> Verdict {
        let Some(jar) = jar.filter(|jar| !numbers(jar).is_empty()) else { return Verdict::Fits };
        match &self.wanted {
            AimVersion::Any => Verdict::Fits,
            AimVersion::Exactly(wanted) if agree(jar, wanted, usize::MAX) => Verdict::Fits,
            AimVersion::Exactly(wanted) => {
                Verdict::Refused(format!("it is version {jar}, and `aim_version` says {}", shown(wanted)))
            }
            // Builds of one release may differ, and are not known to do harm.
            AimVersion::Installed => match self.installed() {
                Some(installed) if !agree(jar, &installed, 2) => Verdict::Doubtful(format!(
                    "JavaPasswordSDK.jar is version {jar}, and the AIM client that is installed is {installed}: use the JAR \
                     from its installation folder, or say what is right with `aim_version`"
                )),
                _ => Verdict::Fits,
            },
        }
    }

    fn installed(&self) -> Option<String> {
        self.dpkg_version()
            .or_else(|| self.rpm_version())
            .filter(|version| !numbers(version).is_empty())
            .map(|v| shown(&v))
    }

    fn dpkg_version(&self) -> Option<String> {
        let status = std::fs::read_to_string(&self.dpkg_status).ok()?;
        let field = |package: &str, name: &str| {
            package.lines().find_map(|line| Some(line.strip_prefix(name)?.strip_prefix(": ")?.to_owned()))
        };
        let aim = status.split("\n\n").find(|package| {
            field(package, "Package").is_some_and(|name| name.eq_ignore_ascii_case("CARKaim"))
                && field(package, "Status").is_some_and(|status| status.ends_with(" installed"))
        })?;
        field(aim, "Version")
    }

    fn rpm_version(&self) -> Option<String> {
        if !Path::new(&self.rpm).exists() {
            return None;
        }
        let output = Command::new(&self.rpm)
            .args(["-q", "--queryformat", "%{VERSION}-%{RELEASE}", "CARKaim"])
            .env_clear()
            .env("LC_ALL", "C")
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
            .ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Whether the first numbers are the same: as many as both have, at most `most`. `14.02` is `14.2`.
fn agree(one: &str, two: &str, most: usize) -> bool {
    let (one, two) = (numbers(one), numbers(two));
    let count = one.len().min(two.len()).min(most);
    count > 0 && one[..count] == two[..count]
}

fn numbers(version: &str) -> Vec<u64> {
    let parts = version.split(|c: char| !c.is_ascii_digit()).filter(|part| !part.is_empty());
    parts.map_while(|part| part.parse().ok()).take(4).collect()
}

/// Only what looks like a version.
fn shown(version: &str) -> String {
    version.chars().filter(|c| c.is_ascii_alphanumeric() || ".-_+ ".contains(*c)).take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Package: bash\nStatus: install ok installed\nVersion: 5.2\n\n\
                          Package: carkaim\nStatus: install ok installed\nVersion: 14.02.4.3\n\nPackage: zlib\nVersion: 1\n";

    fn check(folder: &Path, wanted: &str, status: &str, rpm: Option<&str>) -> VersionCheck {
        use std::os::unix::fs::PermissionsExt as _;
        let (dpkg_status, program) = (folder.join("status"), folder.join("rpm"));
        std::fs::write(&dpkg_status, status).expect("written");
        if let Some(version) = rpm {
            std::fs::write(&program, format!("#!/bin/sh\nprintf '%s' '{version}'\n")).expect("written");
            std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("mode");
        }
        VersionCheck { wanted: AimVersion::from(wanted.to_owned()), dpkg_status, rpm: program }
    }

    #[test]
    fn the_installed_package_is_compared_by_release() {
        let folder = tempfile::tempdir().expect("folder");
        let deb = check(folder.path(), "installed", STATUS, None);
        for jar in ["14.2", "14.02.4.3", "14.2.9.1", "v14.2 build 7"] {
            assert_eq!(deb.judge(Some(jar)), Verdict::Fits, "{jar}");
        }
        assert!(
            matches!(deb.judge(Some("12.1.0.5")), Verdict::Doubtful(why) if why.contains("12.1.0.5") && why.contains("14.02.4.3"))
        );
        for unknown in [None, Some(""), Some("SNAPSHOT")] {
            assert_eq!(deb.judge(unknown), Verdict::Fits);
        }
        let removed = check(
            folder.path(),
            "installed",
            &STATUS.replace("install ok installed\nVersion: 14", "deinstall ok config-files\nVersion: 14"),
            None,
        );
        assert_eq!(removed.judge(Some("12.1")), Verdict::Fits, "nothing is installed");
    }

    #[test]
    fn rpm_is_asked_where_there_is_one() {
        let folder = tempfile::tempdir().expect("folder");
        let rpm = check(folder.path(), "installed", "", Some("9.80-0.85"));
        assert_eq!(rpm.judge(Some("9.80.0.85")), Verdict::Fits);
        assert!(matches!(rpm.judge(Some("12.1")), Verdict::Doubtful(why) if why.contains("9.80-0.85")));
    }

    #[test]
    fn a_version_that_is_written_down_must_be_met() {
        let folder = tempfile::tempdir().expect("folder");
        let fixed = check(folder.path(), "14.2", STATUS, None);
        assert_eq!(fixed.judge(Some("14.02.4.3")), Verdict::Fits);
        assert!(
            matches!(fixed.judge(Some("14.1")), Verdict::Refused(why) if why.contains("14.1") && why.contains("14.2"))
        );
        assert_eq!(check(folder.path(), "any", STATUS, None).judge(Some("1.0")), Verdict::Fits);
    }
}
