//! Opens a credential's files and never leaves its folder, whatever links lie there. Blocks.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use midward_core::{ClientMaterial, Failure, Hop, MaterialField, Secret};
use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat, openat2};
use rustix::io::Errno;

use crate::fields::ALL;

/// Most bytes of one file.
const MAX_LEN: u64 = 64 * 1024;
/// The kernel asks to try again when something is renamed just then (openat2(2)).
const TRIES: u32 = 100;
/// What the kubelet points at the version in force of a mounted secret.
const KUBERNETES_VERSION: &str = "..data";

/// How a field's file is named below the folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// `CREDENTIAL_ID/FIELD`.
    Folders,
    /// `CREDENTIAL_ID_FIELD`.
    Flat,
}

/// All fields that there are.
pub(super) fn read(dir: &Path, layout: Layout, id: &str) -> Result<ClientMaterial, Failure> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = openat(CWD, dir, folder, Mode::empty()).map_err(unreachable)?;
    let (folder, prefix) = match layout {
        Layout::Flat => (root, format!("{id}_")),
        Layout::Folders => {
            let own = beneath(&root, id, folder)?.ok_or_else(|| not_found("there is no folder of its name"))?;
            // All fields from one version, although another may come meanwhile.
            (beneath(&own, KUBERNETES_VERSION, folder)?.unwrap_or(own), String::new())
        }
    };
    let mut material = ClientMaterial::new();
    let mut any = false;
    for field in ALL {
        let Some(value) = read_file(&folder, &format!("{prefix}{}", field.name()), field)? else { continue };
        any = true;
        material = material.with(field, value);
    }
    if any { Ok(material) } else { Err(not_found("there is none of its files")) }
}

fn read_file(folder: &OwnedFd, name: &str, field: MaterialField) -> Result<Option<Secret>, Failure> {
    // Not blocking: whatever lies there, a pipe too, is looked at before it is read.
    let Some(file) = beneath(folder, name, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC)? else {
        return Ok(None);
    };
    let file = File::from(file);
    let unread = |error: io::Error| unusable(field, &format!("it cannot be read: {}", error.kind()));
    let metadata = file.metadata().map_err(unread)?;
    if !metadata.is_file() {
        return Err(unusable(field, "it is no file"));
    }
    if let Some(why) = exposed(metadata.mode(), metadata.uid(), rustix::process::geteuid().as_raw()) {
        return Err(unusable(field, why));
    }
    // Enough room from the start, so that no unwiped copy is left behind by growing.
    let mut bytes = Vec::with_capacity(usize::try_from(metadata.len().min(MAX_LEN)).unwrap_or(0) + 2);
    file.take(MAX_LEN + 1).read_to_end(&mut bytes).map_err(unread)?;
    if bytes.last() == Some(&b'\n') {
        bytes.pop();
        if bytes.last() == Some(&b'\r') {
            bytes.pop();
        }
    }
    let (secret, longest) = (Secret::new(bytes), usize::try_from(MAX_LEN).unwrap_or(usize::MAX));
    if secret.len() > longest {
        return Err(unusable(field, "it is longer than 64 KiB"));
    }
    Ok(Some(secret))
}

/// Opens `name` without ever leaving `folder`; `None` when there is no such thing.
fn beneath(folder: impl AsFd, name: &str, flags: OFlags) -> Result<Option<OwnedFd>, Failure> {
    let inside = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    for _ in 0..TRIES {
        match openat2(folder.as_fd(), name, flags, Mode::empty(), inside) {
            Ok(opened) => return Ok(Some(opened)),
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
            Err(Errno::AGAIN | Errno::INTR) => {}
            Err(Errno::XDEV | Errno::LOOP) => {
                return Err(refused("a link in it leads out of the credential's folder"));
            }
            Err(Errno::ACCESS | Errno::PERM) => {
                let who = "the MID's user may not read the credential's files";
                let action = "Let the MID's user, and nobody else, read the folder and its files.";
                return Err(Failure::permanent(Hop::Vault, "vault_denied", who, action));
            }
            Err(error) => return Err(unreachable(error)),
        }
    }
    Err(unreachable(Errno::AGAIN))
}

/// Why others can read or change the file. Root's files may be readable for a group: that is how Kubernetes (`fsGroup`) and
/// systemd (an access control list, whose mask stands in the group's place) hand them to a service.
fn exposed(mode: u32, owner: u32, ours: u32) -> Option<&'static str> {
    let from_root = owner == 0 && ours != 0;
    match () {
        () if owner != 0 && owner != ours => Some("it belongs to another user"),
        () if mode & 0o022 != 0 => Some("others can change it; chmod 600 it"),
        () if mode & 0o007 != 0 => {
            Some("others can read it; chmod 600 it (in Kubernetes: defaultMode 0400, or 0440 with fsGroup)")
        }
        () if mode & 0o070 != 0 && !from_root => Some("its group can read it; chmod 600 it"),
        () => None,
    }
}

fn unusable(field: MaterialField, why: &str) -> Failure {
    refused(&format!("the file {} is not used: {why}", field.name()))
}

fn refused(why: &str) -> Failure {
    Failure::permanent(
        Hop::Vault,
        "secret_file_refused",
        format!("the credential's files are refused: {why}"),
        "Let the files belong to root or the MID's user, readable for nobody else, inside the credential's own folder.",
    )
}

fn not_found(why: &str) -> Failure {
    Failure::permanent(
        Hop::Vault,
        "vault_not_found",
        format!("the credential has no files: {why}"),
        "Check the credential identifier against the names in the resolver's folder.",
    )
}

fn unreachable(error: Errno) -> Failure {
    Failure::transient(
        Hop::Vault,
        "vault_unreachable",
        format!("the folder of the credentials cannot be opened: {}", io::Error::from(error).kind()),
        "Check that the folder is mounted and that the MID's user may enter it.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_its_owner_may_read_a_file_and_root_may_name_a_group() {
        for (mode, owner, ours, fine) in [
            (0o400, 7, 7, true),
            (0o600, 7, 7, true),
            (0o440, 0, 7, true),
            (0o640, 0, 7, true),
            (0o600, 0, 0, true),
            (0o440, 7, 7, false),
            (0o440, 0, 0, false),
            (0o444, 0, 7, false),
            (0o644, 0, 7, false),
            (0o604, 7, 7, false),
            (0o620, 0, 7, false),
            (0o602, 7, 7, false),
            (0o400, 8, 7, false),
        ] {
            assert_eq!(exposed(mode, owner, ours).is_none(), fine, "{mode:o} of {owner} for {ours}");
        }
    }
}
