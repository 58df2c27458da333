//! A short memory for secrets, where a resolver's section asks for one.

mod cached;
mod locked;

pub(crate) use cached::Cached;
