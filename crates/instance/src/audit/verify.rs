//! Whether an exported audit is whole. Pure: the caller brings the lines.

use std::collections::BTreeMap;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use midward_wire::{AuditCheckpoint, block_hash, checkpoint_signing_input};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// One line of an export.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "line", rename_all = "snake_case", deny_unknown_fields)]
pub enum AuditLine {
    /// A key of an instance on this database: 32 bytes, base64url.
    Key {
        id: String,
        public_key: String,
    },
    Block {
        chain: String,
        seq: i64,
        /// Unix milliseconds.
        at: i64,
        /// The JSON array's text, which the hash covers.
        entries: String,
        hash: String,
    },
    Checkpoint(AuditCheckpoint),
}

/// What was found whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditReport {
    pub chains: usize,
    /// Of them begin behind a signed checkpoint: what was before is gone, by age as a rule.
    pub shortened: usize,
    pub blocks: usize,
    pub entries: usize,
    pub checkpoints: usize,
    /// Checkpoints kept by MIDs that were found in it.
    pub mirrored: usize,
    /// Checkpoints kept by MIDs of what is gone by now, with its checkpoints.
    pub outlived: usize,
    /// Blocks behind the last checkpoint of their chain: nobody has signed them yet.
    pub unsigned: usize,
}

/// Where an audit is not whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditFault {
    #[error("chain {chain}: block {seq} is not what its hash says, or a block before it was changed")]
    Changed { chain: String, seq: i64 },
    #[error("chain {chain}: block {seq} is missing")]
    Missing { chain: String, seq: i64 },
    #[error("chain {chain} begins with block {seq}, and no signed checkpoint tells what was before")]
    NoBeginning { chain: String, seq: i64 },
    #[error("chain {chain}: the checkpoint at block {seq} is not signed by a known key of the instance")]
    Signature { chain: String, seq: i64 },
    #[error("chain {chain}: the checkpoint at block {seq} tells of another history than the blocks")]
    OtherHistory { chain: String, seq: i64 },
    #[error("chain {chain} ends before block {seq}, which a MID Server has seen")]
    CutOff { chain: String, seq: i64 },
    #[error("chain {chain}: a MID Server has seen another block {seq}")]
    OtherThanMirrored { chain: String, seq: i64 },
}

#[derive(Default)]
struct ChainLines<'a> {
    blocks: BTreeMap<i64, (i64, &'a str, &'a str)>,
    checkpoints: BTreeMap<i64, &'a AuditCheckpoint>,
}

/// Checks an export against itself, and against checkpoints that MIDs have kept.
///
/// # Errors
/// The first fault.
pub fn verify_audit(lines: &[AuditLine], mirrored: &[AuditCheckpoint]) -> Result<AuditReport, AuditFault> {
    let mut keys = BTreeMap::new();
    let mut chains: BTreeMap<&str, ChainLines<'_>> = BTreeMap::new();
    for line in lines {
        match line {
            AuditLine::Key { id, public_key } => {
                keys.insert(id.as_str(), public_key.as_str());
            }
            AuditLine::Block { chain, seq, at, entries, hash } => {
                chains.entry(chain).or_default().blocks.insert(*seq, (*at, entries, hash));
            }
            AuditLine::Checkpoint(checkpoint) => {
                chains.entry(&checkpoint.chain).or_default().checkpoints.insert(checkpoint.seq, checkpoint);
            }
        }
    }
    let mut report = AuditReport::default();
    for (chain, lines) in &chains {
        verify_chain(chain, lines, &keys, &mut report)?;
    }
    for seen in mirrored {
        let (chain, seq) = (seen.chain.clone(), seen.seq);
        let lines = chains.get(seen.chain.as_str());
        let block = lines.and_then(|lines| lines.blocks.get(&seq));
        // Old blocks are removed, and the checkpoint before the first one that is left tells of them.
        let removed = lines.is_some_and(|lines| lines.blocks.keys().next().is_none_or(|first| seq < *first));
        let hash = block.map(|(_, _, hash)| *hash);
        let signed = lines.and_then(|lines| lines.checkpoints.get(&seq)).map(|checkpoint| checkpoint.hash.as_str());
        match hash.or(signed.filter(|_| removed)) {
            Some(hash) if hash == seen.hash => report.mirrored += 1,
            Some(_) => return Err(AuditFault::OtherThanMirrored { chain, seq }),
            None if removed && is_before_all(lines, seq) => report.outlived += 1,
            None => return Err(AuditFault::CutOff { chain, seq }),
        }
    }
    Ok(report)
}

