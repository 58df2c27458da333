//! Types that every part of Midward shares: secrets, clock, randomness, identifiers, back-off, failures.
//!
//! Nothing here does IO (the system clock and the system's random source are the only exceptions, and both are
//! reached through a trait), and nothing here knows an async runtime.

mod backoff;
mod circuit;
mod clock;
mod config_error;
mod failure;
mod id;
mod material;
mod random;
mod rejections;
mod secret;
mod token;

pub use backoff::Backoff;
pub use circuit::{Admission, Circuit, CircuitRules};
pub use clock::{BootTime, Clock, ManualClock, SystemClock, WallTime};
pub use config_error::config_error;
pub use failure::{Failure, Hop, HopTiming, Persistence, Trace};
pub use id::{InvalidName, check_name, new_id};
pub use material::{ClientMaterial, Fingerprint, FingerprintKey, MaterialField};
pub use random::{Random, SeededRandom, SystemRandom};
pub use rejections::Rejections;
pub use secret::{AccessToken, Secret};
pub use token::{
    Arrival, Demand, InvalidTransition, Minted, Retry, Tick, TokenLife, TokenRules, TokenTimes, Trouble, WallLead,
};
