//! The life cycle of one cached token: an enum whose variants carry their times. Pure: no IO, no lock, no timer; the
//! cache drives it with the boot clock and runs the fetches that it asks for.

use std::sync::Arc;
use std::time::Duration;

use crate::{BootTime, Failure, Random, WallTime};

/// The times that shape a token's life.
#[derive(Clone, Debug, PartialEq)]
pub struct TokenRules {
    /// A token is refreshed at a random point of its lifetime between these two fractions: never at a constant margin,
    /// which would be all of a short lifetime.
    pub refresh_from: f64,
    pub refresh_to: f64,
    /// Shortest time between the starts of two fetches.
    pub spacing: Duration,
    /// First and longest wait after transient failures.
    pub backoff_initial: Duration,
    pub backoff_max: Duration,
    /// First and longest time for which a permanent failure is shared before somebody may try again.
    pub permanent_initial: Duration,
    pub permanent_max: Duration,
    /// Bounds of a wait that the server asked for.
    pub retry_after_min: Duration,
    pub retry_after_max: Duration,
    /// The wall clock jumped when it moved forward by more than this against the boot clock.
    pub wall_jump: Duration,
    /// For how long after its last use a missing token is still tried for in the background.
    pub interest: Duration,
}

impl Default for TokenRules {
    fn default() -> Self {
        Self {
            refresh_from: 0.70,
            refresh_to: 0.85,
            spacing: Duration::from_secs(1),
            backoff_initial: Duration::from_secs(1),
            backoff_max: Duration::from_secs(30),
            permanent_initial: Duration::from_secs(5),
            permanent_max: Duration::from_mins(2),
            retry_after_min: Duration::from_secs(1),
            retry_after_max: Duration::from_mins(5),
            wall_jump: Duration::from_mins(1),
            interest: Duration::from_mins(5),
        }
    }
}

/// When a failed fetch may be repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Exponential back-off with jitter.
    Backoff,
    /// The server said how long (`Retry-After`); clamped.
    After(Duration),
    /// Nothing but a change helps: tried after a growing pause, in the background only while an old token is good.
    OnDemand,
    /// The circuit is open; look again after this time.
    Probe(Duration),
}

/// The wall clock's lead over the boot clock, in milliseconds. Grows when the wall clock jumps forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WallLead(i64);

impl WallLead {
    pub fn of(boot: BootTime, wall: WallTime) -> Self {
        let boot = i64::try_from(boot.as_nanos() / 1_000_000).unwrap_or(i64::MAX);
        Self(wall.unix_millis().saturating_sub(boot))
    }

    /// Whether the wall clock jumped forward between `earlier` and `self`, as after a resumed snapshot.
    pub fn jumped_since(self, earlier: Self, rules: &TokenRules) -> bool {
        let threshold = i64::try_from(rules.wall_jump.as_millis()).unwrap_or(i64::MAX);
        self.0.saturating_sub(earlier.0) > threshold
    }
}

/// The times of a token that is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenTimes {
    /// When the fetch began that brought it.
    pub started: BootTime,
    /// When the token request was sent: the lifetime counts from here (RFC 6749 5.1).
    pub requested: BootTime,
    /// No use from here on.
    pub expires: BootTime,
    /// When to try for a new one.
    pub refresh_at: BootTime,
    pub lead: WallLead,
}

impl TokenTimes {
    pub fn lifetime(&self) -> Duration {
        self.expires.saturating_since(self.requested)
    }
}

/// The last failure, and how many came in a row.
#[derive(Clone, Debug)]
pub struct Trouble {
    pub failure: Arc<Failure>,
    pub failed_at: BootTime,
    pub failures: u32,
    pub retry: Retry,
}

/// A token that a fetch brought.
#[derive(Clone, Debug)]
pub struct Minted<T> {
    pub token: T,
    /// When the token request was sent.
    pub requested: BootTime,
    /// Zero: good for those who wait, and not kept.
    pub lifetime: Duration,
    pub lead: WallLead,
}

/// Where one token is in its life.
#[derive(Clone, Debug)]
pub enum TokenLife<T> {
    /// No token, no failure; a fetch may begin at `earliest`.
    Missing {
        earliest: BootTime,
    },
    /// Somebody waits, and the fetch begins at `start_at` (minimum spacing).
    Due {
        start_at: BootTime,
    },
    /// The one fetch runs. `keep` is false when the cache was flushed meanwhile: what comes serves those who wait.
    Fetching {
        started: BootTime,
        keep: bool,
        trouble: Option<Box<Trouble>>,
    },
    Valid {
        token: T,
        times: TokenTimes,
        trouble: Option<Box<Trouble>>,
    },
    /// The one fetch runs while the old token is served until its end.
    Refreshing {
        token: T,
        times: TokenTimes,
        started: BootTime,
        trouble: Option<Box<Trouble>>,
    },
    /// The last fetch failed; everybody gets that failure until `retry_at`.
    Failed {
        trouble: Box<Trouble>,
        retry_at: BootTime,
    },
}

