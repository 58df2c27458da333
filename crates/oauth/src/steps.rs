//! The steps of a fetch, packed: every cached token keeps them, and next to nobody asks for them.

use std::sync::Arc;

use midward_core::{Hop, HopTiming, Trace};

/// For each step: the hop's number, the microseconds and the text's length (seven bits a byte), the text.
#[derive(Clone, Debug)]
pub(crate) struct Steps(Arc<[u8]>);

const HOPS: [Hop; 8] =
    [Hop::Caller, Hop::Instance, Hop::Mid, Hop::Policy, Hop::Resolver, Hop::Vault, Hop::AuthorizationServer, Hop::Api];

impl Steps {
    pub(crate) fn new(trace: &Trace) -> Self {
        let mut bytes = Vec::with_capacity(128);
        for step in &trace.0 {
            bytes.push(HOPS.iter().zip(0..).find(|(hop, _)| **hop == step.hop).map_or(0, |(_, number)| number));
            push(&mut bytes, step.micros);
            push(&mut bytes, step.what.len() as u64);
            bytes.extend_from_slice(step.what.as_bytes());
        }
        Self(bytes.into())
    }

    pub(crate) fn trace(&self) -> Trace {
        let mut rest = &*self.0;
        let mut trace = Trace::default();
        while let Some(step) = next(&mut rest) {
            trace.0.push(step);
        }
        trace
    }
}

fn push(bytes: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        bytes.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    bytes.push(number.to_le_bytes()[0]);
}

fn next(rest: &mut &[u8]) -> Option<HopTiming> {
    let (&hop, after) = rest.split_first()?;
    *rest = after;
    let hop = *HOPS.get(usize::from(hop))?;
    let micros = number(rest)?;
    let length = usize::try_from(number(rest)?).ok()?;
    let (what, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(HopTiming { hop, what: String::from_utf8_lossy(what).into_owned(), micros })
}

fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, after) = rest.split_first()?;
        *rest = after;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_was_packed_comes_out_again(steps in proptest::collection::vec((0..8_usize, ".{0,200}", any::<u64>()), 0..9)) {
            let steps = steps.into_iter().map(|(hop, what, micros)| HopTiming { hop: HOPS[hop], what, micros });
            let trace = Trace(steps.collect());
            prop_assert_eq!(Steps::new(&trace).trace(), trace);
        }
    }
}
