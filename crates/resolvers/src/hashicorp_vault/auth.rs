//! Signing in, by each of the auth methods, and the upkeep of the token.

use std::sync::PoisonError;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Response};
use midward_core::{ClientMaterial, Failure, Hop, MaterialField, Persistence, Secret};
use serde::{Deserialize, Serialize};

use super::WHO;
use super::client::{Client, is_refusal, login_refusal, refusal};
use super::config::HashiCorpAuth;
use super::path::encoded;
use crate::BoxFuture;
use crate::cloud::{Meaning, SecretText, misconfigured, read_line, read_private, read_shared_line};
use crate::session::{Door, Grant, Upkeep};

/// What is in the answer to every sign-in and renewal.
#[derive(Deserialize)]
struct Login {
    auth: Option<Auth>,
}

#[derive(Deserialize)]
struct Auth {
    client_token: SecretText,
    /// Seconds; 0: it does not end.
    lease_duration: u64,
    renewable: bool,
}

/// `auth/token/lookup-self`.
#[derive(Deserialize)]
struct LookUp {
    data: TokenData,
}

#[derive(Deserialize)]
struct TokenData {
    /// Seconds; 0: it does not end.
    ttl: u64,
}

#[derive(Deserialize)]
struct Wrapped {
    data: WrappedData,
}

#[derive(Deserialize)]
struct WrappedData {
    creation_path: String,
}

#[derive(Deserialize)]
struct Unwrapped {
    data: UnwrappedData,
}

#[derive(Deserialize)]
struct UnwrappedData {
    secret_id: SecretText,
}

#[derive(Default, Serialize)]
struct Credentials<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    secret_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<&'a str>,
    /// The cert method's word for a role.
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    /// A wrapping token.
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

impl Door for Client {
    fn proof(&self) -> Result<ClientMaterial, Failure> {
        let one = |secret| Ok(ClientMaterial::new().with(MaterialField::ClientSecret, secret));
        match &self.auth {
            HashiCorpAuth::Token { token_file } | HashiCorpAuth::Jwt { token_file, .. } => {
                one(read_line("auth.token_file", token_file)?)
            }
            HashiCorpAuth::AppRole { secret_id_file, .. } => one(read_line("auth.secret_id_file", secret_id_file)?),
            HashiCorpAuth::Kubernetes { token_file, .. } => one(read_shared_line("auth.token_file", token_file)?),
            HashiCorpAuth::Cert { certificate_file, key_file, .. } => {
                let certificate = std::fs::read(certificate_file).map_err(|error| {
                    let file = certificate_file.display();
                    misconfigured(format!("auth.certificate_file: {file} cannot be read: {}", error.kind()))
                })?;
                Ok(ClientMaterial::new()
                    .with(MaterialField::Certificate, Secret::new(certificate))
                    .with(MaterialField::PrivateKey, read_private("auth.key_file", key_file)?))
            }
        }
    }

    fn sign_in(&self, proof: ClientMaterial) -> BoxFuture<'_, Result<Grant, Failure>> {
        Box::pin(self.sign_in_with(proof))
    }

    fn renew<'a>(&'a self, token: &'a Secret) -> BoxFuture<'a, Result<Option<Grant>, Failure>> {
        Box::pin(self.renewed(token))
    }
}

impl Client {
    /// Whether the vault still knows the token: it answers 403 both to a token that has ended and to one that may not
    /// read this secret.
    pub(super) async fn is_alive(&self, token: &Secret) -> Result<bool, Failure> {
        let answer = self.ask(Method::GET, "auth/token/lookup-self", Some(token), Vec::new()).await?;
        match answer.status().as_u16() {
            200 => Ok(true),
            403 if is_refusal(&answer) => Ok(false),
            _ => Err(refusal(&answer)),
        }
    }

    /// Ends a token that this MID was given for itself. A token from a file is others' to end.
    pub(super) async fn revoke(&self, token: &Secret) -> Result<(), Failure> {
        if matches!(self.auth, HashiCorpAuth::Token { .. }) {
            return Ok(());
        }
        let answer = self.ask(Method::POST, "auth/token/revoke-self", Some(token), Vec::new()).await?;
        if answer.status().is_success() { Ok(()) } else { Err(refusal(&answer)) }
    }

    async fn sign_in_with(&self, proof: ClientMaterial) -> Result<Grant, Failure> {
        let secret = proof.field(MaterialField::ClientSecret);
        let text = secret.and_then(Secret::expose_str);
        match &self.auth {
            HashiCorpAuth::Token { .. } => self.known(secret.cloned().unwrap_or_else(|| Secret::from(""))).await,
            HashiCorpAuth::AppRole { role_id, wrapped, mount, .. } => {
                let unwrapped = match secret {
                    Some(token) if *wrapped => Some(self.unwrap_once(token, mount).await?),
                    _ => None,
                };
                let secret_id = unwrapped.as_ref().and_then(Secret::expose_str).or(text);
                self.log_in(mount, &Credentials { role_id: Some(role_id), secret_id, ..Credentials::default() }).await
            }
            HashiCorpAuth::Jwt { role, mount, .. } => {
                let role = role.as_deref();
                self.log_in(mount, &Credentials { role, jwt: text, ..Credentials::default() }).await
            }
            HashiCorpAuth::Kubernetes { role, mount, .. } => {
                self.log_in(mount, &Credentials { role: Some(role), jwt: text, ..Credentials::default() }).await
            }
            HashiCorpAuth::Cert { role, mount, .. } => {
                let part = |field| proof.field(field).map(Secret::expose).unwrap_or_default();
                self.identify(part(MaterialField::Certificate), part(MaterialField::PrivateKey))?;
                self.log_in(mount, &Credentials { name: role.as_deref(), ..Credentials::default() }).await
            }
        }
    }

