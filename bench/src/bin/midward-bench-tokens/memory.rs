//! What a cached token takes, everything included: the key, the entry, what its credential needs, the token itself and
//! the handle. As asked of the allocator.

use std::sync::Arc;

use midward_core::{SeededRandom, SystemClock};
use midward_oauth::{TokenCache, TokenCacheConfig};

use crate::ALLOCATOR;
use crate::profiles::{TOKEN_LEN, handles, runtime};
use crate::report::Figure;

const PROFILES: usize = 10_000;

pub(crate) fn measure() -> anyhow::Result<Vec<Figure>> {
    let ten = per_token(10)?;
    let alone = per_token(1)?;
    Ok(vec![
        Figure::lower("memory per cached token of 1 KiB, ten profiles per credential", "B", ten, 2048.0),
        Figure::lower("memory per cached token of 1 KiB, one profile per credential", "B", alone, 2048.0)
            .beside("without the token", alone - as_f64(TOKEN_LEN)),
    ])
}

fn per_token(per_credential: usize) -> anyhow::Result<f64> {
    let runtime = runtime()?;
    runtime.block_on(async {
        let before = ALLOCATOR.current_usage();
        let config = TokenCacheConfig::default();
        let cache = TokenCache::new(Arc::new(SystemClock), Arc::new(SeededRandom::new(1)), config);
        let handles = handles(&cache, PROFILES, per_credential).await?;
        let grown = ALLOCATOR.current_usage().saturating_sub(before);
        drop(handles);
        Ok(as_f64(grown) / as_f64(PROFILES))
    })
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
fn as_f64(count: usize) -> f64 {
    count as f64
}
