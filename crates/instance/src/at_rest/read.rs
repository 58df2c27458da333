//! Reading what was stored.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use midward_core::{Failure, Hop};
use midward_wire::Outcome;
use sqlx::{Any, Executor};

use super::column::{Column, Pieces};
use super::{AtRest, Part, seal};
use crate::store::{StoreError, from_json, pieces};

/// Why something that is stored cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unreadable {
    /// By its name.
    #[error("it is encrypted with the key {0}, which is not configured")]
    UnknownKey(String),
    #[error("it was changed, moved or cut since it was written")]
    Damaged,
    #[error("its connection keeps metadata only")]
    NotKept,
}

impl Unreadable {
    pub(crate) fn failure(&self) -> Failure {
        match self {
            Self::UnknownKey(id) => Failure::permanent(
                Hop::Instance,
                "encryption_key_unknown",
                format!("the text is encrypted with the key {id}, which this instance was not given"),
                "Name that key's file in encryption.older_key_files of every instance, and restart it.",
            ),
            Self::Damaged => Failure::permanent(
                Hop::Instance,
                "stored_data_damaged",
                "what is stored of the request was changed, moved or cut since it was written",
                "Find out who could write to the database; submit the request again if it was not sent.",
            ),
            Self::NotKept => not_kept(),
        }
    }
}

/// Of a connection that keeps metadata only.
pub(crate) fn not_kept() -> Failure {
    Failure::permanent(
        Hop::Instance,
        "body_not_kept",
        "the connection keeps metadata only: body and headers are removed once the request has ended",
        "Call it synchronously to have the answer, or let the connection keep everything.",
    )
}

