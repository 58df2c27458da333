//! One exchange with the token endpoint: one request, or with DPoP a second one if the server asks for a nonce.

use std::time::Duration;

use midward_core::{BootTime, ClientMaterial, Failure, Hop, Trace, WallLead};

use crate::dpop::{DpopKey, Proven};
use crate::failures;
use crate::fetch::GrantFetcher;
use crate::reply::{self, TokenHttpReply};
use crate::request::{self, ClientCertificate, RequestError, TokenHttpRequest, TokenRequestSpec};

/// The reply, with the request that it is for.
pub(crate) struct Exchanged {
    pub(crate) reply: TokenHttpReply,
    /// When the request was sent.
    pub(crate) requested: BootTime,
    pub(crate) lead: WallLead,
    pub(crate) took: Duration,
    /// The certificate that was presented.
    pub(crate) certificate: Option<ClientCertificate>,
    /// The key that was proven, to which the token is to be bound.
    pub(crate) dpop: Option<DpopKey>,
}

/// Why there is no reply.
pub(crate) enum NotExchanged {
    /// Nothing was sent.
    Unbuilt(RequestError),
    /// What was sent, if anything, got no answer.
    Failed(Failure),
}

impl GrantFetcher {
    /// Sends the request for a token. The material is wiped as soon as it is not needed: with DPoP when the server has
    /// answered, because it may ask for a nonce, and an assertion must not be sent twice; else before anything is sent.
    pub(crate) async fn exchange(
        &self,
        spec: &TokenRequestSpec,
        material: ClientMaterial,
        trace: &mut Trace,
    ) -> Result<Exchanged, NotExchanged> {
        let build = |material: &ClientMaterial| {
            request::build(spec, material, self.clock.wall(), &*self.random).map_err(NotExchanged::Unbuilt)
        };
        if !spec.dpop {
            let request = build(&material)?;
            drop(material);
            return self.post(request, None, Self::DEADLINE, trace).await;
        }
        let unproven = |error| NotExchanged::Unbuilt(RequestError::Proof(error));
        // A key for each token: it ends with it, and what is dropped by a flush can be used by nobody.
        let key = DpopKey::generate().map_err(unproven)?;
        let began = self.clock.boot();
        let mut nonce = self.nonces.of(&spec.token_url);
        let mut was_asked = false;
        loop {
            let mut request = build(&material)?;
            let of = Proven { method: "POST", url: &request.url, nonce: nonce.as_deref(), token: None };
            let proof = key.proof(&of, self.clock.wall(), &*self.random).map_err(unproven)?;
            request.dpop = Some(proof);
            let left = Self::DEADLINE.saturating_sub(self.clock.boot().saturating_since(began));
            let exchanged = self.post(request, Some(key.clone()), left, trace).await?;
            let fresh = self.nonces.take(&spec.token_url, &exchanged.reply.headers);
            // The nonce of this very answer: another request may have brought the store a newer one meanwhile.
            if was_asked || fresh.is_none() || !reply::asks_for_nonce(&exchanged.reply) {
                return Ok(exchanged);
            }
            let what = "asked for a DPoP nonce: sent once more with it";
            trace.push(Hop::AuthorizationServer, what, exchanged.took);
            nonce = fresh;
            was_asked = true;
        }
    }

    async fn post(
        &self,
        request: TokenHttpRequest,
        dpop: Option<DpopKey>,
        limit: Duration,
        trace: &mut Trace,
    ) -> Result<Exchanged, NotExchanged> {
        let certificate = request.certificate.clone();
        let requested = self.clock.boot();
        let lead = WallLead::of(requested, self.clock.wall());
        let posted = crate::sync::timeout(limit, self.transport.post(request, limit)).await;
        let took = self.clock.boot().saturating_since(requested);
        let failure = match posted {
            Ok(Ok(reply)) => return Ok(Exchanged { reply, requested, lead, took, certificate, dpop }),
            Ok(Err(failure)) => failures::of_transport(&failure),
            Err(_elapsed) => failures::token_endpoint_timed_out(Self::DEADLINE),
        };
        trace.push(Hop::AuthorizationServer, failure.code.as_str(), took);
        Err(NotExchanged::Failed(failure))
    }
}
