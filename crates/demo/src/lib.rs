//! A whole Midward on loopback, for the demo, the benchmarks and the end-to-end tests. Development only.

pub mod process;
pub mod stack;
