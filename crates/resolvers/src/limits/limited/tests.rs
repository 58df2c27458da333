use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use midward_core::{Clock, Hop, Persistence};

use super::Limited;
use crate::testing::{Conduct, MemoryVault, VirtualClock, ask, ask_within, failure, lookup};
use crate::{LimitsConfig, Resolver, ResolverReport};

const SECOND: Duration = Duration::from_secs(1);

struct Bench {
    vault: Arc<MemoryVault>,
    clock: Arc<VirtualClock>,
    limited: Arc<Limited>,
}

fn bench(limits: LimitsConfig, conduct: Conduct) -> Bench {
    let (vault, clock) = (MemoryVault::new(conduct), VirtualClock::start());
    for number in 0..100 {
        vault.put(&format!("id-{number}"), &format!("secret-{number}"));
    }
    let limited = Limited::new("vault", Arc::clone(&vault) as _, &limits, Arc::clone(&clock) as _);
    Bench { vault, clock, limited: Arc::new(limited) }
}

impl Bench {
    fn since(&self, begin: midward_core::BootTime) -> Duration {
        self.clock.boot().saturating_since(begin)
    }

    /// How long each of `count` look-ups took that began together, in the order in which they asked.
    async fn together(&self, count: usize, deadline: Duration) -> Vec<Result<u64, String>> {
        let begin = self.clock.boot();
        let all = (0..count).map(|number| async move {
            let got = ask_within(&*self.limited, &lookup(&format!("id-{number}")), deadline).await;
            let millis = u64::try_from(self.since(begin).as_millis()).expect("small");
            got.map(|secret| {
                assert_eq!(secret, format!("secret-{number}"));
                millis
            })
            .map_err(|failure| failure.code)
        });
        join_all(all).await
    }
}

fn slow(takes: Duration) -> Conduct {
    Conduct { takes, ..Conduct::default() }
}

#[tokio::test(start_paused = true)]
async fn so_many_run_at_once_and_the_others_come_in_turn() {
    let bench = bench(LimitsConfig { max_concurrent: Some(2), ..LimitsConfig::default() }, slow(SECOND));
    let took = bench.together(6, Duration::from_secs(30)).await;
    assert_eq!(took, [Ok(1000), Ok(1000), Ok(2000), Ok(2000), Ok(3000), Ok(3000)]);
    assert_eq!(bench.vault.most(), 2);
}

