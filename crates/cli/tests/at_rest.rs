//! `midward instance` and its keys: what is wrong with one is said with a code, and the key is never repeated.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Command;

/// Starts an instance that is expected to refuse: exit code and standard error.
fn refused(folder: &Path, encryption: &str, credentials: Option<&Path>) -> (Option<i32>, String) {
    let config = folder.join("instance.toml");
    let text = format!(
        "[server]\nlisten = '127.0.0.1:0'\ncall_listen = '127.0.0.1:0'\ntls = 'off'\n[store]\npath = 'data'\n\
         [encryption]\n{encryption}\n"
    );
    std::fs::write(&config, text).expect("written");
    let mut command = Command::new(env!("CARGO_BIN_EXE_midward"));
    command.arg("instance").arg("--config").arg(&config).env_remove("CREDENTIALS_DIRECTORY");
    command.envs(credentials.map(|folder| ("CREDENTIALS_DIRECTORY", folder)));
    let output = command.output().expect("it ends by itself");
    (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn a_key_that_cannot_be_used_keeps_the_instance_from_starting() {
    let folder = tempfile::tempdir().expect("a folder");
    let write = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("a mode");
    };
    write("exposed.key", &"a5".repeat(16).replace("a5a5", "a51f"), 0o644);
    write("short.key", "0123456789abcdef", 0o600);
    write("good.key", "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f", 0o600);
    for (encryption, credentials, said) in [
        ("key_file = 'exposed.key'", false, "exposed.key can be read or changed by others"),
        ("key_file = 'short.key'", false, "short.key does not hold 32 bytes"),
        ("key_file = 'absent.key'", false, "absent.key"),
        ("older_key_files = ['good.key']", false, "none to write with"),
        ("key_file = 'good.key'\nkey_credential = 'good.key'", true, "both a file and a credential"),
        ("key_credential = 'good.key'", false, "systemd gave this service no credentials"),
        ("key_credential = '../good.key'", true, "is not the name of a credential"),
        ("key_credential = 'absent.key'", true, "absent.key"),
        // The key of the credential is read, and the next one is not.
        ("key_credential = 'good.key'\nolder_key_files = ['short.key']", true, "short.key does not hold 32 bytes"),
    ] {
        let (code, stderr) = refused(folder.path(), encryption, credentials.then_some(folder.path()));
        assert_eq!(code, Some(8), "{encryption}: {stderr}");
        assert!(stderr.contains("encryption_key_refused") && stderr.contains(said), "{encryption}: {stderr}");
        assert!(!stderr.contains("a51f") && !stderr.contains("0123456789") && !stderr.contains("000102"), "{stderr}");
    }
}
