//! Identifiers and names.

use crate::{Random, WallTime};

/// A new identifier: 32 hexadecimal digits, the first 12 the time in milliseconds (so that indexes grow at one end),
/// the other 80 bits random. The form of ServiceNow's `sys_id`.
pub fn new_id(now: WallTime, random: &dyn Random) -> String {
    use std::fmt::Write as _;
    let mut tail = [0; 10];
    random.fill(&mut tail);
    let mut id = format!("{:012x}", now.unix_millis() & 0xffff_ffff_ffff);
    for byte in tail {
        let _ = write!(id, "{byte:02x}");
    }
    id
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a name: use 1 to 80 of a-z A-Z 0-9 . _ - and begin with a letter or digit")]
pub struct InvalidName(pub String);

/// Checks the name of a record (connection alias, credential, entity, profile, MID, resolver, rule).
pub fn check_name(name: &str) -> Result<(), InvalidName> {
    let legal = (1..=80).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
        && name.as_bytes()[0].is_ascii_alphanumeric();
    if legal { Ok(()) } else { Err(InvalidName(name.chars().take(80).collect())) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SeededRandom;

    #[test]
    fn identifiers_sort_by_time_and_have_32_digits() {
        let random = SeededRandom::new(1);
        let earlier = new_id(WallTime::from_unix_millis(1_700_000_000_000), &random);
        let later = new_id(WallTime::from_unix_millis(1_700_000_000_001), &random);
        assert!(earlier < later);
        assert_eq!(earlier.len(), 32);
        assert!(earlier.bytes().all(|b| b.is_ascii_hexdigit()));
    }

    #[test]
    fn names_hold_nothing_that_needs_quoting() {
        for good in ["crm", "a", "0", "crm-Prod.eu_1"] {
            assert_eq!(check_name(good), Ok(()));
        }
        for bad in ["", "-a", ".a", "a b", "a/b", "ä", "a\n", &"a".repeat(81)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
