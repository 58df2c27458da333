//! A disk with faults to order under the databases of the programs that are started with it.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;

/// What the disk does.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disk {
    Works,
    Full,
    ReadOnly,
    /// Takes what is written, and fails to make it durable.
    LosesWrites,
}

pub(crate) struct FakeDisk {
    library: PathBuf,
    state: PathBuf,
}

impl FakeDisk {
    /// Compiles the library into `folder`.
    pub(crate) fn new(folder: &Path) -> anyhow::Result<Self> {
        let library = folder.join("disk.so");
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/e2e/support/disk.c");
        let built = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).output()?;
        ensure!(built.status.success(), "cc: {}", String::from_utf8_lossy(&built.stderr));
        Ok(Self { library, state: folder.join("disk-state") })
    }

    /// For the programs that it is under.
    pub(crate) fn environment(&self) -> Vec<(String, String)> {
        let text = |path: &Path| path.to_string_lossy().into_owned();
        vec![("LD_PRELOAD".to_owned(), text(&self.library)), ("FAKE_DISK".to_owned(), text(&self.state))]
    }

    pub(crate) fn set(&self, disk: Disk) -> anyhow::Result<()> {
        let letter = match disk {
            Disk::Works => "w",
            Disk::Full => "f",
            Disk::ReadOnly => "r",
            Disk::LosesWrites => "s",
        };
        Ok(std::fs::write(&self.state, letter)?)
    }
}
