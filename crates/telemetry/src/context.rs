//! W3C Trace Context (level 1): `traceparent` and `tracestate`. What is not as it should be is as if it were not there
//! (W3C Trace Context 2.2 and 3.2), and a new trace begins.

use std::fmt;

use midward_core::Random;

use crate::tracestate;

pub const TRACEPARENT: &str = "traceparent";
pub const TRACESTATE: &str = "tracestate";

/// The caller records this trace, and so does whoever comes after it.
const SAMPLED: u8 = 0x01;
/// The trace's identifier is random (level 2); passed on as it came.
const RANDOM: u8 = 0x02;
/// Length of a `traceparent` of version 00.
const LENGTH: usize = 55;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub(crate) [u8; 16]);

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpanId(pub(crate) [u8; 8]);

/// A place in a trace: the span that what comes next is a part of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: TraceId,
    pub span_id: SpanId,
    flags: u8,
    /// Other vendors' part, passed on as it came.
    state: Option<Box<str>>,
}

impl TraceId {
    pub(crate) fn new(random: &dyn Random) -> Self {
        Self(never_zero(random))
    }

    /// The last seven bytes as a number: what a ratio is compared with (W3C Trace Context level 2, 5.1).
    pub(crate) fn randomness(self) -> u64 {
        let mut last = [0; 8];
        last[1..].copy_from_slice(&self.0[9..]);
        u64::from_be_bytes(last)
    }
}

impl SpanId {
    pub(crate) fn new(random: &dyn Random) -> Self {
        Self(never_zero(random))
    }
}

/// An identifier of zeros means none.
fn never_zero<const N: usize>(random: &dyn Random) -> [u8; N] {
    let mut bytes = [0; N];
    random.fill(&mut bytes);
    if bytes == [0; N] {
        bytes[N - 1] = 1;
    }
    bytes
}

impl TraceContext {
    pub(crate) fn new(trace_id: TraceId, span_id: SpanId, is_sampled: bool) -> Self {
        Self { trace_id, span_id, flags: if is_sampled { SAMPLED } else { 0 }, state: None }
    }

    /// The same trace, at another span.
    pub(crate) fn at(&self, span_id: SpanId) -> Self {
        Self { span_id, ..self.clone() }
    }

    /// From the headers of a request, names in any case. Several `traceparent` are none; a bad `tracestate` is left out.
    pub fn of<'a>(headers: impl IntoIterator<Item = (&'a str, &'a str)>) -> Option<Self> {
        let (mut parent, mut states) = (None, Vec::new());
        for (name, value) in headers {
            if name.eq_ignore_ascii_case(TRACEPARENT) {
                if parent.is_some() {
                    return None;
                }
                parent = Some(value);
            } else if name.eq_ignore_ascii_case(TRACESTATE) {
                states.push(value);
            }
        }
        let mut context = parse(parent?)?;
        context.state = tracestate::combined(&states).map(String::into_boxed_str);
        Some(context)
    }

    /// Takes the trace's headers out of a list, whether they are good or not.
    pub fn take(headers: &mut Vec<(String, String)>) -> Option<Self> {
        let context = Self::of(headers.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        headers.retain(|(name, _)| !is_trace_header(name));
        context
    }

    /// Adds the trace's headers to a list that has none.
    pub fn put(&self, headers: &mut Vec<(String, String)>) {
        headers.push((TRACEPARENT.to_owned(), self.traceparent()));
        if let Some(state) = self.tracestate() {
            headers.push((TRACESTATE.to_owned(), state.to_owned()));
        }
    }

    pub fn traceparent(&self) -> String {
        format!("00-{}-{}-{:02x}", self.trace_id, self.span_id, self.flags)
    }

    pub fn tracestate(&self) -> Option<&str> {
        self.state.as_deref()
    }

    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }
}

/// Whether this header is one of the trace's.
fn is_trace_header(name: &str) -> bool {
    name.eq_ignore_ascii_case(TRACEPARENT) || name.eq_ignore_ascii_case(TRACESTATE)
}

fn parse(text: &str) -> Option<TraceContext> {
    let bytes = text.as_bytes();
    // A later version may go on behind a dash; what is before it keeps its meaning (3.2.4).
    let is_whole = bytes.len() == LENGTH || (bytes.get(LENGTH) == Some(&b'-') && !text.starts_with("00"));
    let dashes = [2, 35, 52].iter().all(|at| bytes.get(*at) == Some(&b'-'));
    if !is_whole || !dashes || bytes.len() > 512 {
        return None;
    }
    let [version] = hex::<1>(&bytes[..2])?;
    let (trace_id, span_id) = (hex::<16>(&bytes[3..35])?, hex::<8>(&bytes[36..52])?);
    let [flags] = hex::<1>(&bytes[53..55])?;
    if version == 0xff || trace_id == [0; 16] || span_id == [0; 8] {
        return None;
    }
    Some(TraceContext {
        trace_id: TraceId(trace_id),
        span_id: SpanId(span_id),
        flags: flags & (SAMPLED | RANDOM),
        state: None,
    })
}