    async fn log_in(&self, mount: &str, credentials: &Credentials<'_>) -> Result<Grant, Failure> {
        let path = format!("auth/{}/login", encoded(mount).unwrap_or_default());
        let answer = self.ask(Method::POST, &path, None, body(credentials)?).await?;
        if answer.status() != 200 {
            return Err(login_refusal(&answer));
        }
        grant(&answer)
    }

    /// A token that was given, with the rest of its life.
    async fn known(&self, token: Secret) -> Result<Grant, Failure> {
        let answer = self.ask(Method::GET, "auth/token/lookup-self", Some(&token), Vec::new()).await?;
        if answer.status() != 200 {
            return Err(login_refusal(&answer));
        }
        let LookUp { data } = read(&answer)?;
        Ok(Grant { token, life: life(data.ttl), upkeep: Upkeep::Renew })
    }

    async fn renewed(&self, token: &Secret) -> Result<Option<Grant>, Failure> {
        let answer = self.ask(Method::POST, "auth/token/renew-self", Some(token), b"{}".to_vec()).await?;
        if answer.status() != 200 {
            let failure = login_refusal(&answer);
            return if failure.persistence == Persistence::Permanent { Ok(None) } else { Err(failure) };
        }
        let Login { auth: Some(auth) } = read(&answer)? else { return Ok(None) };
        // A token that reached its longest life is renewed to nothing: the next one comes from a sign-in.
        let worth_it = auth.renewable && auth.lease_duration >= 2;
        Ok(worth_it.then(|| Grant { token: token.clone(), life: life(auth.lease_duration), upkeep: Upkeep::Renew }))
    }

    /// The secret id inside a wrapping token. A wrapping token is good for once, so what was in it is kept until another
    /// one lies in the file.
    async fn unwrap_once(&self, wrapping: &Secret, mount: &str) -> Result<Secret, Failure> {
        let known = self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, inner)) = known.filter(|(outer, _)| outer == wrapping) {
            return Ok(inner);
        }
        let token = wrapping.expose_str();
        let asked = body(&Credentials { token, ..Credentials::default() })?;
        let answer = self.ask(Method::POST, "sys/wrapping/lookup", None, asked).await?;
        let Wrapped { data } = about_wrapping(&answer)?;
        // Whoever put another token there wants the MID to sign in as somebody else.
        let made_by = format!("auth/{mount}/role/");
        let role = data.creation_path.split_once(&made_by).and_then(|(_, rest)| rest.strip_suffix("/secret-id"));
        if role.is_none_or(|role| role.contains('/')) {
            return Err(wrapping_refused("it was not made by the role's secret-id endpoint"));
        }
        let answer = self.order("sys/wrapping/unwrap", wrapping).await?;
        let Unwrapped { data } = about_wrapping(&answer)?;
        let SecretText(inner) = data.secret_id;
        let kept = Some((wrapping.clone(), inner.clone()));
        *self.unwrapped.lock().unwrap_or_else(PoisonError::into_inner) = kept;
        Ok(inner)
    }
}

fn about_wrapping<T: for<'de> Deserialize<'de>>(answer: &Response<Bytes>) -> Result<T, Failure> {
    match answer.status().as_u16() {
        200 => read(answer),
        status @ 400..=404 if is_refusal(answer) => {
            Err(wrapping_refused(&format!("{WHO} answered HTTP status {status}")))
        }
        _ => Err(refusal(answer)),
    }
}

fn grant(answer: &Response<Bytes>) -> Result<Grant, Failure> {
    let Login { auth } = read(answer)?;
    let auth = auth.ok_or_else(|| Meaning::NotUnderstood.failure(WHO, "something without a token"))?;
    let SecretText(token) = auth.client_token;
    if token.is_empty() || !token.expose().iter().all(u8::is_ascii_graphic) {
        return Err(Meaning::NotUnderstood.failure(WHO, "something without a token"));
    }
    Ok(Grant { token, life: life(auth.lease_duration), upkeep: Upkeep::Renew })
}

fn life(seconds: u64) -> Option<Duration> {
    (seconds > 0).then(|| Duration::from_secs(seconds))
}

/// What serde_json says may quote a secret.
fn read<T: for<'de> Deserialize<'de>>(answer: &Response<Bytes>) -> Result<T, Failure> {
    serde_json::from_slice(answer.body()).map_err(|_| Meaning::NotUnderstood.failure(WHO, "something"))
}

fn body(credentials: &Credentials<'_>) -> Result<Vec<u8>, Failure> {
    serde_json::to_vec(credentials).map_err(|_| misconfigured("what the resolver signs in with cannot be JSON"))
}

fn wrapping_refused(why: &str) -> Failure {
    Failure::permanent(
        Hop::Vault,
        "vault_wrapping_refused",
        format!("the wrapping token in auth.secret_id_file is not good: {why}"),
        "Have a new secret id wrapped into the file. If the old one had not ended, somebody else unwrapped it: destroy \
         that secret id.",
    )
}
