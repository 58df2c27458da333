//! What a resolver's section says of control groups, and what comes of it on this host.

use std::path::PathBuf;

use midward_core::{Failure, Hop};
use serde::Deserialize;

use super::{Group, Limits, open};

/// Threads and processes of one group, unless the configuration says otherwise.
const TASKS: u32 = 512;

/// Where the groups are made, and whether they must be there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub enum CgroupMode {
    /// Below the MID's own group, as far as it may; what is missing shows in the resolver's report.
    #[default]
    Auto,
    /// Below the MID's own group with all controllers, or the resolver is unusable.
    Required,
    Off,
    /// Below this group, which was handed to the MID's user, with all controllers.
    Below(PathBuf),
}

impl TryFrom<String> for CgroupMode {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        match text.as_str() {
            "auto" => Ok(Self::Auto),
            "required" => Ok(Self::Required),
            "off" => Ok(Self::Off),
            path if path.starts_with('/') => Ok(Self::Below(text.into())),
            _ => Err("`cgroup` is neither auto, required, off nor an absolute path"),
        }
    }
}

/// One resolver's control groups.
#[derive(Clone, Debug)]
pub(crate) struct ControlGroups {
    mode: CgroupMode,
    pub(crate) limits: Limits,
}

impl ControlGroups {
    /// With room for `threads` at least, unless `pids` says how many.
    pub(crate) fn new(mode: CgroupMode, memory_mib: u64, pids: Option<u32>, threads: u16) -> Self {
        let pids = pids.unwrap_or_else(|| TASKS.max(128 + 4 * u32::from(threads)));
        Self { mode, limits: Limits { memory_mib, pids } }
    }

    /// Whether a process may be started, and what its group will lack. Blocks.
    pub(crate) fn check(&self) -> Result<Option<String>, Failure> {
        let shortage = match open(&self.mode) {
            Ok(base) => base.and_then(|base| base.shortage()),
            Err(lack) => Some(format!("there is no control group: {lack}")),
        };
        match shortage {
            Some(why) if self.is_strict() => Err(refused(&why)),
            shortage => Ok(shortage),
        }
    }

    /// A group for one process. Where there is none and need not be, the log says so. Blocks.
    pub(crate) fn make(&self) -> Result<Option<Group>, Failure> {
        let made = match open(&self.mode) {
            Ok(None) => return Ok(None),
            Ok(Some(base)) => Group::make(&base, self.limits).map_err(|error| format!("it cannot be made ({error})")),
            Err(lack) => Err(lack.to_string()),
        };
        match made {
            Ok(group) => Ok(Some(group)),
            Err(why) if self.is_strict() => Err(refused(&format!("there is no control group: {why}"))),
            Err(why) => {
                tracing::debug!("a resolver's process gets no control group: {why}");
                Ok(None)
            }
        }
    }

    /// Whether the process may not run outside of its group.
    pub(crate) const fn is_strict(&self) -> bool {
        matches!(self.mode, CgroupMode::Required | CgroupMode::Below(_))
    }
}

fn refused(why: &str) -> Failure {
    Failure::permanent(
        Hop::Resolver,
        "sandbox_unavailable",
        format!("the resolver's process cannot be isolated: {why}"),
        "Hand the MID a control group with the controllers memory and pids (systemd: Delegate=yes), or set the resolver's \
         `cgroup` to \"auto\".",
    )
}

/// A process, or what it started, was ended because its group's memory was used up.
pub(crate) fn over_memory(limits: Limits) -> Failure {
    Failure::transient(
        Hop::Resolver,
        "resolver_over_memory",
        format!(
            "the kernel ended the resolver's process: with all that it started it used its {} MiB",
            limits.memory_mib
        ),
        "Raise the resolver's memory_max_mib if it really needs more.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mode_is_a_word_or_a_path() {
        let read = |text: &str| CgroupMode::try_from(text.to_owned());
        assert_eq!(read("auto"), Ok(CgroupMode::Auto));
        assert_eq!(read("required"), Ok(CgroupMode::Required));
        assert_eq!(read("off"), Ok(CgroupMode::Off));
        assert_eq!(read("/a/b"), Ok(CgroupMode::Below("/a/b".into())));
        for bad in ["on", "a/b", "", "Off"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn there_is_room_for_every_call_at_once() {
        let pids = |set, threads| ControlGroups::new(CgroupMode::Auto, 1, set, threads).limits.pids;
        assert_eq!((pids(None, 64), pids(None, 1000), pids(Some(7), 64)), (512, 4128, 7));
    }
}
