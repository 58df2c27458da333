//! Control groups (version 2; `Documentation/admin-guide/cgroup-v2.rst` of Linux): one for each process of a resolver, in
//! which the process is before any code of others runs, and which ends all that it started, also what left its session
//! and its process group.

mod base;
mod group;
mod owner;
mod settings;

pub use base::{Base, Lack, open};
pub(crate) use group::{Group, HeldGroup, Limits, enter};
pub use settings::CgroupMode;
pub(crate) use settings::{ControlGroups, over_memory};
