//! The life of a token against a small model: random demands, fetch ends, timers, suspends, rejections, flushes.

use std::sync::Arc;
use std::time::Duration;

use midward_core::{
    Arrival, BootTime, Demand, Failure, Hop, Minted, Random as _, Retry, SeededRandom, Tick, TokenLife, TokenRules,
    WallLead, WallTime,
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// Time passes, in milliseconds.
    Pass(u64),
    Demand,
    Tick,
    /// The fetch, if one runs, ends with a token of so many milliseconds, counted from when it began.
    Succeed(u64),
    Fail(Retry),
    Reject,
    Flush,
    /// The wall clock alone moves, in seconds.
    Wall(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let retry = prop_oneof![
        3 => Just(Retry::Backoff),
        1 => Just(Retry::OnDemand),
        1 => (0..1_000_u64).prop_map(|seconds| Retry::After(Duration::from_secs(seconds))),
        1 => (0..60_u64).prop_map(|seconds| Retry::Probe(Duration::from_secs(seconds))),
    ];
    let step = prop_oneof![
        4 => (0..3_000_u64).prop_map(Step::Pass),
        2 => (0..600_000_u64).prop_map(Step::Pass),
        8 => Just(Step::Demand),
        4 => Just(Step::Tick),
        3 => (0..600_000_u64).prop_map(Step::Succeed),
        1 => Just(Step::Succeed(0)),
        3 => retry.prop_map(Step::Fail),
        1 => Just(Step::Reject),
        1 => Just(Step::Flush),
        1 => (-1_000_000..1_000_000_i64).prop_map(Step::Wall),
    ];
    proptest::collection::vec(step, 1..200)
}

/// What must be true, kept apart from how the life cycle does it.
#[derive(Default)]
struct Model {
    /// Begin of the fetch that runs.
    running: Option<BootTime>,
    last_began: Option<BootTime>,
    /// Tokens are numbered; each has an end.
    ends: Vec<BootTime>,
    /// The failure that everybody gets, and since when; gone with the next fetch or flush.
    failure: Option<(Arc<Failure>, BootTime)>,
    flushed: bool,
}

impl Model {
    fn begin(&mut self, now: BootTime, rules: &TokenRules) {
        assert!(self.running.is_none(), "two fetches at once");
        if let Some(last) = self.last_began
            && !self.flushed
        {
            assert!(now.saturating_since(last) >= rules.spacing, "fetches closer than the spacing");
        }
        self.flushed = false;
        self.running = Some(now);
        self.last_began = Some(now);
        self.failure = None;
    }

    fn used(&self, token: usize, now: BootTime) {
        assert!(now < self.ends[token], "an expired token was handed out");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_expired_token_one_fetch_at_a_time_and_shared_failures(steps in steps(), seed: u64) {
        let rules = TokenRules::default();
        let random = SeededRandom::new(seed);
        let mut now = BootTime::from_duration(Duration::from_hours(1));
        let mut wall = WallTime::from_unix_millis(1_800_000_000_000);
        let mut life = TokenLife::new();
        let mut model = Model::default();
        let mut last_used = now;
        for step in steps {
            let lead = WallLead::of(now, wall);
            match step {
                Step::Pass(millis) => {
                    now = now + Duration::from_millis(millis);
                    wall = wall + Duration::from_millis(millis);
                }
                Step::Wall(seconds) => wall = WallTime::from_unix_millis(wall.unix_millis() + seconds * 1000),
                Step::Demand => {
                    last_used = now;
                    let (next, demand) = life.demand(now, lead, &rules);
                    life = next;
                    match demand {
                        Demand::Use(token) => model.used(token, now),
                        Demand::UseAndFetch(token) => {
                            model.used(token, now);
                            model.begin(now, &rules);
                        }
                        Demand::Fetch => model.begin(now, &rules),
                        Demand::Join => prop_assert!(model.running.is_some(), "waits for nothing"),
                        Demand::JoinAt(at) => {
                            prop_assert!(at > now && at <= now + rules.spacing, "waits for longer than the spacing");
                        }
                        Demand::Refuse(failure) => {
                            let (shared, since) = model.failure.as_ref().expect("a failure that happened");
                            prop_assert!(Arc::ptr_eq(shared, &failure), "another failure than everybody's");
                            let longest = rules.retry_after_max.max(rules.permanent_max);
                            prop_assert!(now.saturating_since(*since) <= longest, "refused for too long");
                        }
                    }
                }
                Step::Tick => {
                    let (next, tick) = life.tick(now, lead, last_used, &rules);
                    life = next;
                    match tick {
                        Tick::Fetch => model.begin(now, &rules),
                        Tick::WakeAt(at) => prop_assert!(at > now),
                        Tick::Idle => {}
                    }
                }
                Step::Succeed(millis) => {
                    let number = model.ends.len();
                    let lifetime = Duration::from_millis(millis);
                    let requested = model.running.unwrap_or(now);
                    model.ends.push(requested + lifetime);
                    let minted = Minted { token: number, requested, lifetime, lead };
                    life = match (life.succeeded(now, minted, &random, &rules), model.running.is_some()) {
                        (Ok((next, Arrival::TooLate)), true) => {
                            prop_assert!(now >= requested + lifetime);
                            let failure = failure(random.next_u64());
                            model.running = None;
                            model.failure = Some((Arc::clone(&failure), now));
                            next.failed(now, failure, Retry::Backoff, &random, &rules).expect("a fetch ran")
                        }
                        (Ok((next, arrival)), true) => {
                            model.running = None;
                            prop_assert!(arrival == Arrival::ServedOnce || now < requested + lifetime);
                            next
                        }
                        (Err(invalid), false) => *invalid.0,
                        (_, running) => panic!("a fetch ended, and one ran: {running}"),
                    };
                }
                Step::Fail(retry) => {
                    let failure = failure(random.next_u64());
                    life = match life.failed(now, Arc::clone(&failure), retry, &random, &rules) {
                        Ok(next) => {
                            prop_assert!(model.running.take().is_some());
                            model.failure = Some((failure, now));
                            next
                        }
                        Err(invalid) => {
                            prop_assert!(model.running.is_none());
                            *invalid.0
                        }
                    };
                }
                Step::Reject => {
                    life = life.rejected(&rules);
                    prop_assert!(life.held(now).is_none());
                }
                Step::Flush => {
                    life = life.flushed(now);
                    prop_assert!(life.held(now).is_none());
                    model.flushed = true;
                }
            }
            prop_assert_eq!(life.fetch_runs(), model.running.is_some());
            if let Some((token, _)) = life.held(now) {
                model.used(*token, now);
            }
        }
    }

    #[test]
    fn everything_heals_without_help(failures in 0..50_usize, retry_after in 0..10_000_u64, seed: u64) {
        // However it failed, five minutes later a demand begins a fetch, and its token is served.
        let rules = TokenRules::default();
        let random = SeededRandom::new(seed);
        let mut now = BootTime::from_duration(Duration::from_hours(1));
        let lead = WallLead::of(now, WallTime::from_unix_millis(0));
        let mut life = TokenLife::new();
        for failed in 0..failures {
            let (next, demand) = life.demand(now, lead, &rules);
            prop_assert!(matches!(demand, Demand::Fetch));
            let retry = match failed % 3 {
                0 => Retry::Backoff,
                1 => Retry::OnDemand,
                _ => Retry::After(Duration::from_secs(retry_after)),
            };
            life = next.failed(now, failure(0), retry, &random, &rules).expect("a fetch ran");
            now = now + rules.retry_after_max;
        }
        let (life, demand) = life.demand(now, lead, &rules);
        prop_assert!(matches!(demand, Demand::Fetch));
        let minted = Minted { token: 1, requested: now, lifetime: Duration::from_hours(1), lead };
        let (life, arrival) = life.succeeded(now, minted, &random, &rules).expect("a fetch ran");
        prop_assert_eq!(arrival, Arrival::Kept);
        prop_assert!(life.trouble().is_none());
        prop_assert!(matches!(life.demand(now, lead, &rules).1, Demand::Use(1)));
    }

    #[test]
    fn the_margin_is_a_fraction_of_any_lifetime(seconds in 2..86_400_u64, seed: u64) {
        let rules = TokenRules::default();
        let now = BootTime::from_duration(Duration::from_hours(1));
        let lead = WallLead::of(now, WallTime::from_unix_millis(0));
        let (life, _) = TokenLife::new().demand(now, lead, &rules);
        let lifetime = Duration::from_secs(seconds);
        let minted = Minted { token: (), requested: now, lifetime, lead };
        let (life, _) = life.succeeded(now, minted, &SeededRandom::new(seed), &rules).expect("a fetch ran");
        let ((), times) = life.held(now).expect("kept");
        let age = times.refresh_at.saturating_since(now);
        prop_assert!(age >= lifetime.mul_f64(0.699) && age <= lifetime.mul_f64(0.851), "{age:?} of {lifetime:?}");
    }
}

fn failure(number: u64) -> Arc<Failure> {
    Arc::new(Failure::transient(Hop::AuthorizationServer, "test", number.to_string(), "None."))
}