#[tokio::test(start_paused = true)]
async fn the_wait_for_a_turn_counts_against_the_deadline() {
    let limits = LimitsConfig { max_concurrent: Some(1), ..LimitsConfig::default() };
    let bench = bench(limits, slow(SECOND));
    let took = bench.together(4, Duration::from_millis(2500)).await;
    let (busy, late) = (Err("resolver_busy".to_owned()), Err("vault_timeout".to_owned()));
    assert_eq!(took, [Ok(1000), Ok(2000), late, busy], "the third had half a second left, the last none");
    assert_eq!(bench.vault.asked().len(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_sections_time_out_is_one_for_waiting_and_asking() {
    let limits = LimitsConfig { max_concurrent: Some(1), timeout_ms: Some(1500), ..LimitsConfig::default() };
    let took = bench(limits, slow(SECOND)).together(2, Duration::from_secs(30)).await;
    assert_eq!(took, [Ok(1000), Err("vault_timeout".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn look_ups_begin_at_the_rate_after_a_burst() {
    let limits = LimitsConfig { per_second: Some(4.0), burst: 2, ..LimitsConfig::default() };
    let bench = bench(limits, Conduct::default());
    let took = bench.together(5, Duration::from_secs(30)).await;
    assert_eq!(took, [Ok(0), Ok(0), Ok(250), Ok(500), Ok(750)]);
    let took = bench.together(3, Duration::from_millis(300)).await;
    assert_eq!(took, [Ok(250), Err("resolver_busy".to_owned()), Err("resolver_busy".to_owned())]);
}

#[tokio::test(start_paused = true)]
async fn an_adapter_that_ignores_its_deadline_is_dropped() {
    let conduct = Conduct { takes: Duration::from_hours(1), ignores_deadline: true, ..Conduct::default() };
    let limits = LimitsConfig { max_concurrent: Some(1), ..LimitsConfig::default() };
    let bench = bench(limits, conduct);
    let begin = bench.clock.boot();
    let late = ask_within(&*bench.limited, &lookup("id-1"), SECOND).await.expect_err("late");
    assert_eq!((late.code.as_str(), bench.since(begin)), ("resolver_timeout", Duration::from_millis(1500)));
    bench.vault.now(|conduct| conduct.takes = Duration::ZERO);
    assert_eq!(ask(&*bench.limited, &lookup("id-1")).await.expect("its place is free"), "secret-1");
}

#[tokio::test(start_paused = true)]
async fn a_vault_that_fails_for_now_is_left_alone_and_heals_by_itself() {
    let gone = failure(Persistence::Transient, "vault_unreachable");
    let limits = LimitsConfig { failures_to_open: 3, ..LimitsConfig::default() };
    let bench = bench(limits, Conduct { fails: Some(gone), ..Conduct::default() });
    for number in 0..3 {
        let failure = ask(&*bench.limited, &lookup(&format!("id-{number}"))).await.expect_err("gone");
        assert_eq!(failure.code, "vault_unreachable");
    }
    let begin = bench.clock.boot();
    let refused = ask(&*bench.limited, &lookup("id-4")).await.expect_err("open");
    assert_eq!((refused.code.as_str(), refused.hop), ("resolver_circuit_open", Hop::Resolver));
    assert!(refused.detail.contains("vault_unreachable") && refused.detail.contains("1 s"), "{refused}");
    assert_eq!(refused.persistence, Persistence::Transient);
    assert_eq!((bench.vault.asked().len(), bench.since(begin)), (3, Duration::ZERO), "at once, and nobody was asked");
    let degraded =
        ResolverReport::Degraded("look-ups failed one after the other, at last with vault_unreachable".into());
    assert_eq!(bench.limited.report(), degraded);

    // Asked all the time for ten minutes: trials come at doubling distances, at most two minutes apart.
    let mut trials = Vec::new();
    for second in 0..600 {
        let before = bench.vault.asked().len();
        ask(&*bench.limited, &lookup("id-5")).await.expect_err("gone");
        if bench.vault.asked().len() > before {
            trials.push(second);
        }
        tokio::time::sleep(SECOND).await;
    }
    assert_eq!(trials, [1, 3, 7, 15, 31, 63, 127, 247, 367, 487]);

    bench.vault.now(|conduct| conduct.fails = None);
    tokio::time::sleep(Duration::from_mins(2)).await;
    assert_eq!(bench.limited.report(), ResolverReport::Ready, "it may be tried");
    assert_eq!(ask(&*bench.limited, &lookup("id-6")).await.expect("healed"), "secret-6");
    let took = bench.together(10, SECOND).await;
    assert_eq!(took, vec![Ok(0); 10]);
}

#[tokio::test(start_paused = true)]
async fn refusals_open_nothing() {
    for (persistence, code) in [
        (Persistence::Permanent, "vault_denied"),
        (Persistence::Permanent, "vault_not_found"),
        (Persistence::Transient, "vault_changing"),
        (Persistence::Transient, "resolver_busy"),
    ] {
        let conduct = Conduct { fails: Some(failure(persistence, code)), ..Conduct::default() };
        let bench = bench(LimitsConfig { failures_to_open: 2, ..LimitsConfig::default() }, conduct);
        for number in 0..50 {
            let refused = ask(&*bench.limited, &lookup(&format!("id-{number}"))).await.expect_err("refused");
            assert_eq!(refused.code, code);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_gives_place_and_trial_back() {
    let gone = failure(Persistence::Transient, "vault_unreachable");
    let limits = LimitsConfig { max_concurrent: Some(1), failures_to_open: 2, ..LimitsConfig::default() };
    let bench = bench(limits, Conduct { fails: Some(gone), ..Conduct::default() });
    for number in 0..2 {
        ask(&*bench.limited, &lookup(&format!("id-{number}"))).await.expect_err("gone");
    }
    tokio::time::sleep(SECOND).await;
    bench.vault.now(|conduct| *conduct = slow(Duration::from_secs(5)));
    let trial = tokio::time::timeout(SECOND, ask(&*bench.limited, &lookup("id-1"))).await;
    assert!(trial.is_err(), "left while it ran");
    assert_eq!(ask(&*bench.limited, &lookup("id-2")).await.expect("the next trial"), "secret-2");
}

#[tokio::test(start_paused = true)]
async fn one_resolver_never_delays_another() {
    let limits = LimitsConfig { max_concurrent: Some(1), per_second: Some(1.0), burst: 1, ..LimitsConfig::default() };
    let (slow, quick) =
        (bench(limits, slow(Duration::from_secs(20))), bench(LimitsConfig::default(), Conduct::default()));
    let both = tokio::join!(slow.together(3, Duration::from_secs(30)), quick.together(50, SECOND));
    assert_eq!(both.1, vec![Ok(0); 50]);
    assert_eq!(both.0[0], Ok(20_000));
}

#[tokio::test(start_paused = true)]
async fn the_trace_tells_of_a_wait() {
    let bench = bench(LimitsConfig { max_concurrent: Some(1), ..LimitsConfig::default() }, slow(SECOND));
    let (first, second) = (lookup("id-1"), lookup("id-2"));
    let both = tokio::join!(bench.limited.resolve(&first, 5 * SECOND), bench.limited.resolve(&second, 5 * SECOND));
    let steps = |found: Result<crate::Resolution, _>| -> Vec<String> {
        found.expect("found").trace.0.into_iter().map(|step| format!("{} {}", step.what, step.micros)).collect()
    };
    assert_eq!(steps(both.0), ["answered 1000000"]);
    assert_eq!(steps(both.1), ["waited for a turn 1000000", "answered 1000000"]);
}
