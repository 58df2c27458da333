//! What an API says against a DPoP proof (RFC 9449 7.1 and 9), in `WWW-Authenticate`.

use http::HeaderMap;
use http::header::WWW_AUTHENTICATE;

/// An error of the scheme DPoP that tells nothing against the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Challenge {
    /// The proof must hold the nonce of this answer.
    UseNonce,
    /// The proof itself is refused: its time, its URL, its algorithm.
    InvalidProof,
}

/// The challenge in a 401.
pub(super) fn of(status: u16, headers: &HeaderMap) -> Option<Challenge> {
    if status != 401 {
        return None;
    }
    let mut values = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok());
    values.find_map(in_value)
}

/// Challenges and their parameters are one list (RFC 9110 11.6.1): what has no scheme belongs to the one before it.
fn in_value(value: &str) -> Option<Challenge> {
    let mut is_dpop = false;
    for element in elements(value) {
        let (scheme, parameter) = match element.split_once([' ', '\t']) {
            Some((first, rest)) if !first.contains('=') && !rest.trim_start().starts_with('=') => (Some(first), rest),
            None if !element.contains('=') => (Some(element), ""),
            _ => (None, element),
        };
        if let Some(scheme) = scheme {
            is_dpop = scheme.eq_ignore_ascii_case("dpop");
        }
        let Some((name, value)) = parameter.split_once('=').filter(|_| is_dpop) else { continue };
        if name.trim().eq_ignore_ascii_case("error") {
            match value.trim().trim_matches('"') {
                "use_dpop_nonce" => return Some(Challenge::UseNonce),
                "invalid_dpop_proof" => return Some(Challenge::InvalidProof),
                _ => {}
            }
        }
    }
    None
}

/// What lies between the commas that are not in a quoted text.
fn elements(value: &str) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = value.split(move |letter| {
        match letter {
            _ if escaped => escaped = false,
            '\\' => escaped = quoted,
            '"' => quoted = !quoted,
            ',' => return !quoted,
            _ => {}
        }
        false
    });
    parts.map(str::trim).filter(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, values: &[&str]) -> Option<Challenge> {
        let headers = values.iter().map(|value| (WWW_AUTHENTICATE, value.parse().expect("a value"))).collect();
        of(status, &headers)
    }

    #[test]
    fn a_challenge_is_found_among_others() {
        for (values, found) in [
            // RFC 9449 9.
            (
                &[r#"DPoP error="use_dpop_nonce", error_description="Resource server requires nonce in DPoP proof""#][..],
                Some(Challenge::UseNonce),
            ),
            (&[r#"DPoP error="invalid_dpop_proof""#], Some(Challenge::InvalidProof)),
            (&[r#"dpop algs="ES256 PS256", error = "use_dpop_nonce""#], Some(Challenge::UseNonce)),
            (&["Basic realm=\"a, DPoP\"", "DPoP error=use_dpop_nonce"], Some(Challenge::UseNonce)),
            (&[r#"Bearer, DPoP algs="ES256", error="use_dpop_nonce""#], Some(Challenge::UseNonce)),
            (&[r#"DPoP algs="ES256", Bearer error="invalid_token""#], None),
            (&[r#"DPoP, Bearer error="use_dpop_nonce""#], None),
            (&[r#"Bearer realm="x", error="use_dpop_nonce""#], None),
            (&[r#"Bearer error_description="DPoP error=\"use_dpop_nonce\"""#], None),
            (&[r#"Bearer error_description="\", DPoP error=use_dpop_nonce""#], None),
            (&[r#"DPoP error="invalid_token""#], None),
            (&["DPoP"], None),
            (&[",,, = ,\"", "DPoP error"], None),
            (&[], None),
        ] {
            assert_eq!(read(401, values), found, "{values:?}");
        }
        assert_eq!(read(403, &[r#"DPoP error="use_dpop_nonce""#]), None);
    }
}
