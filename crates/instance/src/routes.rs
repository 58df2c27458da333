//! Connections compiled for the calling path: the document that leases name, and who may serve it. Kept in memory
//! until something changes.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use midward_wire::{ConfigDigest, ConfigDocument, ConnectionConfig, CredentialConfig, ProfileConfig};
use url::{Host, Url};

use crate::fleet::Fleet;
use crate::model::{AppliesTo, Cluster, ClusterMode, Connection, Credential, Keep, OAuthEntity, OAuthEntityProfile};
use crate::network::Network;
use crate::store::{Store, StoreError, clusters, connections, credentials, oauth, to_json};

/// Everything that a submission needs to know about its connection.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) alias: String,
    pub(crate) digest: ConfigDigest,
    pub(crate) document: String,
    pub(crate) resolver: String,
    /// Names of the MIDs that it is limited to; empty: any.
    pub(crate) mid_names: Vec<String>,
    /// Their identifiers as `,id,id,`; empty: any; `,,`: limited to MIDs that do not exist.
    pub(crate) mids: String,
    /// The cluster that serves it.
    pub(crate) cluster: Option<String>,
    /// The first of `mids` that can serve it takes it.
    pub(crate) ordered: bool,
    /// It has a concurrency or a rate.
    pub(crate) limited: bool,
    /// JSON of the policy by which queued requests are tried again.
    pub(crate) retry: Option<String>,
    pub(crate) timeout_ms: u64,
    /// Of its requests, bodies and headers are removed when they have ended.
    pub(crate) metadata_only: bool,
    /// See [`midward_wire::ApiCall::may_repeat`].
    pub(crate) replay_methods: Option<Vec<String>>,
}

impl Route {
    /// To a resolver, by any MID, on no terms at all.
    #[cfg(any(test, feature = "bench"))]
    pub(crate) fn plain(alias: &str, resolver: &str) -> Self {
        Self {
            alias: alias.to_owned(),
            digest: ConfigDigest::of(b"{}"),
            document: "{}".to_owned(),
            resolver: resolver.to_owned(),
            mid_names: Vec::new(),
            mids: String::new(),
            cluster: None,
            ordered: false,
            limited: false,
            retry: None,
            timeout_ms: 30_000,
            metadata_only: false,
            replay_methods: None,
        }
    }

    pub(crate) fn allows(&self, mid_id: &str) -> bool {
        self.mids.is_empty() || self.place(mid_id).is_some()
    }

    /// Where a MID stands among those that may serve it.
    pub(crate) fn place(&self, mid_id: &str) -> Option<usize> {
        self.mids.split(',').filter(|id| !id.is_empty()).position(|id| id == mid_id)
    }
}

/// Compiled connections by alias, and their documents by digest.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    by_alias: RwLock<HashMap<String, Arc<Route>>>,
    generation: AtomicU64,
}

impl Routes {
    /// The route of a connection; `None` when there is no such connection.
    pub(crate) async fn find(
        &self,
        store: &Store,
        fleet: &Fleet,
        alias: &str,
    ) -> Result<Option<Arc<Route>>, StoreError> {
        if let Some(route) = self.by_alias.read().unwrap_or_else(PoisonError::into_inner).get(alias) {
            return Ok(Some(Arc::clone(route)));
        }
        let generation = self.generation.load(Ordering::Acquire);
        let Some(route) = store.patiently(|| load_and_keep(store, fleet, alias)).await? else { return Ok(None) };
        let route = Arc::new(route);
        let mut routes = self.by_alias.write().unwrap_or_else(PoisonError::into_inner);
        // Something changed while this was read: use it once, do not keep it.
        if self.generation.load(Ordering::Acquire) == generation {
            routes.insert(alias.to_owned(), Arc::clone(&route));
        }
        Ok(Some(route))
    }

    /// Digests of the documents that the compiled connections name.
    pub(crate) fn digests(&self) -> HashSet<String> {
        let routes = self.by_alias.read().unwrap_or_else(PoisonError::into_inner);
        routes.values().map(|route| route.digest.0.clone()).collect()
    }

    /// Records or MIDs changed.
    pub(crate) fn forget(&self) {
        let mut routes = self.by_alias.write().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        routes.clear();
    }
}

/// The route, and its document in the database: a lease that names it may be given as soon as it is used.
async fn load_and_keep(store: &Store, fleet: &Fleet, alias: &str) -> Result<Option<Route>, StoreError> {
    let Some(route) = load(store, fleet, alias).await? else { return Ok(None) };
    let mut tx = store.begin().await?;
    connections::put_document(&mut *tx, &route.digest.0, &route.document).await?;
    tx.commit().await?;
    Ok(Some(route))
}

