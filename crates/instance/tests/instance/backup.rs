//! A backup that is taken under load starts as the same instance.

use std::os::unix::fs::PermissionsExt as _;

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

#[tokio::test]
async fn keys_in_a_folder_of_their_own_are_in_the_backup_and_go_back_there() {
    let place = Place::sqlite();
    with_document(&place).await.stop().await;
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys");
    std::fs::create_dir(&keys).expect("made");
    std::fs::rename(place.path().join("instance.key"), keys.join("instance.key")).expect("moved");
    for (name, content) in [("ca.key", "the CA's key"), ("ca.pem", "the CA")] {
        std::fs::write(keys.join(name), content).expect("written");
    }
    std::fs::set_permissions(keys.join("ca.key"), std::fs::Permissions::from_mode(0o600)).expect("private");
    let copy = folder.path().join("copy");
    back_up(&StoreConfig { keys: Some(keys.clone()), ..store(place.path()) }, &copy).await.expect("a backup");

    let (data, back) = (folder.path().join("data"), folder.path().join("back"));
    restore(&copy, &StoreConfig { keys: Some(back.clone()), ..store(&data) }).expect("restored");
    for name in ["instance.key", "ca.key", "ca.pem"] {
        let content = |folder: &std::path::Path| std::fs::read(folder.join(name)).expect(name);
        assert_eq!(content(&back), content(&keys), "{name}");
        assert!(!data.join(name).exists(), "{name} is in its own folder only");
    }
    for name in ["instance.key", "ca.key"] {
        let mode = std::fs::metadata(back.join(name)).expect(name).permissions().mode();
        assert_eq!(mode & 0o077, 0, "{name} is its owner's only");
    }
    // What another instance of the same keys brought stays.
    std::fs::write(back.join("ca.pem"), "as it is now").expect("written");
    let second = folder.path().join("second");
    restore(&copy, &StoreConfig { keys: Some(back.clone()), ..store(&second) }).expect("restored beside it");
    assert_eq!(std::fs::read(back.join("ca.pem")).expect("there"), b"as it is now");
}
