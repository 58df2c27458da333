//! Enrollment, the MID's own tokens, and the authenticated word about its state.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// What an administrator hands to the MID's host: where the instance is, how to know it, and a one-time secret.
/// Written as `mwe1.` and base64url JSON.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EnrollToken {
    /// Origin of the instance, `https://host:port` (plain http only for a loopback address).
    pub instance_url: String,
    /// Names the instance in every key on the MID.
    pub instance_id: String,
    /// PEM of the CA that signs the instance's certificate; absent when a public CA does, or with plain http.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_pem: Option<String>,
    /// The instance's Ed25519 public key (32 bytes, base64url): proves [`SignedState`].
    pub instance_key: String,
    /// One-time secret.
    pub secret: String,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("this is not an enrollment token: ask for a new one with `midward mid enroll-token`")]
pub struct InvalidEnrollToken;

impl EnrollToken {
    const PREFIX: &'static str = "mwe1.";

    pub fn encode(&self) -> String {
        // Serialising this struct of strings cannot fail.
        let json = serde_json::to_vec(self).unwrap_or_default();
        format!("{}{}", Self::PREFIX, URL_SAFE_NO_PAD.encode(json))
    }

    pub fn decode(text: &str) -> Result<Self, InvalidEnrollToken> {
        let body = text.trim().strip_prefix(Self::PREFIX).ok_or(InvalidEnrollToken)?;
        let json = URL_SAFE_NO_PAD.decode(body).map_err(|_| InvalidEnrollToken)?;
        serde_json::from_slice(&json).map_err(|_| InvalidEnrollToken)
    }
}

impl std::fmt::Debug for EnrollToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollToken").field("instance_url", &self.instance_url).finish_non_exhaustive()
    }
}

#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollRequest {
    pub version: u32,
    /// The one-time secret of the [`EnrollToken`].
    pub secret: String,
    /// Name that the MID asks for.
    pub name: String,
    /// Ed25519 public key of the MID (32 bytes, base64url).
    pub public_key: String,
}

impl std::fmt::Debug for EnrollRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EnrollRequest").field("name", &self.name).finish_non_exhaustive()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EnrollReply {
    pub version: u32,
    pub mid_id: String,
    pub name: String,
    pub state: MidState,
}

/// Where a MID stands with its instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MidState {
    /// Waits for an administrator.
    Enrolled,
    Validated,
    /// Gets no work, keeps its tokens.
    Paused,
    /// Gets no work and wipes its tokens.
    Invalidated,
}

impl MidState {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Enrolled => "enrolled",
            Self::Validated => "validated",
            Self::Paused => "paused",
            Self::Invalidated => "invalidated",
        }
    }
}

/// RFC 6749 5.1, from the instance's own token endpoint.
#[derive(Clone, Deserialize, Serialize)]
pub struct TokenReply {
    pub access_token: String,
    pub token_type: String,
    /// Seconds.
    pub expires_in: u64,
}

/// RFC 6749 5.2. A MID that is known but may not work gets `invalid_client` with its state, signed by the instance:
/// no proxy in between can make a MID wipe its tokens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenError {
    pub error: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_description: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<SignedState>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedState {
    pub state: MidState,
    /// Ed25519 over [`state_signing_input`], base64url.
    pub signature: String,
}

/// What is signed: the state of one MID in answer to one client assertion, named by its `jti`.
pub fn state_signing_input(mid_id: &str, state: MidState, jti: &str) -> Vec<u8> {
    format!("midward-mid-state-v1\n{mid_id}\n{}\n{jti}", state.name()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> EnrollToken {
        EnrollToken {
            instance_url: "https://127.0.0.1:8440".into(),
            instance_id: "0123".into(),
            ca_pem: None,
            instance_key: "AAAA".into(),
            secret: "s3cret".into(),
        }
    }

    #[test]
    fn an_enrollment_token_survives_its_encoding() {
        assert_eq!(EnrollToken::decode(&format!(" {}\n", token().encode())), Ok(token()));
    }

    #[test]
    fn anything_else_is_refused() {
        for bad in ["", "mwe1.", "mwe1.!!!", "mwe2.e30", "mwe1.e30"] {
            assert_eq!(EnrollToken::decode(bad), Err(InvalidEnrollToken), "{bad:?}");
        }
    }

    #[test]
    fn debug_hides_the_secret() {
        assert!(!format!("{:?}", token()).contains("s3cret"));
    }
}