/// What a caller who needs a token does.
#[derive(Clone, Debug)]
pub enum Demand<T> {
    Use(T),
    /// Use it, and start the one fetch.
    UseAndFetch(T),
    /// Start the one fetch, and wait for it.
    Fetch,
    /// Wait for the fetch that runs.
    Join,
    /// Wait for a fetch that begins then.
    JoinAt(BootTime),
    Refuse(Arc<Failure>),
}

/// What a timer does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tick {
    /// Start the one fetch.
    Fetch,
    /// Come back then.
    WakeAt(BootTime),
    /// Nothing to do until somebody asks.
    Idle,
}

/// What became of a token that a fetch brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    Kept,
    /// Good for those who wait, not kept.
    ServedOnce,
    /// Its lifetime was over when it came: nobody gets it. Report a failure instead.
    TooLate,
}

/// A fetch ended that was never begun. The state is handed back as it was.
#[derive(Debug, thiserror::Error)]
#[error("no fetch runs")]
pub struct InvalidTransition<T>(pub Box<TokenLife<T>>);

impl<T: Clone> TokenLife<T> {
    pub const fn new() -> Self {
        Self::Missing { earliest: BootTime::from_duration(Duration::ZERO) }
    }

    /// A caller needs a token.
    #[must_use]
    pub fn demand(self, now: BootTime, lead: WallLead, rules: &TokenRules) -> (Self, Demand<T>) {
        match self {
            Self::Missing { earliest } | Self::Due { start_at: earliest } if now >= earliest => {
                (Self::Fetching { started: now, keep: true, trouble: None }, Demand::Fetch)
            }
            Self::Missing { earliest } | Self::Due { start_at: earliest } => {
                (Self::Due { start_at: earliest }, Demand::JoinAt(earliest))
            }
            fetching @ Self::Fetching { .. } => (fetching, Demand::Join),
            Self::Refreshing { token, times, started, trouble } => {
                let demand = if now < times.expires { Demand::Use(token.clone()) } else { Demand::Join };
                (Self::Refreshing { token, times, started, trouble }, demand)
            }
            Self::Valid { token, times, trouble } if now < times.expires => {
                let early = lead.jumped_since(times.lead, rules) && now >= times.started + rules.spacing;
                if now >= times.refresh_at || early {
                    let demand = Demand::UseAndFetch(token.clone());
                    (Self::refreshing(token, times, trouble, now, lead), demand)
                } else {
                    let demand = Demand::Use(token.clone());
                    (Self::Valid { token, times, trouble }, demand)
                }
            }
            Self::Valid { times, trouble, .. } => Self::expired(times, trouble, rules).demand(now, lead, rules),
            Self::Failed { trouble, retry_at, .. } if now >= retry_at => {
                (Self::Fetching { started: now, keep: true, trouble: Some(trouble) }, Demand::Fetch)
            }
            Self::Failed { trouble, retry_at } => {
                let refuse = Demand::Refuse(Arc::clone(&trouble.failure));
                (Self::Failed { trouble, retry_at }, refuse)
            }
        }
    }

    /// The clock reached a time that was asked for. `last_used` is when a caller last needed the token: what nobody
    /// used for a lifetime is not refreshed.
    #[must_use]
    pub fn tick(self, now: BootTime, lead: WallLead, last_used: BootTime, rules: &TokenRules) -> (Self, Tick) {
        let unused = now.saturating_since(last_used);
        match self {
            Self::Due { start_at } if now >= start_at => {
                (Self::Fetching { started: now, keep: true, trouble: None }, Tick::Fetch)
            }
            Self::Due { start_at } => (Self::Due { start_at }, Tick::WakeAt(start_at)),
            Self::Valid { token, times, trouble } => {
                if unused > times.lifetime() {
                    (Self::Valid { token, times, trouble }, Tick::Idle)
                } else if now >= times.expires {
                    // A caller's demand starts it anew; what was used until its end has been tried for all the time.
                    (Self::expired(times, trouble, rules), Tick::Idle)
                } else if now >= times.refresh_at {
                    (Self::refreshing(token, times, trouble, now, lead), Tick::Fetch)
                } else {
                    let wake = times.refresh_at;
                    (Self::Valid { token, times, trouble }, Tick::WakeAt(wake))
                }
            }
            Self::Failed { trouble, retry_at }
                if matches!(trouble.retry, Retry::Probe(_)) && unused <= rules.interest =>
            {
                if now >= retry_at {
                    (Self::Fetching { started: now, keep: true, trouble: Some(trouble) }, Tick::Fetch)
                } else {
                    (Self::Failed { trouble, retry_at }, Tick::WakeAt(retry_at))
                }
            }
            other => (other, Tick::Idle),
        }
    }

