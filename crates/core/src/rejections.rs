//! How often a token is given up because an API refuses it: an API that refuses every token must not cause a token
//! request for each call.

use std::time::Duration;

use crate::{BootTime, TokenRules};

/// The refusals of one profile's tokens, in a row.
#[derive(Clone, Copy, Debug, Default)]
pub struct Rejections {
    dropped: u32,
    last: BootTime,
}

impl Rejections {
    /// How many tokens in a row are given up as soon as they are refused.
    pub const AT_ONCE: u32 = 3;

    /// Whether the token that an API just refused is given up. When [`Self::AT_ONCE`] were and the next is refused too,
    /// it is kept for a while, which doubles up to [`TokenRules::backoff_max`]: another one would hardly do better, and
    /// other APIs may take this one. Twice that time without a token given up, and all is forgotten.
    pub fn gives_up(&mut self, now: BootTime, rules: &TokenRules) -> bool {
        let since = now.saturating_since(self.last);
        if since >= rules.backoff_max * 2 {
            self.dropped = 0;
        }
        if self.dropped > 0 && since < self.pause(rules) {
            return false;
        }
        self.dropped = self.dropped.saturating_add(1);
        self.last = now;
        true
    }

    fn pause(&self, rules: &TokenRules) -> Duration {
        match self.dropped.checked_sub(Self::AT_ONCE) {
            None => Duration::ZERO,
            Some(more) => rules.backoff_initial.saturating_mul(2_u32.saturating_pow(more + 1)).min(rules.backoff_max),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When a token is given up, in seconds, if it is refused every so many.
    fn given_up(every: usize, seconds: u64) -> Vec<u64> {
        let (mut rejections, rules) = (Rejections::default(), TokenRules::default());
        let at = |second| BootTime::from_duration(Duration::from_hours(1) + Duration::from_secs(second));
        (0..seconds).step_by(every).filter(|&second| rejections.gives_up(at(second), &rules)).collect()
    }

    #[test]
    fn the_first_are_given_up_at_once_and_then_fewer_and_fewer() {
        assert_eq!(given_up(1, 160), [0, 1, 2, 4, 8, 16, 32, 62, 92, 122, 152]);
    }

    #[test]
    fn what_is_refused_now_and_then_is_given_up_each_time() {
        assert_eq!(given_up(60, 600).len(), 10);
    }
}
