//! Endpoints that metadata names: fetched as token requests are sent, and used only if the rule lists them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use midward_core::{Clock, Failure, Random};
use midward_net::{AddressGuard, WayOut};
use midward_oauth::{BoxFuture, ClientAuth, EndpointSource, Endpoints, IssuerMetadata, Metadata, RevocationEndpoint};
use url::Url;

use crate::audit::{Audit, AuditEntry};
use crate::policy::{Permit, PolicyStore, Refusal, UNLISTED_ENDPOINT};
use crate::transport::NetTokenTransport;

/// Most issuers whose metadata is kept.
const MAX_ISSUERS: usize = 1024;

/// The metadata of every issuer that was asked for. What one rule's guard let through is not handed to another's.
pub(crate) struct Discoveries {
    way: WayOut,
    clock: Arc<dyn Clock>,
    random: Arc<dyn Random>,
    known: Mutex<HashMap<(String, AddressGuard), Arc<IssuerMetadata>>>,
}

impl Discoveries {
    pub(crate) fn new(way: WayOut, clock: Arc<dyn Clock>, random: Arc<dyn Random>) -> Self {
        Self { way, clock, random, known: Mutex::default() }
    }

    pub(crate) fn of(&self, issuer: &str, guard: &AddressGuard) -> Arc<IssuerMetadata> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_ISSUERS {
            known.clear();
        }
        let found = known.entry((issuer.to_owned(), guard.clone())).or_insert_with(|| {
            let transport = Arc::new(NetTokenTransport::new(self.way.clone(), guard.clone()));
            IssuerMetadata::new(issuer, transport, Arc::clone(&self.clock), Arc::clone(&self.random))
        });
        Arc::clone(found)
    }

    /// Asks every issuer anew: an operator wants it so.
    pub(crate) fn forget(&self) {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.values().for_each(|metadata| metadata.forget());
    }
}

/// The endpoints of one client at an issuer, under one permit.
pub(crate) struct PolicedEndpoints {
    pub(crate) metadata: Arc<IssuerMetadata>,
    pub(crate) permit: Permit,
    pub(crate) client_auth: ClientAuth,
    pub(crate) connection: String,
    pub(crate) credential_id: String,
    pub(crate) policy: Arc<PolicyStore>,
    pub(crate) audit: Arc<Audit>,
    pub(crate) clock: Arc<dyn Clock>,
    /// The last endpoint that was refused: its explanation is written down once.
    pub(crate) refused: Mutex<Option<(Url, Refusal)>>,
}

impl PolicedEndpoints {
    fn judge(&self, metadata: &Metadata) -> Result<Endpoints, Failure> {
        let found = metadata.token_endpoint(self.client_auth);
        // What is sent to is the rule's own URL, not what the document says.
        let Some(token_url) = self.permit.token_urls.iter().find(|listed| *listed == found) else {
            return Err(self.refuse(found).failure());
        };
        let revocation = match &self.permit.revocation_url {
            Some(configured) => RevocationEndpoint::At(configured.clone()),
            None => match metadata.revocation_endpoint(self.client_auth) {
                None => RevocationEndpoint::None,
                Some(found) => match self.permit.revocation_urls.iter().find(|listed| *listed == found) {
                    Some(listed) => RevocationEndpoint::At(listed.clone()),
                    None => RevocationEndpoint::NotAllowed,
                },
            },
        };
        Ok(Endpoints {
            token_url: token_url.clone(),
            revocation,
            lacks_method: metadata.lacks(self.client_auth),
            lacks_dpop_algorithm: metadata.lacks_dpop_algorithm(),
        })
    }

    fn refuse(&self, found: &Url) -> Refusal {
        let mut last = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((url, refusal)) = &*last
            && url == found
        {
            return refusal.clone();
        }
        let explanation = self.permit.unlisted_endpoint(self.metadata.issuer(), found);
        let refusal = self.policy.refuse(UNLISTED_ENDPOINT, explanation);
        self.audit.record(AuditEntry::Refusal {
            at: self.clock.wall(),
            reference: refusal.reference.clone(),
            request_id: String::new(),
            connection: self.connection.clone(),
            credential_id: self.credential_id.clone(),
            code: refusal.code.to_owned(),
            explanation: refusal.explanation.clone(),
            suggestion: String::new(),
        });
        *last = Some((found.clone(), refusal.clone()));
        refusal
    }
}

impl EndpointSource for PolicedEndpoints {
    fn endpoints(&self) -> BoxFuture<'_, Result<Endpoints, Failure>> {
        Box::pin(async move { self.judge(&*self.metadata.get().await?) })
    }

    fn forget(&self) {
        self.metadata.forget();
    }
}