    /// The fetch brought a token.
    pub fn succeeded(
        self,
        now: BootTime,
        minted: Minted<T>,
        random: &dyn Random,
        rules: &TokenRules,
    ) -> Result<(Self, Arrival), InvalidTransition<T>> {
        let (started, keep, old) = match self {
            Self::Fetching { started, keep, trouble } => {
                if minted.lifetime > Duration::ZERO && now >= minted.requested + minted.lifetime {
                    return Ok((Self::Fetching { started, keep, trouble }, Arrival::TooLate));
                }
                (started, keep, None)
            }
            Self::Refreshing { token, times, started, trouble } => {
                if minted.lifetime > Duration::ZERO && now >= minted.requested + minted.lifetime {
                    return Ok((Self::Refreshing { token, times, started, trouble }, Arrival::TooLate));
                }
                (started, true, Some((token, times)))
            }
            other => return Err(InvalidTransition(Box::new(other))),
        };
        if minted.lifetime.is_zero() || !keep {
            let next = match old {
                // The old token is better than one that cannot be kept.
                Some((token, times)) if now < times.expires => Self::Valid {
                    token,
                    times: TokenTimes { started, refresh_at: times.expires, ..times },
                    trouble: None,
                },
                _ => Self::Missing { earliest: started + rules.spacing },
            };
            return Ok((next, Arrival::ServedOnce));
        }
        let fraction = rules.refresh_from + random.next_unit() * (rules.refresh_to - rules.refresh_from);
        let refresh_at = (minted.requested + minted.lifetime.mul_f64(fraction)).max(started + rules.spacing);
        let times = TokenTimes {
            started,
            requested: minted.requested,
            expires: minted.requested + minted.lifetime,
            refresh_at,
            lead: minted.lead,
        };
        Ok((Self::Valid { token: minted.token, times, trouble: None }, Arrival::Kept))
    }

    /// The fetch failed.
    pub fn failed(
        self,
        now: BootTime,
        failure: Arc<Failure>,
        retry: Retry,
        random: &dyn Random,
        rules: &TokenRules,
    ) -> Result<Self, InvalidTransition<T>> {
        match self {
            Self::Fetching { started, keep: _, trouble } => {
                let trouble = Box::new(next_trouble(trouble, failure, retry, now));
                let wait = wait_of(retry, trouble.failures, random, rules);
                let retry_at = (now + wait).max(started + rules.spacing);
                Ok(Self::Failed { trouble, retry_at })
            }
            Self::Refreshing { token, times, started, trouble } => {
                let trouble = Box::new(next_trouble(trouble, failure, retry, now));
                let left = times.expires.saturating_since(now);
                let refresh_at = match retry {
                    // What only a change heals may be changed before the old token ends: tried rarely, and at the end.
                    Retry::OnDemand => (now + wait_of(retry, trouble.failures, random, rules)).min(times.expires),
                    // The nearer the end, the shorter the wait, and one try at the end itself: a server that comes
                    // back at the last moment must not find everybody backing off.
                    Retry::Backoff => {
                        (now + wait_of(retry, trouble.failures, random, rules).min(left / 4)).min(times.expires)
                    }
                    Retry::After(_) | Retry::Probe(_) => now + wait_of(retry, trouble.failures, random, rules),
                }
                .max(started + rules.spacing);
                Ok(Self::Valid { token, times: TokenTimes { started, refresh_at, ..times }, trouble: Some(trouble) })
            }
            other => Err(InvalidTransition(Box::new(other))),
        }
    }

    /// An API refused the token that is held.
    #[must_use]
    pub fn rejected(self, rules: &TokenRules) -> Self {
        match self {
            Self::Valid { times, .. } => Self::Missing { earliest: times.started + rules.spacing },
            Self::Refreshing { started, trouble, .. } => Self::Fetching { started, keep: true, trouble },
            other => other,
        }
    }

    /// An operator wants token and failure gone at once. A fetch that runs goes on for those who wait for it.
    #[must_use]
    pub fn flushed(self, now: BootTime) -> Self {
        match self {
            Self::Missing { .. } | Self::Valid { .. } | Self::Failed { .. } => Self::Missing { earliest: now },
            Self::Fetching { started, trouble, .. } | Self::Refreshing { started, trouble, .. } => {
                Self::Fetching { started, keep: false, trouble }
            }
            due @ Self::Due { .. } => due,
        }
    }