/// Lower case only (3.2.2.3).
fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

fn write_hex(bytes: &[u8], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

impl fmt::Debug for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(&self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn of(headers: &[(&str, &str)]) -> Option<TraceContext> {
        TraceContext::of(headers.iter().copied())
    }

    #[test]
    fn a_traceparent_is_read_and_written() {
        let context = of(&[("TraceParent", GOOD), ("tracestate", "a=1,b=2")]).expect("good");
        assert!(context.is_sampled());
        assert_eq!(context.traceparent(), GOOD);
        assert_eq!(context.tracestate(), Some("a=1,b=2"));
        let unsampled = of(&[("traceparent", &GOOD.replace("-01", "-00"))]).expect("good");
        assert!(!unsampled.is_sampled());
        // Flags that this version does not know are not passed on; random identifiers are told.
        let flags = |flags: &str| of(&[("traceparent", &GOOD.replace("-01", flags))]).expect("good").traceparent();
        assert!(flags("-ff").ends_with("-03") && flags("-02").ends_with("-02"));
    }

    #[test]
    fn a_later_version_may_be_longer() {
        for more in ["", "-", "-what-ever"] {
            let text = format!("cc{}{more}", &GOOD[2..]);
            assert_eq!(of(&[("traceparent", &text)]).expect("good").traceparent(), GOOD, "{text}");
        }
        assert_eq!(of(&[("traceparent", &format!("cc{}x", &GOOD[2..]))]), None);
    }

    #[test]
    fn what_is_wrong_is_not_there() {
        for bad in [
            "",
            "00",
            &GOOD[..54],
            &format!("{GOOD}-"),
            &format!("{GOOD}-00"),
            &format!("ff{}", &GOOD[2..]),
            &GOOD.to_uppercase(),
            &GOOD.replace("00f067aa0ba902b7", "0000000000000000"),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", "00000000000000000000000000000000"),
            &GOOD.replacen('-', "_", 1),
            &GOOD.replace("4bf9", "4bg9"),
            &GOOD.replace("-01", "-0x"),
            &format!(" {GOOD}"),
            &format!("cc{}-{}", &GOOD[2..], "x".repeat(600)),
        ] {
            assert_eq!(of(&[("traceparent", bad)]), None, "{bad}");
        }
        assert_eq!(of(&[("traceparent", GOOD), ("Traceparent", GOOD)]), None);
        assert_eq!(of(&[("tracestate", "a=1")]), None);
        assert_eq!(of(&[("traceparent", GOOD), ("tracestate", "A=1")]).expect("good").tracestate(), None);
    }

    #[test]
    fn headers_are_taken_out_and_put_in_again() {
        let mut headers = vec![
            ("X-A".to_owned(), "1".to_owned()),
            ("Traceparent".to_owned(), GOOD.to_owned()),
            ("tracestate".to_owned(), "a=1".to_owned()),
        ];
        let context = TraceContext::take(&mut headers).expect("good");
        assert_eq!(headers.len(), 1);
        context.put(&mut headers);
        assert_eq!(
            headers[1..],
            [(TRACEPARENT.to_owned(), GOOD.to_owned()), (TRACESTATE.to_owned(), "a=1".to_owned())]
        );
        let mut bad = vec![("traceparent".to_owned(), "x".to_owned()), ("tracestate".to_owned(), "a=1".to_owned())];
        assert_eq!(TraceContext::take(&mut bad), None);
        assert_eq!(bad, []);
    }

    proptest! {
        #[test]
        fn nothing_that_is_sent_stops_the_reader(text in ".{0,80}", state in ".{0,80}") {
            if let Some(context) = of(&[("traceparent", &text), ("tracestate", &state)]) {
                prop_assert_eq!(context.traceparent().len(), LENGTH);
            }
        }

        #[test]
        fn what_is_written_is_read(trace in any::<[u8; 16]>(), span in any::<[u8; 8]>(), sampled in any::<bool>()) {
            prop_assume!(trace != [0; 16] && span != [0; 8]);
            let context = TraceContext::new(TraceId(trace), SpanId(span), sampled);
            prop_assert_eq!(of(&[("traceparent", &context.traceparent())]), Some(context));
        }
    }
}
