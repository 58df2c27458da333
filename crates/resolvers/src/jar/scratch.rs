//! A folder for one JVM's temporary files, made anew for each and removed after it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// The folder. Dropping it removes it with all that is in it, which blocks.
#[derive(Debug)]
pub(super) struct Scratch(PathBuf);

impl Scratch {
    /// Makes a folder below `parent`, and removes those that processes which are no more left there. Blocks.
    pub(super) fn make(parent: &Path) -> io::Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        DirBuilder::new().recursive(true).mode(0o700).create(parent)?;
        sweep(parent)?;
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("{}-{number}", std::process::id()));
        // An earlier process with this one's number may have been stopped too hard to tidy up.
        remove(&folder)?;
        DirBuilder::new().mode(0o700).create(&folder)?;
        Ok(Self(folder))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.0) {
            tracing::warn!(%error, "a resolver's temporary files could not be removed");
        }
    }
}

fn sweep(parent: &Path) -> io::Result<()> {
    for entry in fs::read_dir(parent)? {
        let entry = entry?;
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.split('-').next()).unwrap_or_default();
        if !Path::new("/proc").join(owner).exists() {
            remove(&entry.path())?;
        }
    }
    Ok(())
}

fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_ends_with_its_user_and_at_the_latest_with_the_next() {
        let parent = tempfile::tempdir().expect("folder");
        let parent = parent.path().join("tmp");
        let first = Scratch::make(&parent).expect("made");
        fs::write(first.path().join("f"), "x").expect("written");
        // No process has the number 0.
        fs::create_dir_all(parent.join("0-7/below")).expect("left behind");
        let second = Scratch::make(&parent).expect("made");
        assert!(!parent.join("0-7").exists() && first.path().exists());
        assert_ne!(first.path(), second.path());
        drop((first, second));
        assert_eq!(fs::read_dir(&parent).expect("list").count(), 0);
    }
}