    /// The circuit that this failure waited for has closed: the next demand may try at once (with minimum spacing).
    #[must_use]
    pub fn unblocked(self, rules: &TokenRules) -> Self {
        match self {
            Self::Failed { trouble, retry_at } if matches!(trouble.retry, Retry::Probe(_)) => {
                let retry_at = retry_at.min(trouble.failed_at + rules.spacing);
                Self::Failed { trouble, retry_at }
            }
            other => other,
        }
    }

    /// The token and its times, unless there is none or it is over.
    pub fn held(&self, now: BootTime) -> Option<(&T, &TokenTimes)> {
        match self {
            Self::Valid { token, times, .. } | Self::Refreshing { token, times, .. } if now < times.expires => {
                Some((token, times))
            }
            _ => None,
        }
    }

    /// Until when the token may be used without asking [`Self::demand`] again.
    pub fn quiet_until(&self) -> Option<BootTime> {
        match self {
            Self::Valid { times, .. } => Some(times.refresh_at.min(times.expires)),
            Self::Refreshing { times, .. } => Some(times.expires),
            _ => None,
        }
    }

    pub const fn fetch_runs(&self) -> bool {
        matches!(self, Self::Fetching { .. } | Self::Refreshing { .. })
    }

    pub fn trouble(&self) -> Option<&Trouble> {
        match self {
            Self::Failed { trouble, .. } => Some(trouble),
            Self::Fetching { trouble, .. } | Self::Valid { trouble, .. } | Self::Refreshing { trouble, .. } => {
                trouble.as_deref()
            }
            Self::Missing { .. } | Self::Due { .. } => None,
        }
    }

    /// Until when everybody gets the last failure.
    pub const fn retry_at(&self) -> Option<BootTime> {
        match self {
            Self::Failed { retry_at, .. } => Some(*retry_at),
            _ => None,
        }
    }

    /// `missing`, `valid`, ...: for status reports.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "missing",
            Self::Due { .. } => "due",
            Self::Fetching { .. } => "fetching",
            Self::Valid { .. } => "valid",
            Self::Refreshing { .. } => "refreshing",
            Self::Failed { trouble, .. } if matches!(trouble.retry, Retry::Probe(_)) => "circuit_open",
            Self::Failed { .. } => "failed",
        }
    }

    /// `lead` is noted, so that one jump of the wall clock causes one early refresh, even when that one fails.
    fn refreshing(token: T, times: TokenTimes, trouble: Option<Box<Trouble>>, now: BootTime, lead: WallLead) -> Self {
        Self::Refreshing { token, times: TokenTimes { lead, ..times }, started: now, trouble }
    }

    /// What a token at its end turns into.
    fn expired(times: TokenTimes, trouble: Option<Box<Trouble>>, rules: &TokenRules) -> Self {
        let earliest = times.started + rules.spacing;
        match trouble {
            Some(trouble) if times.refresh_at > earliest && times.refresh_at > times.expires => {
                Self::Failed { trouble, retry_at: times.refresh_at }
            }
            _ => Self::Missing { earliest },
        }
    }
}

impl<T: Clone> Default for TokenLife<T> {
    fn default() -> Self {
        Self::new()
    }
}

fn next_trouble(last: Option<Box<Trouble>>, failure: Arc<Failure>, retry: Retry, now: BootTime) -> Trouble {
    let failures = last.map_or(0, |trouble| trouble.failures).saturating_add(1);
    Trouble { failure, failed_at: now, failures, retry }
}

fn wait_of(retry: Retry, failures: u32, random: &dyn Random, rules: &TokenRules) -> Duration {
    let jittered = |initial: Duration, max: Duration| {
        let step = initial.saturating_mul(2_u32.saturating_pow(failures.saturating_sub(1))).min(max);
        step.mul_f64(0.5 + random.next_unit() / 2.0)
    };
    match retry {
        Retry::Backoff => jittered(rules.backoff_initial, rules.backoff_max),
        Retry::OnDemand => jittered(rules.permanent_initial, rules.permanent_max),
        // Up to a tenth more, so that all who were told the same do not come back together.
        Retry::After(asked) => {
            let asked = asked.clamp(rules.retry_after_min, rules.retry_after_max);
            asked.mul_f64(1.0 + random.next_unit() / 10.0).min(rules.retry_after_max)
        }
        Retry::Probe(after) => after,
    }
}
