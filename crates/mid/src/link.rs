//! The MID's side of its link to one instance: its own access token (RFC 7523 `private_key_jwt`), and what each
//! answer means. Three kinds of "no" are kept apart: something that is not the instance answered, the instance does
//! not accept us, and the instance's authenticated word about our state. Only the last one has consequences.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use midward_core::{AccessToken, BootTime, Clock, Failure, Hop, Random, Secret, new_id};
use midward_wire::{MidState, SignedState, TokenError, TokenReply, paths, state_signing_input};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::{Mutex, watch};

use crate::http::InstanceHttp;
use crate::state::Enrollment;

/// Largest answer to a call that carries no leases.
const SMALL_ANSWER: usize = 256 * 1024;
/// How long a client assertion is good for, in seconds.
const ASSERTION_SECONDS: i64 = 60;
const TOKEN_DEADLINE: Duration = Duration::from_secs(10);

/// Where the link stands, for the heartbeat, the status command and the wiping of tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum LinkState {
    /// No answer yet.
    Connecting,
    /// The last attempt got no usable answer from the instance.
    Disturbed(LinkError),
    /// The instance's authenticated word.
    Known(MidState),
}

/// Why a call to the instance gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum LinkError {
    /// No answer.
    #[error("the instance cannot be reached: {0}")]
    Unreachable(String),
    /// Something else answered: a captive portal, a proxy, a web server. It is believed in nothing.
    #[error("something that is not the instance answered with status {status}: {hint}")]
    NotTheInstance { status: u16, hint: &'static str },
    /// The instance, or what speaks like it, does not accept us, without proof of our state. Ask again later.
    #[error("the instance does not accept this MID Server ({0})")]
    Unauthorized(String),
    /// The instance's signed word.
    #[error("the instance says that this MID Server is {}", .0.name())]
    State(MidState),
    /// Overloaded or restarting.
    #[error("the instance is busy (status {status})")]
    Busy { status: u16, retry_after: Option<Duration> },
    /// A program that runs with our key has started after us, and has our place.
    #[error("another program runs with this MID Server's key, and started later: this one gets no work")]
    Cloned,
    /// This one message is refused, and would be again.
    #[error("the instance refused the message with status {0}")]
    Refused(u16),
    /// An answer in a form that this version does not know.
    #[error("the instance's answer was not understood: {0}")]
    NotUnderstood(String),
}

impl LinkError {
    /// What an operator does about it.
    pub(crate) const fn action(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "Check the network, [ways_out.instance] and the instance's address.",
            Self::NotTheInstance { .. } => "Look for a captive portal or proxy between here and the instance.",
            Self::Unauthorized(_) => "Check this MID Server on the instance; enroll it again if it was deleted.",
            Self::State(MidState::Enrolled) => "Validate this MID Server on the instance (`midward mid validate`).",
            Self::State(_) => "Ask the instance's administrator.",
            Self::Busy { .. } => "Wait: it is tried again.",
            Self::Cloned => "Stop one of the two, and enroll it with a state folder of its own.",
            Self::Refused(_) | Self::NotUnderstood(_) => "Compare the versions of instance and MID Server.",
        }
    }
}

/// The link.
pub(crate) struct Link {
    http: Arc<dyn InstanceHttp>,
    enrollment: Enrollment,
    pinned_key: [u8; 32],
    signing_key: jsonwebtoken::EncodingKey,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    token: Mutex<Option<OwnToken>>,
    state: watch::Sender<LinkState>,
}

struct OwnToken {
    value: AccessToken,
    refresh_at: BootTime,
    expires_at: BootTime,
}

impl Link {
    /// `key` is the MID's PKCS #8 Ed25519 key.
    pub(crate) fn new(
        http: Arc<dyn InstanceHttp>,
        enrollment: Enrollment,
        key: &Secret,
        clock: Arc<dyn Clock>,
        random: Arc<dyn Random>,
    ) -> Result<Self, Failure> {
        let pinned_key = enrollment.pinned_key()?;
        // Loading proves that the file holds such a key before the first answer depends on it.
        aws_lc_rs::signature::Ed25519KeyPair::from_pkcs8(key.expose()).map_err(|_| {
            Failure::permanent(
                Hop::Mid,
                "mid_key_invalid",
                "the MID Server's key file is damaged",
                "Restore it, or enroll again with a new enrollment token.",
            )
        })?;
        Ok(Self {
            http,
            pinned_key,
            enrollment,
            signing_key: jsonwebtoken::EncodingKey::from_ed_der(key.expose()),
            clock,
            random,
            token: Mutex::new(None),
            state: watch::Sender::new(LinkState::Connecting),
        })
    }

