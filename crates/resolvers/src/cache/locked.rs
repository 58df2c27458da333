//! Bytes that are never written to swap and are wiped when they are dropped.
//!
//! The one module of this crate with unsafe code: `mlock(2)` takes an address. Nothing is read or written through it; the
//! address and the length are those of whole pages inside a buffer that this module owns, so that neither locking nor
//! unlocking touches a page that somebody else uses.

use std::ops::Range;

use zeroize::Zeroize as _;

/// A wiped buffer with a window of whole, locked pages in it.
pub(super) struct Locked {
    buffer: Vec<u8>,
    window: Range<usize>,
    len: usize,
}

impl Locked {
    /// Room for `len` bytes, all zero. Fails where the process may lock no more memory (`RLIMIT_MEMLOCK`).
    pub(super) fn zeroed(len: usize) -> std::io::Result<Self> {
        let page = rustix::param::page_size();
        let pages = len.max(1).next_multiple_of(page);
        let buffer = vec![0; pages + page];
        let before = buffer.as_ptr().addr().next_multiple_of(page) - buffer.as_ptr().addr();
        let mut locked = Self { buffer, window: before..before + pages, len };
        let window = locked.window();
        #[expect(unsafe_code, reason = "mlock reads and writes nothing; the range is ours, see the module's head")]
        // SAFETY: the range lies in one live allocation that is owned by `locked`, which unlocks it before it is freed.
        unsafe { rustix::mm::mlock(window.as_mut_ptr().cast(), window.len()) }?;
        Ok(locked)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer[self.window.start..][..self.len]
    }

    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        let len = self.len;
        &mut self.window()[..len]
    }

    fn window(&mut self) -> &mut [u8] {
        &mut self.buffer[self.window.clone()]
    }

    fn wipe(&mut self) {
        self.window().zeroize();
    }
}

impl Drop for Locked {
    fn drop(&mut self) {
        self.wipe();
        let window = self.window();
        #[expect(unsafe_code, reason = "as for mlock")]
        // SAFETY: the range is the one that was locked, or would have been; unlocking what is not locked does nothing.
        let unlocked = unsafe { rustix::mm::munlock(window.as_mut_ptr().cast(), window.len()) };
        if let Err(error) = unlocked {
            tracing::debug!(%error, "memory stays locked");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel has locked for this process, in KiB.
    fn locked_kib() -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmLck:")).expect("VmLck");
        line.trim().trim_end_matches(" kB").trim().parse().expect("a number")
    }

    #[test]
    fn pages_are_locked_while_it_lives() {
        let page = rustix::param::page_size();
        let kib = |bytes: usize| u64::try_from(bytes / 1024).expect("small");
        let before = locked_kib();
        let (small, large) = (Locked::zeroed(1).expect("locked"), Locked::zeroed(page + 1).expect("locked"));
        assert_eq!(locked_kib(), before + kib(3 * page));
        assert_eq!((small.bytes(), large.bytes().len()), (&[0][..], page + 1));
        assert_eq!(small.bytes().as_ptr().addr() % page, 0);
        drop(small);
        assert_eq!(locked_kib(), before + kib(2 * page), "its own pages only");
        drop(large);
        assert_eq!(locked_kib(), before);
    }

    #[test]
    fn wiping_leaves_nothing() {
        let mut locked = Locked::zeroed(5000).expect("locked");
        locked.bytes_mut().fill(0xaa);
        assert!(locked.bytes().iter().all(|byte| *byte == 0xaa));
        locked.wipe();
        assert!(locked.buffer.iter().all(|byte| *byte == 0), "the whole buffer, not the used part alone");
    }

    #[test]
    fn a_limit_is_an_error() {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let old = getrlimit(Resource::Memlock);
        // Root's CAP_IPC_LOCK passes the limit by: then there is nothing to see here but that it works.
        setrlimit(Resource::Memlock, Rlimit { current: Some(0), maximum: old.maximum }).expect("lowered");
        let privileged = std::fs::read_to_string("/proc/self/status").expect("Linux").lines().any(|line| {
            let effective = line.strip_prefix("CapEff:").and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok());
            effective.is_some_and(|set| set & (1 << 14) != 0)
        });
        assert_eq!(Locked::zeroed(1).is_ok(), privileged);
    }
}
