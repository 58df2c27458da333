//! `AGE-SECRET-KEY-1...`: an X25519 key as Bech32 (BIP 173, without its limit of length).

use std::path::Path;

use aws_lc_rs::agreement::{PrivateKey, X25519};
use midward_core::Failure;
use zeroize::Zeroizing;

use crate::cloud::misconfigured;

const PREFIX: &str = "age-secret-key-";
const ALPHABET: &[u8; 32] = b"qpzry9x8gf2tvdw0s3jn54khce6mua7l";
/// Symbols of the checksum.
const CHECKSUM: usize = 6;

/// The keys in a file; lines that begin with `#` are comments. Blocks.
pub(super) fn read(path: &Path) -> Result<Vec<PrivateKey>, Failure> {
    let text = super::private(path)?;
    let lines = text.expose_str().unwrap_or_default().lines().map(str::trim);
    let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#')).map(parse);
    let keys: Option<Vec<_>> = keys.collect();
    keys.filter(|keys| !keys.is_empty()).ok_or_else(|| {
        misconfigured("identity_file must hold X25519 identities as age-keygen writes them (AGE-SECRET-KEY-1...)")
    })
}

pub(super) fn parse(line: &str) -> Option<PrivateKey> {
    PrivateKey::from_private_key(&X25519, &decode(line)?).ok()
}

/// 32 bytes out of 52 symbols.
fn decode(text: &str) -> Option<Zeroizing<Vec<u8>>> {
    let one_case = text.bytes().all(|b| !b.is_ascii_lowercase()) || text.bytes().all(|b| !b.is_ascii_uppercase());
    let text = Zeroizing::new(text.to_ascii_lowercase());
    let data = text.strip_prefix(PREFIX)?.strip_prefix('1').filter(|_| one_case)?;
    let values: Option<Vec<u8>> = data.bytes().map(value).collect();
    let values = Zeroizing::new(values?);
    let (symbols, _) = values.split_at_checked(values.len().checked_sub(CHECKSUM)?)?;
    let prefix = PREFIX.bytes();
    let expanded =
        prefix.clone().map(|b| b >> 5).chain([0]).chain(prefix.map(|b| b & 31)).chain(values.iter().copied());
    if checksum(expanded) != 1 {
        return None;
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(symbols.len()));
    let (mut held, mut bits) = (0_u32, 0);
    for symbol in symbols {
        held = (held << 5 | u32::from(*symbol)) & 0xfff;
        bits += 5;
        if bits >= 8 {
            bits -= 8;
            bytes.push(u8::try_from(held >> bits & 0xff).ok()?);
        }
    }
    let padding = held & ((1 << bits) - 1);
    (bits < 5 && padding == 0).then_some(bytes)
}

fn value(symbol: u8) -> Option<u8> {
    u8::try_from(ALPHABET.iter().position(|known| *known == symbol)?).ok()
}

fn checksum(values: impl Iterator<Item = u8>) -> u32 {
    const GENERATOR: [u32; 5] = [0x3b6a_57b2, 0x2650_8e6d, 0x1ea1_19fa, 0x3d42_33dd, 0x2a14_62b3];
    values.fold(1, |sum, value| {
        let top = sum >> 25;
        let shifted = (sum & 0x01ff_ffff) << 5 ^ u32::from(value);
        GENERATOR.iter().enumerate().filter(|(bit, _)| top >> bit & 1 == 1).fold(shifted, |sum, (_, g)| sum ^ g)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of age's own test kit: the file key's recipient of the C2SP vectors.
    const KEY: &str = "AGE-SECRET-KEY-1XMWWC06LY3EE5RYTXM9MFLAZ2U56JJJ36S0MYPDRWSVLUL66MV4QX3S7F6";

    #[test]
    fn a_key_is_read_in_one_case_and_with_its_checksum_only() {
        assert_eq!(decode(KEY).expect("a key").len(), 32);
        assert!(decode(&KEY.to_lowercase()).is_some() && parse(KEY).is_some());
        let mixed = KEY.replacen("XMWW", "xmww", 1);
        let wrong = KEY.replacen("XMWW", "XMWX", 1);
        let recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
        for bad in ["", "AGE-SECRET-KEY-1", &KEY[..60], &mixed, &wrong, recipient, &format!("{KEY}Q")] {
            assert!(decode(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_file_holds_keys_and_comments() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("key");
        for (text, keys) in [
            (format!("# created\n# public key: age1x\n{KEY}\n"), Some(1)),
            (format!("{KEY}\n\n{KEY}"), Some(2)),
            (String::new(), None),
            (format!("{KEY}\nhunter2"), None),
        ] {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("mode");
            let read = read(&path);
            assert_eq!(read.as_ref().ok().map(Vec::len), keys);
            assert!(read.is_ok() || !read.expect_err("refused").to_string().contains("hunter2"));
        }
    }
}
