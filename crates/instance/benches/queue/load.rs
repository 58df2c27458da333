//! 64 callers in a closed loop, on one subject after the other.

use std::time::Duration;

use midward_core::{Clock as _, SystemClock};
use midward_instance::bench::QueueAlone;

use crate::plain::Plain;

const CALLERS: usize = 64;
const SPAN: Duration = Duration::from_secs(2);
const WARM_UP: Duration = Duration::from_secs(1);

/// What is measured.
#[derive(Debug)]
pub(crate) enum Subject {
    Queue(QueueAlone),
    Plain(Plain),
}

impl Subject {
    async fn request(&self) -> anyhow::Result<()> {
        match self {
            Self::Queue(queue) => Ok(queue.request().await?),
            Self::Plain(plain) => plain.request().await,
        }
    }

    pub(crate) async fn close(self) -> anyhow::Result<()> {
        match self {
            Self::Queue(queue) => Ok(queue.close().await?),
            Self::Plain(plain) => plain.close().await,
        }
    }

    /// Finished requests per second.
    async fn rate(&self, span: Duration) -> anyhow::Result<f64> {
        let start = SystemClock.boot();
        let end = start + span;
        let callers = (0..CALLERS).map(|_| async {
            let mut count = 0_u32;
            while SystemClock.boot() < end {
                self.request().await?;
                count += 1;
            }
            anyhow::Ok(count)
        });
        let counts = futures_util::future::try_join_all(callers).await?;
        let took = SystemClock.boot().saturating_since(start);
        Ok(f64::from(counts.iter().sum::<u32>()) / took.as_secs_f64())
    }
}

/// Rates of several subjects, by round.
#[derive(Debug)]
pub(crate) struct Rates(Vec<Vec<f64>>);

impl Rates {
    /// Measures the subjects in turn, `rounds` times.
    pub(crate) async fn measure(subjects: &[Subject], rounds: usize) -> anyhow::Result<Self> {
        for subject in subjects {
            subject.rate(WARM_UP).await?;
        }
        let mut all = Vec::new();
        for _ in 0..rounds {
            let mut round = Vec::new();
            for subject in subjects {
                round.push(subject.rate(SPAN).await?);
            }
            all.push(round);
        }
        Ok(Self(all))
    }

    pub(crate) fn median(&self, subject: usize) -> f64 {
        median(self.0.iter().map(|round| round[subject]).collect())
    }

    /// The median of the ratios in each round: what takes a machine's CPU takes it from both.
    pub(crate) fn ratio(&self, subject: usize, over: usize) -> f64 {
        median(self.0.iter().map(|round| round[subject] / round[over]).collect())
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