    pub(crate) fn enrollment(&self) -> &Enrollment {
        &self.enrollment
    }

    /// The instance's key, as the enrollment pinned it.
    pub(crate) const fn pinned_key(&self) -> &[u8; 32] {
        &self.pinned_key
    }

    pub(crate) fn state(&self) -> watch::Receiver<LinkState> {
        self.state.subscribe()
    }

    /// Posts a message and reads the answer.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        message: &impl Serialize,
        deadline: Duration,
    ) -> Result<T, LinkError> {
        let body = serde_json::to_vec(message).map_err(|error| LinkError::NotUnderstood(error.to_string()))?;
        let answer = self.call(Method::POST, path, body.into(), deadline, SMALL_ANSWER).await?;
        self.note(parse(&answer))
    }

    /// One authenticated exchange, repeated once with a new token when ours is not accepted: every message to the
    /// instance may be sent twice.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        deadline: Duration,
        max_body: usize,
    ) -> Result<Bytes, LinkError> {
        let result = self.call_twice(method, path, body, deadline, max_body).await;
        self.note(result)
    }

    /// Forgets the own token, so that the next call gets the instance's word about our state.
    pub(crate) async fn doubt(&self) {
        *self.token.lock().await = None;
    }

    async fn call_twice(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
        deadline: Duration,
        max_body: usize,
    ) -> Result<Bytes, LinkError> {
        for last in [false, true] {
            let token = self.token().await?;
            let request = Request::builder()
                .method(method.clone())
                .uri(format!("{}{path}", self.enrollment.instance_url))
                .header(header::AUTHORIZATION, bearer(&token)?)
                .header(header::CONTENT_TYPE, "application/json")
                .header(header::ACCEPT, "application/json")
                .body(body.clone())
                .map_err(|error| LinkError::NotUnderstood(error.to_string()))?;
            let answer = self
                .http
                .exchange(request, deadline, max_body)
                .await
                .map_err(|error| LinkError::Unreachable(error.to_string()))?;
            if answer.status() == StatusCode::UNAUTHORIZED && !last {
                // Whoever said so: the token endpoint's answer tells who it was.
                self.reject(&token).await;
                continue;
            }
            return judge(answer);
        }
        Err(LinkError::Unauthorized("401".to_owned()))
    }

    /// The own token: from memory, or minted. Callers that come meanwhile wait for the same mint.
    async fn token(&self) -> Result<AccessToken, LinkError> {
        let mut held = self.token.lock().await;
        let now = self.clock.boot();
        if let Some(token) = held.as_ref().filter(|token| now < token.refresh_at) {
            return Ok(token.value.clone());
        }
        match self.mint().await {
            Ok(token) => Ok(held.insert(token).value.clone()),
            Err(error @ LinkError::State(_)) => {
                *held = None;
                Err(error)
            }
            // A token that is still good outlives a disturbance.
            Err(error) => match held.as_ref().filter(|token| self.clock.boot() < token.expires_at) {
                Some(token) => Ok(token.value.clone()),
                None => Err(error),
            },
        }
    }

    async fn reject(&self, token: &AccessToken) {
        let mut held = self.token.lock().await;
        if held.as_ref().is_some_and(|held| held.value == *token) {
            *held = None;
        }
    }

    async fn mint(&self) -> Result<OwnToken, LinkError> {
        let jti = new_id(self.clock.wall(), self.random.as_ref());
        let body = format!(
            "grant_type=client_credentials&client_assertion_type=\
             urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion={}",
            self.assertion(&jti)?
        );
        let request = Request::builder()
            .method(Method::POST)
            .uri(format!("{}{}", self.enrollment.instance_url, paths::TOKEN))
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(header::ACCEPT, "application/json")
            .body(Bytes::from(body))
            .map_err(|error| LinkError::NotUnderstood(error.to_string()))?;
        let asked_at = self.clock.boot();
        let answer = self
            .http
            .exchange(request, TOKEN_DEADLINE, SMALL_ANSWER)
            .await
            .map_err(|error| LinkError::Unreachable(error.to_string()))?;
        if answer.status() == StatusCode::OK {
            require_json(&answer)?;
            let reply: TokenReply = parse(answer.body())?;
            let value = AccessToken::new(Secret::from(reply.access_token))
                .ok_or_else(|| LinkError::NotUnderstood("an illegal access token".to_owned()))?;
            let life = Duration::from_secs(reply.expires_in.min(24 * 3600));
            return Ok(OwnToken { value, refresh_at: asked_at + life.mul_f64(0.8), expires_at: asked_at + life });
        }
        Err(self.judge_token_error(&answer, &jti))
    }

    fn judge_token_error(&self, answer: &Response<Bytes>, jti: &str) -> LinkError {
        if let Some(busy) = busy(answer) {
            return busy;
        }
        if let Err(error) = require_json(answer) {
            return error;
        }
        let Ok(error) = serde_json::from_slice::<TokenError>(answer.body()) else {
            return not_the_instance(answer, "its JSON is not a token endpoint's");
        };
        match error.state {
            Some(state) if self.is_proved(&state, jti) => LinkError::State(state.state),
            Some(_) => LinkError::Unauthorized("a state whose signature is not the instance's".to_owned()),
            None => LinkError::Unauthorized(error_code(&error.error)),
        }
    }

    fn is_proved(&self, state: &SignedState, jti: &str) -> bool {
        let input = state_signing_input(&self.enrollment.mid_id, state.state, jti);
        URL_SAFE_NO_PAD
            .decode(&state.signature)
            .is_ok_and(|signature| UnparsedPublicKey::new(&ED25519, self.pinned_key).verify(&input, &signature).is_ok())
    }

    fn assertion(&self, jti: &str) -> Result<String, LinkError> {
        #[derive(Serialize)]
        struct Claims<'a> {
            iss: &'a str,
            sub: &'a str,
            aud: String,
            iat: i64,
            exp: i64,
            jti: &'a str,
        }
        let now = self.clock.wall().unix_seconds();
        let mid_id = self.enrollment.mid_id.as_str();
        let claims = Claims {
            iss: mid_id,
            sub: mid_id,
            aud: format!("{}{}", self.enrollment.instance_url, paths::TOKEN),
            iat: now,
            exp: now + ASSERTION_SECONDS,
            jti,
        };
        let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::EdDSA);
        jsonwebtoken::encode(&header, &claims, &self.signing_key)
            .map_err(|_| LinkError::NotUnderstood("the client assertion could not be signed".to_owned()))
    }

    /// Publishes what a result says about the link.
    fn note<T>(&self, result: Result<T, LinkError>) -> Result<T, LinkError> {
        let state = match &result {
            // Refused and unknown answers concern one message, not the link. They prove nothing about our state either.
            Err(LinkError::Refused(_) | LinkError::NotUnderstood(_)) if self.is_known_unwanted() => return result,
            Ok(_) | Err(LinkError::Refused(_) | LinkError::NotUnderstood(_)) => {
                if *self.state.borrow() == LinkState::Known(MidState::Paused) {
                    return result;
                }
                LinkState::Known(MidState::Validated)
            }
            Err(LinkError::State(state)) => LinkState::Known(*state),
            Err(error) => LinkState::Disturbed(error.clone()),
        };
        self.publish(state);
        result
    }

    fn is_known_unwanted(&self) -> bool {
        matches!(*self.state.borrow(), LinkState::Known(MidState::Enrolled | MidState::Invalidated))
    }

    /// What a reply to an authenticated message says about our state. It is not signed, so the worst is only a reason
    /// to ask for the signed word.
    pub(crate) async fn told(&self, state: MidState) {
        match state {
            MidState::Validated | MidState::Paused => self.publish(LinkState::Known(state)),
            MidState::Enrolled | MidState::Invalidated => self.doubt().await,
        }
    }

    fn publish(&self, state: LinkState) {
        self.state.send_if_modified(|known| {
            let changed = *known != state;
            if changed {
                match &state {
                    LinkState::Disturbed(error) => tracing::warn!(%error, action = error.action(), "link disturbed"),
                    LinkState::Known(state) => tracing::info!(state = state.name(), "link to the instance"),
                    LinkState::Connecting => {}
                }
                *known = state;
            }
            changed
        });
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link").field("instance", &self.enrollment.instance_url).finish_non_exhaustive()
    }
}

