//! A backup that is taken under load starts as the same instance.

use midward_instance::{BackupError, StoreConfig, back_up, restore};

use crate::scenarios::support::{Instance, Place};
use crate::scenarios::{submit, with_document};

fn store(path: &std::path::Path) -> StoreConfig {
    StoreConfig { path: path.to_owned(), ..StoreConfig::default() }
}

#[tokio::test]
async fn a_backup_of_a_running_instance_starts_as_the_same_one() {
    let place = Place::sqlite();
    let instance = with_document(&place).await;
    let before = submit(&instance, "GET").await;
    let folder = tempfile::tempdir().expect("a folder");
    let copy = folder.path().join("copy");
    back_up(&store(place.path()), &copy).await.expect("a backup");
    let after = submit(&instance, "GET").await;
    assert!(matches!(back_up(&store(place.path()), &copy).await, Err(BackupError::Exists(_))));
    let key = instance.key.clone();
    let enrolled = instance.enroll_token("edge", true).await;
    instance.stop().await;

    let place = Place::sqlite();
    restore(&copy, &store(place.path())).expect("restored");
    let instance = Instance::start(&place, Some(key)).await;
    assert_eq!(instance.get(&format!("/api/v1/requests/{before}")).await.0, 200);
    assert_eq!(instance.get(&format!("/api/v1/requests/{after}")).await.0, 404, "it came after the backup");
    let again = instance.enroll_token("edge", true).await;
    assert_eq!((again.instance_id, again.instance_key), (enrolled.instance_id, enrolled.instance_key));
    instance.stop().await;
    assert!(matches!(restore(&copy, &store(place.path())), Err(BackupError::Exists(_))), "nothing is overwritten");
}