async fn load(store: &Store, fleet: &Fleet, alias: &str) -> Result<Option<Route>, StoreError> {
    let db = store.readers();
    let Some(connection) = connections::named(db, alias).await? else { return Ok(None) };
    let missing = |what: &str, name: &str| StoreError::Corrupt(format!("{what} {name} is missing"));
    let credential = credentials::named(db, &connection.credential)
        .await?
        .ok_or_else(|| missing("credential", &connection.credential))?;
    let profile = oauth::profile_named(db, &credential.oauth_entity_profile)
        .await?
        .ok_or_else(|| missing("OAuth entity profile", &credential.oauth_entity_profile))?;
    let entity = oauth::entity_named(db, &profile.oauth_entity)
        .await?
        .ok_or_else(|| missing("OAuth entity", &profile.oauth_entity))?;
    let clusters = clusters::all(db).await?;
    let cluster = cluster_of(&connection, clusters)?;
    compile(connection, cluster, credential, profile, entity, fleet).map(Some)
}

/// The cluster that a connection names; else, when it names no MID either, the one with the most precise network around
/// the address in its base URL.
fn cluster_of(connection: &Connection, clusters: Vec<Cluster>) -> Result<Option<Cluster>, StoreError> {
    if let Some(name) = &connection.cluster {
        let found = clusters.into_iter().find(|cluster| cluster.name == *name);
        return found.map(Some).ok_or_else(|| StoreError::Corrupt(format!("cluster {name} is missing")));
    }
    let address = match Url::parse(&connection.base_url).ok().as_ref().and_then(Url::host) {
        Some(Host::Ipv4(address)) => IpAddr::V4(address),
        Some(Host::Ipv6(address)) => IpAddr::V6(address),
        _ => return Ok(None),
    };
    if connection.mid.is_some() {
        return Ok(None);
    }
    let bits = |cluster: &Cluster| {
        let networks = cluster.networks.iter().filter_map(|text| Network::parse(text));
        networks.filter(|network| network.contains(address)).map(Network::bits).max()
    };
    Ok(clusters.into_iter().filter(|cluster| bits(cluster).is_some()).max_by_key(bits))
}

fn compile(
    connection: Connection,
    cluster: Option<Cluster>,
    credential: Credential,
    profile: OAuthEntityProfile,
    entity: OAuthEntity,
    fleet: &Fleet,
) -> Result<Route, StoreError> {
    let chosen = match (&connection.mid, &cluster) {
        (Some(name), _) => Some(vec![name.clone()]),
        (None, Some(cluster)) => Some(cluster.mids.clone()),
        (None, None) => None,
    };
    let is_limited = chosen.is_some() || credential.applies_to != AppliesTo::All;
    let mid_names = match (chosen, credential.applies_to) {
        (None, AppliesTo::All) => Vec::new(),
        (None, AppliesTo::Mids(names)) | (Some(names), AppliesTo::All) => names,
        (Some(names), AppliesTo::Mids(may)) => names.into_iter().filter(|name| may.contains(name)).collect(),
    };
    let mut mids = String::new();
    if is_limited {
        mids.push(',');
        for mid in mid_names.iter().filter_map(|name| fleet.by_name(name)) {
            mids.push_str(&mid.id);
            mids.push(',');
        }
        if mids.len() == 1 {
            mids.push(',');
        }
    }
    let grant_type = profile.grant_type.grant();
    let document = to_json(&ConfigDocument {
        version: midward_wire::VERSION,
        connection: ConnectionConfig {
            alias: connection.alias.clone(),
            base_url: connection.base_url,
            timeout_ms: connection.timeout_ms,
            replay_methods: connection.replay_methods.clone(),
        },
        credential: CredentialConfig {
            name: credential.name,
            credential_id: credential.credential_id,
            resolver: credential.resolver.clone(),
        },
        profile: ProfileConfig {
            name: profile.name,
            grant_type: grant_type.map_err(|why| StoreError::Corrupt(why.to_owned()))?,
            jwt_bearer: profile.jwt_bearer,
            token_exchange: profile.token_exchange,
            token_url: entity.token_url,
            revocation_url: entity.revocation_url,
            client_auth: entity.client_auth,
            scopes: profile.scopes,
            audience: profile.audience,
            resource: profile.resource,
            extra_parameters: profile.extra_parameters,
            issuer: entity.issuer,
            assertion_audience: entity.assertion_audience,
            assertion_algorithm: entity.assertion_algorithm,
            certificate_bound_tokens: entity.certificate_bound_tokens,
            dpop_bound_tokens: entity.dpop_bound_tokens,
        },
    })?;
    Ok(Route {
        alias: connection.alias,
        digest: ConfigDigest::of(document.as_bytes()),
        document,
        resolver: credential.resolver,
        mid_names,
        mids,
        ordered: cluster.as_ref().is_some_and(|cluster| cluster.mode == ClusterMode::Failover),
        cluster: cluster.map(|cluster| cluster.name),
        limited: connection.max_concurrent.is_some() || connection.max_per_minute.is_some(),
        retry: connection.retry.as_ref().map(to_json).transpose()?,
        timeout_ms: connection.timeout_ms,
        metadata_only: connection.keep == Keep::Metadata,
        replay_methods: connection.replay_methods,
    })
}