/// Parses an answer; a peer of another protocol version is named as such.
pub(crate) fn parse<T: DeserializeOwned>(answer: &[u8]) -> Result<T, LinkError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u32,
    }
    serde_json::from_slice(answer).map_err(|error| match serde_json::from_slice::<Versioned>(answer) {
        Ok(other) if other.version != midward_wire::VERSION => other_version(other.version),
        _ => LinkError::NotUnderstood(format!("{:?} error in line {}", error.classify(), error.line())),
    })
}

/// A message of another version may look like one of ours, and mean something else.
pub(crate) fn check_version(version: u32) -> Result<(), LinkError> {
    if version == midward_wire::VERSION { Ok(()) } else { Err(other_version(version)) }
}

fn other_version(version: u32) -> LinkError {
    let ours = midward_wire::VERSION;
    LinkError::NotUnderstood(format!("it speaks protocol version {version}, this MID Server speaks {ours}"))
}

/// What an answer to an authenticated message means.
fn judge(answer: Response<Bytes>) -> Result<Bytes, LinkError> {
    let status = answer.status();
    if status == StatusCode::NO_CONTENT {
        return Ok(Bytes::new());
    }
    if status == StatusCode::OK {
        require_json(&answer)?;
        return Ok(answer.into_body());
    }
    if let Some(busy) = busy(&answer) {
        return Err(busy);
    }
    if status == StatusCode::PAYLOAD_TOO_LARGE {
        // Whoever says so, a proxy before the instance too: this message would never pass.
        return Err(LinkError::Refused(status.as_u16()));
    }
    require_json(&answer)?;
    Err(match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => LinkError::Unauthorized(status.as_str().to_owned()),
        StatusCode::CONFLICT if is_cloned(answer.body()) => LinkError::Cloned,
        status if status.is_client_error() => LinkError::Refused(status.as_u16()),
        _ => not_the_instance(&answer, "an unexpected status"),
    })
}

