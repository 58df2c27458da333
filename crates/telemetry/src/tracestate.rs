//! `tracestate` (W3C Trace Context 3.3): other vendors' entries, newest first. They are passed on, never used and never
//! exported.

/// Most entries.
const MAX_MEMBERS: usize = 32;
/// Longest list that is passed on, in bytes (3.3.1.5); what exceeds it loses its longest and its oldest entries.
const MAX_LENGTH: usize = 512;
/// Entries that go first when the list is too long.
const LONG_MEMBER: usize = 128;
const MAX_KEY: usize = 256;
const MAX_VALUE: usize = 256;

/// Several headers as one list; `None` when there is nothing in them, or something that must not be.
pub(crate) fn combined(headers: &[&str]) -> Option<String> {
    let mut members: Vec<&str> = Vec::new();
    for member in headers.iter().flat_map(|header| header.split(',')) {
        let member = member.trim_matches([' ', '\t']);
        if member.is_empty() {
            continue;
        }
        let (key, value) = member.split_once('=')?;
        let is_twice = members.iter().any(|other| other.split_once('=').is_some_and(|(known, _)| known == key));
        if !is_key(key) || !is_value(value) || is_twice || members.len() == MAX_MEMBERS {
            return None;
        }
        members.push(member);
    }
    if length(&members) > MAX_LENGTH {
        members.retain(|member| member.len() <= LONG_MEMBER);
    }
    while length(&members) > MAX_LENGTH {
        members.pop();
    }
    (!members.is_empty()).then(|| members.join(","))
}

fn length(members: &[&str]) -> usize {
    members.iter().map(|member| member.len() + 1).sum::<usize>().saturating_sub(1)
}

fn is_key(key: &str) -> bool {
    let is_part = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-*/@".contains(&byte);
    let begins = key.as_bytes().first().is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    begins && key.len() <= MAX_KEY && key.bytes().all(is_part) && key.matches('@').count() <= 1
}

/// Printable ASCII without comma and equals sign.
fn is_value(value: &str) -> bool {
    value.len() <= MAX_VALUE && value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b',' && byte != b'=')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_joined_and_checked() {
        for (headers, expected) in [
            (&["a=1"][..], Some("a=1")),
            (&["a=1, b=2", "c=x y"], Some("a=1,b=2,c=x y")),
            (&["", " , ,"], None),
            (&["t@v=1,0x/*-_=2"], Some("t@v=1,0x/*-_=2")),
            (&["a=1,a=2"], None),
            (&["A=1"], None),
            (&["a"], None),
            (&["a=b=c"], None),
            (&["a=\u{7f}"], None),
            (&["=1"], None),
            (&["a@b@c=1"], None),
        ] {
            assert_eq!(combined(headers).as_deref(), expected, "{headers:?}");
        }
        let many: Vec<String> = (0..33).map(|n| format!("k{n}=1")).collect();
        assert_eq!(combined(&[&many[..32].join(",")]).map(|list| list.len()), Some(32 * 6 - 10 - 1));
        assert_eq!(combined(&[&many.join(",")]), None);
    }

    #[test]
    fn a_long_list_loses_its_long_entries_and_then_its_oldest() {
        let long = format!("long={}", "x".repeat(200));
        let short: Vec<String> = (0..8).map(|n| format!("k{n}={}", "y".repeat(60))).collect();
        let list = combined(&[&long, &short.join(",")]).expect("a list");
        assert!(!list.contains("long=") && list.len() <= MAX_LENGTH, "{}", list.len());
        assert!(list.starts_with("k0=") && list.contains("k6=") && !list.contains("k8="), "{list}");
    }
}
