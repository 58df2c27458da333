//! A step of a trace that has ended. Attributes are named by OpenTelemetry's semantic conventions where there is a name.

use std::borrow::Cow;
use std::time::Duration;

use midward_core::{BootTime, Clock};

use crate::context::{SpanId, TraceId};

/// Longest text of an attribute, in characters.
const MAX_TEXT: usize = 256;

/// Whose step it is: a call that came in, a call that went out, work that was queued, or neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanKind {
    Internal,
    Server,
    Client,
    Consumer,
}

impl SpanKind {
    /// As OTLP numbers it.
    pub(crate) const fn number(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::Server => 2,
            Self::Client => 3,
            Self::Consumer => 5,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Text(Cow<'static, str>),
    Number(i64),
}

/// Times are unix nanoseconds.
#[derive(Clone, Debug)]
pub struct Span {
    pub(crate) trace_id: TraceId,
    pub(crate) id: SpanId,
    pub(crate) parent: Option<SpanId>,
    pub(crate) name: Cow<'static, str>,
    pub(crate) kind: SpanKind,
    pub(crate) begin: u64,
    pub(crate) end: u64,
    pub(crate) attributes: Vec<(&'static str, Value)>,
    pub(crate) events: Vec<(u64, Cow<'static, str>)>,
    pub(crate) failed: bool,
}

impl Span {
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<Value>) -> Self {
        self.set(key, value);
        self
    }

    pub fn set(&mut self, key: &'static str, value: impl Into<Value>) {
        self.attributes.push((key, value.into()));
    }

    /// The step failed: `error.type` is a code of ours, or a status.
    #[must_use]
    pub fn failed(mut self, error_type: impl Into<Value>) -> Self {
        self.set("error.type", error_type);
        self.failed = true;
        self
    }

    /// Something that happened at one moment of the step.
    pub fn event(&mut self, at: u64, name: impl Into<Cow<'static, str>>) {
        self.events.push((at, cut(name.into())));
    }
}

impl From<&'static str> for Value {
    fn from(text: &'static str) -> Self {
        Self::Text(text.into())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Self {
        Self::Text(cut(text.into()))
    }
}

impl From<u16> for Value {
    fn from(number: u16) -> Self {
        Self::Number(number.into())
    }
}

fn cut(text: Cow<'static, str>) -> Cow<'static, str> {
    match text.char_indices().nth(MAX_TEXT) {
        Some((at, _)) => text[..at].to_owned().into(),
        None => text,
    }
}

/// Tells the wall clock's time of moments that the boot clock counted: what is between them does not jump.
#[derive(Clone, Copy, Debug)]
pub struct TimeBase {
    boot: BootTime,
    unix_nanos: u64,
}

impl TimeBase {
    pub fn new(clock: &dyn Clock) -> Self {
        Self { boot: clock.boot(), unix_nanos: millis_to_nanos(clock.wall().unix_millis()) }
    }

    /// Unix nanoseconds.
    pub fn at(&self, time: BootTime) -> u64 {
        let nanos = |span: Duration| u64::try_from(span.as_nanos()).unwrap_or(u64::MAX);
        let (after, before) = (time.saturating_since(self.boot), self.boot.saturating_since(time));
        self.unix_nanos.saturating_add(nanos(after)).saturating_sub(nanos(before))
    }

    /// The same of a time in unix milliseconds.
    pub fn at_millis(unix_millis: i64) -> u64 {
        millis_to_nanos(unix_millis)
    }
}

fn millis_to_nanos(unix_millis: i64) -> u64 {
    u64::try_from(unix_millis).unwrap_or(0).saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use midward_core::{ManualClock, WallTime};

    use super::*;

    #[test]
    fn times_follow_the_boot_clock() {
        let boot = BootTime::from_duration(Duration::from_secs(100));
        let clock = ManualClock::new(boot, WallTime::from_unix_millis(5_000));
        let base = TimeBase::new(&clock);
        clock.set_wall(WallTime::from_unix_millis(0));
        assert_eq!(base.at(boot + Duration::from_nanos(7)), 5_000_000_007);
        assert_eq!(base.at(boot.saturating_sub(Duration::from_nanos(7))), 4_999_999_993);
    }

    #[test]
    fn texts_are_cut() {
        let Value::Text(text) = Value::from("ä".repeat(10_000)) else { panic!("a text") };
        assert_eq!(text.chars().count(), MAX_TEXT);
    }
}
