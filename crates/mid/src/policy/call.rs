//! The form of a call: method and headers. Checked at the instance, and here again, because the instance may be hostile.

use std::fmt;

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use midward_wire::{ApiCall, HeaderKind, header_kind};

const MAX_HEADERS: usize = 100;
/// Names and values together, in bytes.
const MAX_HEADER_BYTES: usize = 32 * 1024;

/// A call whose form is right. Whether it may be made is for a rule to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedCall {
    pub method: Method,
    pub headers: HeaderMap,
}

/// What is wrong with a call's form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFault {
    Method,
    TooManyHeaders,
    /// Number of the header in the call, from 0.
    HeaderName(usize),
    HeaderValue(usize),
    ForbiddenHeader(usize),
}

impl CallFault {
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Method => "policy_method",
            Self::TooManyHeaders | Self::HeaderName(_) | Self::HeaderValue(_) | Self::ForbiddenHeader(_) => {
                "policy_header"
            }
        }
    }
}

impl fmt::Display for CallFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Method => f.write_str("the method is CONNECT, TRACE, or no method at all; no rule can allow it"),
            Self::TooManyHeaders => f.write_str("there are more than 100 headers, or they exceed 32768 bytes"),
            Self::HeaderName(at) => write!(f, "the name of header {at} is not a header name"),
            Self::HeaderValue(at) => write!(f, "the value of header {at} holds a control character"),
            Self::ForbiddenHeader(at) => {
                write!(f, "header {at} is one that a caller may not set; no rule can allow it")
            }
        }
    }
}

/// Checks method and headers of a call.
pub fn check_call(call: &ApiCall) -> Result<CheckedCall, CallFault> {
    let method = Method::from_bytes(call.method.as_bytes()).map_err(|_| CallFault::Method)?;
    if is_forbidden_method(&method) {
        return Err(CallFault::Method);
    }
    let size: usize = call.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    if call.headers.len() > MAX_HEADERS || size > MAX_HEADER_BYTES {
        return Err(CallFault::TooManyHeaders);
    }
    let mut headers = HeaderMap::with_capacity(call.headers.len());
    for (at, (name, value)) in call.headers.iter().enumerate() {
        let name = HeaderName::from_bytes(name.as_bytes()).map_err(|_| CallFault::HeaderName(at))?;
        if header_kind(name.as_str()) != HeaderKind::EndToEnd {
            return Err(CallFault::ForbiddenHeader(at));
        }
        let value = HeaderValue::from_bytes(value.as_bytes()).map_err(|_| CallFault::HeaderValue(at))?;
        headers.append(name, value);
    }
    Ok(CheckedCall { method, headers })
}

/// Case counts in methods (RFC 9110 9.1), but not for what some server might read as one of these.
pub(super) fn is_forbidden_method(method: &Method) -> bool {
    ["CONNECT", "TRACE", "TRACK"].iter().any(|name| method.as_str().eq_ignore_ascii_case(name))
}
