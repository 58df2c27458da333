//! What a resolver's vault is asked for, whichever adapter asks: how many look-ups at once and a second, for how long,
//! and when it is left alone.

mod circuit;
mod limited;
mod pace;

pub(crate) use limited::Limited;
