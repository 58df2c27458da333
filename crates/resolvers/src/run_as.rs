//! A user of its own for a resolver's process: `run_as`.

use std::fs::{self, Permissions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::Path;

use midward_core::Failure;
use rustix::fs::{Gid, Uid, fchown};
use serde::Deserialize;

use crate::cloud::misconfigured;

const PASSWD: &str = "/etc/passwd";

/// A user's name in `/etc/passwd`. Only a MID that runs as root can change to it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct RunAs(String);

/// A user with its own group, and no other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl RunAs {
    /// Blocks.
    pub(crate) fn user(&self) -> Result<User, Failure> {
        if !rustix::process::geteuid().is_root() {
            return Err(misconfigured("run_as needs a MID that runs as root: no other user can change to another one"));
        }
        let passwd = fs::read_to_string(PASSWD).map_err(|_| misconfigured("run_as: /etc/passwd cannot be read"))?;
        find(&passwd, &self.0).ok_or_else(|| misconfigured("run_as names no user of /etc/passwd, or root"))
    }
}

/// passwd(5): name, password, uid, gid.
fn find(passwd: &str, name: &str) -> Option<User> {
    let mut users = passwd.lines().filter_map(|line| {
        let mut parts = line.split(':');
        let fits = parts.next()? == name;
        let (uid, gid) = (parts.nth(1)?.parse().ok()?, parts.next()?.parse().ok()?);
        fits.then_some(User { uid, gid })
    });
    users.next().filter(|user| user.uid != 0 && user.gid != 0)
}

impl User {
    /// A pipe is opened anew by name (`/proc/self/fd/3`), which asks for its owner.
    pub(crate) fn own(self, pipe: impl AsFd) -> io::Result<()> {
        Ok(fchown(pipe, Some(Uid::from_raw(self.uid)), Some(Gid::from_raw(self.gid)))?)
    }

    /// Makes a folder with the files in it the user's own. Blocks.
    pub(crate) fn own_folder(self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            chown(entry?.path(), Some(self.uid), Some(self.gid))?;
        }
        chown(folder, Some(self.uid), Some(self.gid))
    }

    /// Lets the user's group read a folder of files that stay ours. Blocks.
    pub(crate) fn may_read(self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            chown(&path, None, Some(self.gid))?;
            fs::set_permissions(path, Permissions::from_mode(0o640))?;
        }
        chown(folder, None, Some(self.gid))?;
        fs::set_permissions(folder, Permissions::from_mode(0o750))
    }

    /// Lets everybody pass through a folder of ours, without listing it. Blocks.
    pub(crate) fn may_pass(folder: &Path) -> io::Result<()> {
        fs::set_permissions(folder, Permissions::from_mode(0o711))
    }
}

/// Whether everybody can pass through all the folders above. Blocks.
pub(crate) fn is_open(path: &Path) -> io::Result<bool> {
    for folder in path.ancestors() {
        if fs::metadata(folder)?.mode() & 0o001 == 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_root_is_none() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:5::/:/bin/sh\nmid:x:7:8::/:/bin/sh\nbroken:x\nn:x:y:z\n";
        assert_eq!(find(passwd, "mid"), Some(User { uid: 7, gid: 8 }));
        for none in ["root", "toor", "7", "", "x", "broken", "n", "midd"] {
            assert_eq!(find(passwd, none), None, "{none}");
        }
    }
}