impl AtRest {
    /// The text of a column. Reads its pieces, where it is in pieces.
    pub(crate) async fn text<'e>(
        &self,
        db: impl Executor<'e, Database = Any>,
        request: &str,
        part: Part,
        column: String,
    ) -> Result<Result<String, Unreadable>, StoreError> {
        let found = match Column::of(&column) {
            Column::Pieces(found) => found,
            Column::Plain(_) => return Ok(Ok(column)),
            Column::Removed => return Ok(Err(Unreadable::NotKept)),
            Column::Strange => return Ok(Err(Unreadable::Damaged)),
            Column::Sealed { key, data } => return Ok(self.unseal(request, part, key, data)),
        };
        let stored = pieces::read(db, request, found.set).await?;
        Ok(self.join(request, found, stored))
    }

    /// The text of a path's column.
    pub(crate) fn path(&self, request: &str, column: &str) -> Result<String, Unreadable> {
        match Column::of(column) {
            Column::Plain(path) => Ok(path.to_owned()),
            Column::Sealed { key, data } => self.unseal(request, Part::Path, key, data),
            _ => Err(Unreadable::Damaged),
        }
    }

    /// How a request ended. What cannot be read is why it cannot.
    pub(crate) async fn outcome<'e>(
        &self,
        db: impl Executor<'e, Database = Any>,
        request: &str,
        column: String,
    ) -> Result<Result<Outcome, Unreadable>, StoreError> {
        // Its pieces are named in the column.
        let text = self.text(db, request, Part::Outcome(0), column).await?;
        Ok(text.and_then(|text| from_json(&text).map_err(|_| Unreadable::Damaged)))
    }

    /// Whether a column holds exactly this text.
    pub(crate) async fn holds<'e>(
        &self,
        db: impl Executor<'e, Database = Any>,
        request: &str,
        part: Part,
        column: String,
        text: &str,
    ) -> Result<bool, StoreError> {
        Ok(self.text(db, request, part, column).await?.is_ok_and(|stored| stored == text))
    }

    fn unseal(&self, request: &str, part: Part, key: &str, data: &str) -> Result<String, Unreadable> {
        let key = self.key(key).ok_or_else(|| Unreadable::UnknownKey(key.to_owned()))?;
        let sealed = STANDARD.decode(data).map_err(|_| Unreadable::Damaged)?;
        let plain = seal::open(key, &self.position(request, part.name(), (0, 0)), sealed);
        plain.and_then(|plain| String::from_utf8(plain).ok()).ok_or(Unreadable::Damaged)
    }

    fn join(&self, request: &str, found: Pieces<'_>, stored: Vec<Vec<u8>>) -> Result<String, Unreadable> {
        let key = match found.key {
            Some(id) => Some(self.key(id).ok_or_else(|| Unreadable::UnknownKey(id.to_owned()))?),
            None => None,
        };
        if stored.len() != found.count {
            return Err(Unreadable::Damaged);
        }
        let mut whole = Vec::with_capacity(stored.iter().map(Vec::len).sum());
        for (number, piece) in stored.into_iter().enumerate() {
            let position = self.position(request, found.set, (number, found.count));
            match key {
                None => whole.extend_from_slice(&piece),
                Some(key) => {
                    whole.extend_from_slice(&seal::open(key, &position, piece).ok_or(Unreadable::Damaged)?);
                }
            }
        }
        String::from_utf8(whole).map_err(|_| Unreadable::Damaged)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use midward_core::SystemRandom;

    use super::*;
    use crate::config::EncryptionConfig;

    /// With keys that repeat these bytes and a zero.
    fn at_rest(instance: &str, keys: &[u8]) -> AtRest {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().expect("a folder");
        let mut files = keys.iter().map(|byte| {
            let path = folder.path().join(byte.to_string());
            std::fs::write(&path, format!("{byte:02x}00").repeat(16)).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("a mode");
            path
        });
        let key_file = files.next();
        let config = EncryptionConfig { key_file, older_key_files: files.collect(), ..EncryptionConfig::default() };
        AtRest::open(&config, instance, Arc::new(SystemRandom)).expect("keys")
    }

    fn opened(at_rest: &AtRest, request: &str, part: Part, column: &str) -> Result<String, Unreadable> {
        match Column::of(column) {
            Column::Sealed { key, data } => at_rest.unseal(request, part, key, data),
            Column::Plain(text) => Ok(text.to_owned()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_encrypted_opens_in_its_place_only() {
        let at_rest = at_rest("i", &[1]);
        let text = Arc::new(r#"{"body":"canary"}"#.to_owned());
        let kept = at_rest.keep("r", Part::Call, &text).expect("encrypted");
        let again = at_rest.keep("r", Part::Call, &text).expect("encrypted");
        assert!(!kept.column.contains("canary") && kept.column != again.column, "a nonce of its own");
        assert_eq!(opened(&at_rest, "r", Part::Call, &kept.column).as_deref(), Ok(text.as_str()));
        for (request, part) in [("s", Part::Call), ("r", Part::Outcome(1)), ("r", Part::Path)] {
            assert_eq!(opened(&at_rest, request, part, &kept.column), Err(Unreadable::Damaged), "{request} {part:?}");
        }
        let other = self::at_rest("j", &[1]);
        assert_eq!(opened(&other, "r", Part::Call, &kept.column), Err(Unreadable::Damaged), "another instance's");
        let data = kept.column.rsplit_once('.').expect("parts").1.to_owned();
        let mut bytes = STANDARD.decode(&data).expect("base64");
        for at in [0, 12, bytes.len() - 1] {
            bytes[at] ^= 1;
            let changed = kept.column.replace(&data, &STANDARD.encode(&bytes));
            assert_eq!(opened(&at_rest, "r", Part::Call, &changed), Err(Unreadable::Damaged), "byte {at}");
            bytes[at] ^= 1;
        }
    }

    #[test]
    fn keys_rotate_and_a_lost_one_has_a_name() {
        let (old, new) = (at_rest("i", &[1]), at_rest("i", &[2, 1]));
        let text = Arc::new("{}".to_owned());
        let kept = old.keep("r", Part::Outcome(1), &text).expect("encrypted");
        assert_eq!(opened(&new, "r", Part::Outcome(2), &kept.column).as_deref(), Ok("{}"), "by the older key");
        let id = old.current().expect("a key").to_owned();
        let lost = at_rest("i", &[2]);
        assert_eq!(opened(&lost, "r", Part::Outcome(1), &kept.column), Err(Unreadable::UnknownKey(id)));
        let plain = at_rest("i", &[]);
        let kept = plain.keep("r", Part::Call, &text).expect("kept");
        assert!(Arc::ptr_eq(&kept.column, &text), "no copy");
        assert_eq!(opened(&new, "r", Part::Call, &kept.column).as_deref(), Ok("{}"), "written before there was a key");
        for writer in [&plain, &old, &new] {
            let print = writer.fingerprint("crm", "{}").expect("a fingerprint");
            assert!(new.is_fingerprint(&print, "crm", "{}"), "{print}");
            assert!(!new.is_fingerprint(&print, "crm", "{ }") && !new.is_fingerprint(&print, "cr", "m{}"), "{print}");
        }
        assert!(!lost.is_fingerprint(&old.fingerprint("crm", "{}").expect("a fingerprint"), "crm", "{}"));
    }

    #[test]
    fn a_large_text_is_in_pieces_that_cannot_be_swapped_or_cut() {
        for keys in [&[1][..], &[]] {
            let at_rest = at_rest("i", keys);
            let text = Arc::new(format!("{{\"{}\":1}}", "x".repeat(3 * super::super::PIECE)));
            let kept = at_rest.keep("r", Part::Outcome(3), &text).expect("kept");
            let Column::Pieces(found) = Column::of(&kept.column) else { panic!("{}", kept.column) };
            assert_eq!((found.set, found.count, kept.pieces.len()), ("outcome-3", 4, 4));
            let pieces = kept.pieces.to_vec();
            assert_eq!(at_rest.join("r", found, pieces.clone()).as_deref(), Ok(text.as_str()));
            assert_eq!(at_rest.join("r", found, pieces[..3].to_vec()), Err(Unreadable::Damaged));
            if keys.is_empty() {
                continue;
            }
            let cut = Pieces { count: 3, ..found };
            assert_eq!(at_rest.join("r", cut, pieces[..3].to_vec()), Err(Unreadable::Damaged), "the end is missing");
            let swapped = [&pieces[1..2], &pieces[..1], &pieces[2..]].concat();
            assert_eq!(at_rest.join("r", found, swapped), Err(Unreadable::Damaged));
            assert_eq!(at_rest.join("s", found, pieces), Err(Unreadable::Damaged));
        }
    }
}
