//! The instance on its embedded database.

use crate::scenarios::support::Place;
use crate::scenarios::{for_each_scenario, with_document};

macro_rules! each_on_sqlite {
    ($($scenario:ident,)*) => {
        $(#[tokio::test]
        async fn $scenario() {
            crate::scenarios::$scenario(Place::sqlite()).await;
        })*
    };
}

for_each_scenario!(each_on_sqlite);

#[tokio::test]
async fn the_database_is_its_owners_only() {
    use std::os::unix::fs::PermissionsExt as _;
    let place = Place::sqlite();
    std::fs::set_permissions(place.path(), std::fs::Permissions::from_mode(0o755)).expect("a mode");
    let instance = with_document(&place).await;
    for entry in std::fs::read_dir(place.path()).expect("a folder").map(|entry| entry.expect("an entry")) {
        let mode = entry.metadata().expect("metadata").permissions().mode() & 0o777;
        let name = entry.file_name().into_string().expect("text");
        if !matches!(name.as_str(), "listen.json" | "ca.pem") {
            assert_eq!(mode, 0o600, "{name}");
        }
    }
    instance.stop().await;
}
