//! How soon the rate is back after a kill.

use std::time::Duration;

/// The part of the rate before that counts as recovery, and the time in which it has to be seen.
const RECOVERED: f64 = 0.95;
const SEEN_IN: Duration = Duration::from_millis(500);
/// How long after a kill nothing of it is left: no timer of a program is longer.
pub(crate) const SETTLED: Duration = Duration::from_secs(15);
/// The end of that time, in which the rate is one that no kill disturbs.
const UNDISTURBED: Duration = Duration::from_secs(3);

/// Outcomes so far, by the time since the kill.
#[derive(Clone, Debug, Default)]
pub(crate) struct Curve(Vec<(Duration, usize)>);

impl Curve {
    pub(crate) fn add(&mut self, after: Duration, ended: usize) {
        self.0.push((after, ended));
    }

    /// The end of the first half second that was as good as `calm` outcomes a second.
    pub(crate) fn as_good_as(&self, calm: f64) -> Option<Duration> {
        self.0.iter().enumerate().find_map(|(index, (end, ended))| {
            let start = end.checked_sub(SEEN_IN)?;
            let (from, before) = self.0[..index].iter().rfind(|(at, _)| *at <= start)?;
            (per_second(ended - before, end.saturating_sub(*from)) >= calm * RECOVERED).then_some(*end)
        })
    }

    /// The rate when the kill was long ago. Another program may have taken the machine's processors meanwhile, and that
    /// is no fault of ours.
    pub(crate) fn settled(&self) -> Option<f64> {
        let (end, ended) = self.0.last().filter(|(end, _)| *end >= SETTLED)?;
        let (from, before) = self.0.iter().find(|(at, _)| *at >= end.saturating_sub(UNDISTURBED))?;
        Some(per_second(ended - before, end.saturating_sub(*from)))
    }

    /// Outcomes in each half second.
    pub(crate) fn steps(&self) -> Vec<usize> {
        let mut steps = Vec::new();
        let Some((mut since, mut before)) = self.0.first().copied() else { return steps };
        for (at, ended) in &self.0 {
            if at.saturating_sub(since) >= SEEN_IN {
                steps.push(ended - before);
                (since, before) = (*at, *ended);
            }
        }
        steps
    }
}

#[expect(clippy::cast_precision_loss, reason = "thousands")]
pub(crate) fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

/// How soon the rate was back after one kill.
pub(crate) struct Recovery {
    /// What was killed.
    pub(crate) what: &'static str,
    /// Outcomes a second before.
    pub(crate) calm: f64,
    /// From the kill until the end of the first half second, after the restart, that was as good; none within the time
    /// that was waited.
    pub(crate) after: Option<Duration>,
    /// Outcomes in each half second after the restart.
    pub(crate) steps: Vec<usize>,
}

impl Recovery {
    /// A curve that goes on until [`SETTLED`] is judged by the lower of the rates before and long after.
    pub(crate) fn of(what: &'static str, calm: f64, curve: &Curve) -> Self {
        let calm = curve.settled().map_or(calm, |settled| calm.min(settled));
        Self { what, calm, after: curve.as_good_as(calm), steps: curve.steps() }
    }

    fn is_later_than(&self, limit: Duration) -> bool {
        self.after.is_none_or(|after| after > limit)
    }

    /// For who has to find out why it took so long.
    fn told(&self) -> String {
        let Self { what, calm, after, steps } = self;
        format!(
            "after the death of {what} {calm:.0} a second were back in {after:?}; in each half second since: {steps:?}"
        )
    }
}

/// Prints the figures. With a limit: an error when one is later, or not back at all.
#[expect(clippy::print_stderr, reason = "figures are for who runs it")]
pub(crate) fn report(recoveries: &mut [Recovery], limit: Option<Duration>) -> anyhow::Result<()> {
    recoveries.sort_by(|a, b| a.after.unwrap_or(Duration::MAX).cmp(&b.after.unwrap_or(Duration::MAX)));
    for what in ["an instance", "the MID Server", "PostgreSQL"] {
        let of: Vec<_> = recoveries.iter().filter(|recovery| recovery.what == what).collect();
        let (Some(middle), Some(worst)) = (of.get(of.len() / 2), of.last()) else { continue };
        eprintln!(
            "95 % of the rate after the death of {what}, measured {} times: median {:?}, worst {:?}; about {:.0} requests \
             a second before",
            of.len(),
            middle.after,
            worst.after,
            middle.calm
        );
    }
    let Some(limit) = limit else { return Ok(()) };
    let late: Vec<_> = recoveries.iter().filter(|recovery| recovery.is_later_than(limit)).collect();
    for recovery in &late {
        eprintln!("later than {limit:?}: {}", recovery.told());
    }
    anyhow::ensure!(late.is_empty(), "{} of {} late", late.len(), recoveries.len());
    Ok(())
}

#[test]
fn a_curve_tells_when_it_is_as_good_as_before() {
    let mut curve = Curve::default();
    // 100 a second, none for two seconds, then 100 again.
    for step in 0..40_u32 {
        let ended = if step < 20 { 0 } else { (step - 20) * 10 };
        curve.add(Duration::from_millis(100) * step, usize::try_from(ended).expect("small"));
    }
    assert_eq!(curve.as_good_as(100.0), Some(Duration::from_millis(2500)));
    assert_eq!(curve.as_good_as(200.0), None);
    assert_eq!(curve.settled(), None, "it is not looked at for long enough");
    assert_eq!(curve.steps(), [0, 0, 0, 0, 50, 50, 50]);
    for step in 40..160_u32 {
        curve.add(Duration::from_millis(100) * step, usize::try_from(190 + (step - 40) * 5).expect("small"));
    }
    assert_eq!(curve.settled().map(f64::round), Some(50.0));
    let judged = Recovery::of("the machine", 200.0, &curve);
    assert_eq!(judged.after, Some(Duration::from_millis(2300)), "by what it can do now");
}

#[test]
fn each_measured_recovery_has_to_be_within_the_limit() {
    let limit = Duration::from_secs(5);
    let after = |after| Recovery { what: "the machine", calm: 100.0, after, steps: Vec::new() };
    let in_time = || (0..99).map(|_| after(Some(limit))).collect::<Vec<_>>();
    assert!(report(&mut in_time(), Some(limit)).is_ok());
    for late in [Some(limit + Duration::from_millis(1)), None] {
        let mut with_one = in_time();
        with_one.push(after(late));
        let refused = report(&mut with_one, Some(limit)).expect_err("one is late");
        assert_eq!(refused.to_string(), "1 of 100 late");
        assert!(report(&mut with_one, None).is_ok(), "without a limit it is a figure");
    }
}
