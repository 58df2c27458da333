//! Kinds whose cargo feature is off are known, and say what is missing.

#![cfg(not(any(feature = "aws", feature = "azure")))]

use std::sync::Arc;
use std::time::Duration;

use midward_core::{SystemClock, SystemRandom};
use midward_net::WayOut;
use midward_resolvers::{Lookup, ResolverConfig, ResolverContext, ResolverReport, build};

#[tokio::test]
async fn a_kind_that_is_not_built_in_names_the_feature_that_it_needs() {
    for (section, kind, feature) in [
        ("kind = 'aws_secrets_manager'\nregion = 'eu-central-1'", "aws_secrets_manager", "`--features aws`"),
        (
            "kind = 'azure_key_vault'\nvault_url = 'https://crm.vault.azure.net'",
            "azure_key_vault",
            "`--features azure`",
        ),
    ] {
        let source = if kind.starts_with("aws") { "instance_metadata" } else { "managed_identity" };
        let text = format!("{section}\ncredentials = {{ source = '{source}' }}");
        let config: ResolverConfig = toml::from_str(&text).expect("configuration");
        let context = ResolverContext {
            mid_name: "mid-1".to_owned(),
            jar_host_dir: "/nowhere".into(),
            state_dir: "/nowhere".into(),
            trampoline: Vec::new(),
            java: "/nowhere".into(),
            vaults: WayOut::plain_default().expect("a way out"),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
        };
        let resolver = build("cloud", &config, &context);
        assert_eq!(resolver.kind(), kind);
        assert!(matches!(resolver.report(), ResolverReport::Unusable(why) if why.contains(feature)));
        let lookup = Lookup { credential_id: "crm".to_owned(), address: None, fresh: false };
        let failure = resolver.resolve(&lookup, Duration::from_secs(1)).await.expect_err("not built in").0;
        assert_eq!(failure.code, "resolver_not_built");
        assert!(failure.detail.contains(kind) && failure.action.contains(feature), "{failure}");
    }
}
