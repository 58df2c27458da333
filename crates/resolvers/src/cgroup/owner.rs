//! Whose groups are whose: the MID's own group, and the names of those that it makes.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

const PREFIX: &str = "midward";

/// One process, told from all others that had or will have its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    /// Numbers of processes mean something within one namespace only.
    namespace: u64,
    pid: u32,
    /// When it started, in ticks after boot.
    started: u64,
}

impl Owner {
    pub(super) fn this_process() -> Option<Self> {
        let pid = std::process::id();
        Some(Self { namespace: namespace()?, pid, started: started(pid)? })
    }

    /// The name of its group with that number.
    pub(super) fn name(self, number: u64) -> String {
        format!("{PREFIX}-{}-{}-{}-{number}", self.namespace, self.pid, self.started)
    }

    /// Reads [`Self::name`].
    pub(super) fn of(name: &str) -> Option<Self> {
        let mut parts = name.split('-');
        let fits = parts.next()? == PREFIX;
        let owner = Self {
            namespace: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
            started: parts.next()?.parse().ok()?,
        };
        let _number: u64 = parts.next()?.parse().ok()?;
        (fits && parts.next().is_none()).then_some(owner)
    }

    /// Whether it is known to have ended.
    pub(super) fn is_gone(self) -> bool {
        namespace() == Some(self.namespace) && started(self.pid) != Some(self.started)
    }
}

/// Whether `pid` is this process, or one that it started.
pub(super) fn is_ours(pid: u32) -> bool {
    let mut next = Some(pid);
    while let Some(pid) = next.filter(|pid| *pid > 1) {
        if pid == std::process::id() {
            return true;
        }
        next = stat(pid).and_then(|stat| stat.split(' ').nth(1)?.parse().ok());
    }
    pid == std::process::id()
}

/// This process's own group, as a folder.
pub(super) fn own_group() -> Option<PathBuf> {
    let read = |name: &str| fs::read(Path::new("/proc/self").join(name)).ok();
    find(&read("cgroup")?, &read("mountinfo")?)
}

/// cgroups(7): the line of version 2 begins with `0::`. proc_pid_mountinfo(5): the fourth field is the root of the mount
/// within its file system, the fifth where it is mounted.
fn find(cgroup: &[u8], mountinfo: &[u8]) -> Option<PathBuf> {
    let group = cgroup.split(|b| *b == b'\n').find_map(|line| line.strip_prefix(b"0::"))?;
    let group = Path::new(OsStr::from_bytes(group));
    // Out of this namespace's sight.
    if group.components().any(|part| part == Component::ParentDir) {
        return None;
    }
    mountinfo.split(|b| *b == b'\n').find_map(|line| {
        let mut fields = line.split(|b| *b == b' ');
        let (root, place) = (fields.nth(3)?, fields.next()?);
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
        let below = group.strip_prefix(unescaped(root)).ok()?;
        (kind == b"cgroup2").then(|| unescaped(place).join(below))
    })
}

/// A space is `\040` there, and so on.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, behind)) = rest.split_first() {
        let octal = behind.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = &behind[3..];
        } else {
            bytes.push(*first);
            rest = behind;
        }
    }
    PathBuf::from(OsStr::from_bytes(&bytes))
}

fn namespace() -> Option<u64> {
    let link = fs::read_link("/proc/self/ns/pid").ok()?;
    link.to_str()?.strip_prefix("pid:[")?.strip_suffix(']')?.parse().ok()
}

fn started(pid: u32) -> Option<u64> {
    // proc_pid_stat(5): field 22; the first here is field 3.
    stat(pid)?.split(' ').nth(19)?.parse().ok()
}

/// What follows the name, which may hold anything.
fn stat(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(stat.rsplit_once(") ")?.1.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_own_group_is_found_below_its_mount() {
        let hybrid = "31 30 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n\
                      32 30 0:28 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n";
        let find = |cgroup: &str, mounts: &str| find(cgroup.as_bytes(), mounts.as_bytes());
        assert_eq!(find("8:pids:/x\n0::/\n", hybrid), Some("/sys/fs/cgroup/unified".into()));
        let service = "0::/system.slice/midward-mid.service\n";
        assert_eq!(find(service, hybrid), Some("/sys/fs/cgroup/unified/system.slice/midward-mid.service".into()));
        let part = "29 23 0:26 /system.slice /a\\040b\\134c rw shared:4 master:1 - cgroup2 cgroup rw,nsdelegate\n";
        assert_eq!(find(service, part), Some("/a b\\c/midward-mid.service".into()));
        assert_eq!(find("0::/user.slice/x\n", part), None, "not below what is mounted");
        assert_eq!(find("0::/../other\n", hybrid), None);
        assert_eq!(find("8:pids:/\n", hybrid), None, "version 1 only");
        assert_eq!(find("0::/\n", "31 30 0:27 / /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\nx"), None);
    }

    #[test]
    fn a_name_tells_a_live_owner_from_one_that_is_gone() {
        let own = Owner::this_process().expect("known");
        assert_eq!(Owner::of(&own.name(7)), Some(own));
        assert!(!own.is_gone());
        assert!(Owner { started: own.started + 1, ..own }.is_gone(), "the number is another's by now");
        assert!(Owner { pid: 0, ..own }.is_gone());
        assert!(!Owner { namespace: 1, pid: 0, ..own }.is_gone(), "who knows");
        for other in ["midward", "midward-1-2-3", "midward-1-2-3-4-5", "midward-1-2-x-4", "other-1-2-3-4", ""] {
            assert_eq!(Owner::of(other), None, "{other}");
        }
    }

    #[test]
    fn children_are_ours_and_nobody_else() {
        assert!(is_ours(std::process::id()));
        assert!(!is_ours(1) && !is_ours(0));
        assert!(!is_ours(std::os::unix::process::parent_id()));
    }
}
