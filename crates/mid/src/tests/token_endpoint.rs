//! The token engine with a real way out and a clock that stands still: for tests of what a token endpoint may do.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use midward_core::{
    BootTime, CircuitRules, ClientMaterial, Clock, Failure, FingerprintKey, ManualClock, MaterialField, Random, Secret,
    SystemRandom, Trace, WallTime,
};
use midward_net::{AddressGuard, WayOut};
use midward_oauth::{
    AssertionRules, BoxFuture, ClientAuth, CredentialRef, Expected, FixedEndpoints, GrantFetcher, GrantType, Material,
    MaterialSource, RevocationEndpoint, TokenCache, TokenCacheConfig, TokenHandle, TokenKey, TokenRequestSpec,
};

use crate::transport::NetTokenTransport;

/// How each token request ends.
pub(super) const REQUEST_END: &[u8] = b"client_secret=s3cret&scope=read";

pub(super) fn clock() -> Arc<ManualClock> {
    let boot = BootTime::from_duration(Duration::from_hours(1));
    Arc::new(ManualClock::new(boot, WallTime::from_unix_millis(1_800_000_000_000)))
}

struct Vault;

impl MaterialSource for Vault {
    fn read(&self, _fresh: bool) -> BoxFuture<'_, Result<Material, Failure>> {
        Box::pin(async {
            let material = ClientMaterial::new()
                .with(MaterialField::ClientId, Secret::from("id"))
                .with(MaterialField::ClientSecret, Secret::from("s3cret"));
            Ok(Material { material, changing: false, trace: Trace::default() })
        })
    }
}

/// A handle of a cache whose tokens come from this URL.
pub(super) fn handle(token_url: &str, way: WayOut, clock: &Arc<ManualClock>) -> TokenHandle {
    let guard = AddressGuard::new(["127.0.0.0/8".parse().expect("a network")]);
    let spec = TokenRequestSpec {
        token_url: token_url.parse().expect("a URL"),
        grant: GrantType::ClientCredentials,
        client_auth: ClientAuth::ClientSecretPost,
        scopes: vec!["read".to_owned()],
        audience: None,
        resource: vec![],
        extra_parameters: BTreeMap::new(),
        assertion: AssertionRules::default(),
        certificate_bound: false,
        dpop: false,
    };
    let credential = CredentialRef {
        instance: "i".to_owned(),
        credential_id: "c".to_owned(),
        address: None,
        resolver: "r".to_owned(),
    };
    let key = TokenKey::new(credential, &spec);
    let random: Arc<dyn Random> = Arc::new(SystemRandom);
    let clock: Arc<dyn Clock> = Arc::clone(clock) as Arc<dyn Clock>;
    let fetcher = GrantFetcher {
        endpoints: Arc::new(FixedEndpoints::new(spec.token_url.clone(), RevocationEndpoint::None)),
        expected: Expected::scopes(&spec.scopes),
        spec,
        source: Arc::new(Vault),
        transport: Arc::new(NetTokenTransport::new(way, guard)),
        clock: Arc::clone(&clock),
        random: Arc::clone(&random),
        fingerprint_key: FingerprintKey::generate(random.as_ref()),
        circuit_rules: CircuitRules::default(),
        nonces: Arc::default(),
    };
    TokenCache::new(clock, random, TokenCacheConfig::default()).handle(key, Arc::new(fetcher))
}