/// Whether a chain's checkpoints begin after a block. The last one before what is left is never removed.
fn is_before_all(lines: Option<&ChainLines<'_>>, seq: i64) -> bool {
    lines.and_then(|lines| lines.checkpoints.keys().next()).is_some_and(|first| seq < *first)
}

fn verify_chain(
    chain: &str,
    lines: &ChainLines<'_>,
    keys: &BTreeMap<&str, &str>,
    report: &mut AuditReport,
) -> Result<(), AuditFault> {
    let fault = |seq| (chain.to_owned(), seq);
    for (seq, checkpoint) in &lines.checkpoints {
        let (chain, seq) = fault(*seq);
        let input = checkpoint_signing_input(&chain, seq, &checkpoint.hash, checkpoint.at);
        let key = keys.get(checkpoint.key.as_str()).and_then(|key| URL_SAFE_NO_PAD.decode(key).ok());
        let signature = URL_SAFE_NO_PAD.decode(&checkpoint.signature).ok();
        let signed = key
            .zip(signature)
            .is_some_and(|(key, signature)| UnparsedPublicKey::new(&ED25519, key).verify(&input, &signature).is_ok());
        if !signed {
            return Err(AuditFault::Signature { chain, seq });
        }
        report.checkpoints += 1;
    }
    let Some(first) = lines.blocks.keys().next().copied() else { return Ok(()) };
    let mut previous = if first == 1 {
        ""
    } else {
        let before = lines.checkpoints.get(&(first - 1));
        let (chain, seq) = fault(first);
        before.map(|checkpoint| checkpoint.hash.as_str()).ok_or(AuditFault::NoBeginning { chain, seq })?
    };
    let mut unsigned = 0;
    for (expected, (seq, (at, entries, hash))) in (first..).zip(&lines.blocks) {
        let (chain, _) = fault(expected);
        if *seq != expected {
            return Err(AuditFault::Missing { chain, seq: expected });
        }
        if block_hash(previous, &chain, *seq, *at, entries) != **hash {
            return Err(AuditFault::Changed { chain, seq: expected });
        }
        unsigned += 1;
        if let Some(checkpoint) = lines.checkpoints.get(seq) {
            if checkpoint.hash != **hash {
                return Err(AuditFault::OtherHistory { chain, seq: expected });
            }
            unsigned = 0;
        }
        report.entries += serde_json::from_str::<Vec<&RawValue>>(entries).map_or(0, |entries| entries.len());
        previous = hash;
    }
    let last = lines.blocks.keys().next_back().copied().unwrap_or(0);
    if let Some(beyond) = lines.checkpoints.keys().next_back().filter(|seq| **seq > last) {
        let (chain, seq) = fault(*beyond);
        return Err(AuditFault::CutOff { chain, seq });
    }
    report.chains += 1;
    report.shortened += usize::from(first != 1);
    report.blocks += lines.blocks.len();
    report.unsigned += unsigned;
    Ok(())
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    use super::*;

    fn checkpoint(key: &Ed25519KeyPair, seq: i64, hash: &str) -> AuditCheckpoint {
        let signature = key.sign(&checkpoint_signing_input("c", seq, hash, 9));
        AuditCheckpoint {
            chain: "c".into(),
            seq,
            hash: hash.into(),
            at: 9,
            key: "k".into(),
            signature: URL_SAFE_NO_PAD.encode(signature.as_ref()),
        }
    }

    /// A key, three blocks, a checkpoint at the second.
    fn export(texts: [&str; 3]) -> (Vec<AuditLine>, Ed25519KeyPair) {
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32]).expect("a key");
        let public_key = URL_SAFE_NO_PAD.encode(key.public_key().as_ref());
        let mut lines = vec![AuditLine::Key { id: "k".into(), public_key }];
        let mut previous = String::new();
        for (seq, text) in (1..).zip(texts) {
            let hash = block_hash(&previous, "c", seq, 5, text);
            lines.push(AuditLine::Block { chain: "c".into(), seq, at: 5, entries: text.into(), hash: hash.clone() });
            if seq == 2 {
                lines.push(AuditLine::Checkpoint(checkpoint(&key, seq, &hash)));
            }
            previous = hash;
        }
        (lines, key)
    }

    const TEXTS: [&str; 3] = ["[1]", "[2,3]", "[4]"];

    fn seen(lines: &[AuditLine]) -> AuditCheckpoint {
        let found = lines.iter().find_map(|line| match line {
            AuditLine::Checkpoint(checkpoint) => Some(checkpoint.clone()),
            _ => None,
        });
        found.expect("a checkpoint")
    }

    #[test]
    fn a_whole_one_is_counted() {
        let (lines, _) = export(TEXTS);
        let report = verify_audit(&lines, &[seen(&lines)]).expect("whole");
        let whole = AuditReport {
            chains: 1,
            blocks: 3,
            entries: 4,
            checkpoints: 1,
            mirrored: 1,
            unsigned: 1,
            ..Default::default()
        };
        assert_eq!(report, whole);
    }

    #[test]
    fn what_was_changed_removed_or_written_anew_is_found() {
        let (lines, _) = export(TEXTS);
        let mut changed = lines.clone();
        if let AuditLine::Block { entries, .. } = &mut changed[1] {
            *entries = "[9]".into();
        }
        assert_eq!(verify_audit(&changed, &[]), Err(AuditFault::Changed { chain: "c".into(), seq: 1 }));
        let mut holed = lines.clone();
        holed.remove(2);
        assert_eq!(verify_audit(&holed, &[]), Err(AuditFault::Missing { chain: "c".into(), seq: 2 }));
        let mut headless = lines.clone();
        headless.remove(1);
        assert_eq!(verify_audit(&headless, &[]), Err(AuditFault::NoBeginning { chain: "c".into(), seq: 2 }));
        // All of it written anew, with new signatures: only who has seen the old one knows.
        let (anew, _) = export(["[1]", "[2]", "[4]"]);
        assert!(verify_audit(&anew, &[]).is_ok());
        let other = Err(AuditFault::OtherThanMirrored { chain: "c".into(), seq: 2 });
        assert_eq!(verify_audit(&anew, &[seen(&lines)]), other);
        let cut: Vec<_> = lines.iter().filter(|line| matches!(line, AuditLine::Key { .. })).cloned().collect();
        assert_eq!(verify_audit(&cut, &[seen(&lines)]), Err(AuditFault::CutOff { chain: "c".into(), seq: 2 }));
    }

    #[test]
    fn a_checkpoint_of_a_stranger_counts_for_nothing() {
        let (mut lines, _) = export(TEXTS);
        let stranger = Ed25519KeyPair::from_seed_unchecked(&[8; 32]).expect("a key");
        let hash = seen(&lines).hash;
        lines[3] = AuditLine::Checkpoint(checkpoint(&stranger, 2, &hash));
        assert_eq!(verify_audit(&lines, &[]), Err(AuditFault::Signature { chain: "c".into(), seq: 2 }));
    }

    #[test]
    fn what_is_removed_by_age_leaves_a_beginning_behind() {
        let (lines, _) = export(TEXTS);
        let left: Vec<_> =
            lines.iter().filter(|line| !matches!(line, AuditLine::Block { seq, .. } if *seq < 3)).cloned().collect();
        let report = verify_audit(&left, &[seen(&lines)]).expect("whole");
        assert_eq!((report.blocks, report.mirrored, report.shortened), (1, 1, 1));
        // What a MID has kept may be older than all that is left.
        let older = AuditCheckpoint { seq: 1, ..seen(&lines) };
        assert_eq!(verify_audit(&left, std::slice::from_ref(&older)).expect("whole").outlived, 1);
        let at_the_last = AuditCheckpoint { hash: older.hash.clone() + "x", ..seen(&lines) };
        assert!(verify_audit(&left, &[at_the_last]).is_err());
        let nothing: Vec<_> = left.iter().filter(|line| matches!(line, AuditLine::Key { .. })).cloned().collect();
        assert_eq!(verify_audit(&nothing, &[older]), Err(AuditFault::CutOff { chain: "c".into(), seq: 1 }));
    }
}
