//! Counts how often files are opened, by the kernel's own word: the questions that reach a folder.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Mutex;

use rustix::fs::inotify::{CreateFlags, Reader, WatchFlags, add_watch, init};
use rustix::io::Errno;

pub(crate) struct Watch {
    inotify: OwnedFd,
    opened: Mutex<usize>,
}

impl Watch {
    pub(crate) fn new() -> Self {
        Self { inotify: init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).expect("inotify"), opened: Mutex::new(0) }
    }

    /// From now on, whatever is opened in this folder.
    pub(crate) fn folder(&self, path: &Path) {
        add_watch(&self.inotify, path, WatchFlags::OPEN).expect("a watch");
    }

    pub(crate) fn opened(&self) -> usize {
        let mut opened = self.opened.lock().expect("unpoisoned");
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(_) => *opened += 1,
                Err(Errno::AGAIN) => return *opened,
                Err(error) => panic!("inotify: {error}"),
            }
        }
    }
}