/// Whether a problem document (RFC 9457) says that another program has this MID's place.
fn is_cloned(problem: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Coded {
        code: String,
    }
    serde_json::from_slice::<Coded>(problem).is_ok_and(|problem| problem.code == "mid_cloned")
}

fn busy(answer: &Response<Bytes>) -> Option<LinkError> {
    let status = answer.status();
    let is_busy = status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error();
    is_busy.then(|| {
        let seconds = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let retry_after = seconds.map(|seconds: u64| Duration::from_secs(seconds.min(300)));
        LinkError::Busy { status: status.as_u16(), retry_after }
    })
}

fn require_json(answer: &Response<Bytes>) -> Result<(), LinkError> {
    let media_type = answer.headers().get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("");
    let essence = media_type.split(';').next().unwrap_or("").trim();
    if essence == "application/json" || essence == "application/problem+json" {
        return Ok(());
    }
    Err(not_the_instance(
        answer,
        match answer.status().as_u16() {
            300..400 => "a redirect, as a captive portal gives",
            407 => "a proxy that wants its own authentication",
            _ if essence == "text/html" => "a web page, as a captive portal or proxy gives",
            _ => "not JSON",
        },
    ))
}

fn not_the_instance(answer: &Response<Bytes>, hint: &'static str) -> LinkError {
    LinkError::NotTheInstance { status: answer.status().as_u16(), hint }
}

fn bearer(token: &AccessToken) -> Result<header::HeaderValue, LinkError> {
    let mut value = header::HeaderValue::try_from(format!("Bearer {}", token.expose()))
        .map_err(|_| LinkError::NotUnderstood("an illegal access token".to_owned()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// An error code (RFC 6749 5.2), cut to what such codes are made of.
fn error_code(text: &str) -> String {
    text.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(40).collect()
}
