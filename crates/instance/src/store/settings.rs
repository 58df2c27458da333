//! Facts about the instance itself.

use sqlx::{Any, Row as _, Transaction};

use super::StoreError;

/// The value of a setting; `value` becomes it when there is none yet.
pub(crate) async fn find_or_insert(
    tx: &mut Transaction<'static, Any>,
    name: &str,
    value: &str,
) -> Result<String, StoreError> {
    sqlx::query("INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING")
        .bind(name)
        .bind(value)
        .execute(&mut **tx)
        .await?;
    let row = sqlx::query("SELECT value FROM settings WHERE name = $1").bind(name).fetch_one(&mut **tx).await?;
    Ok(row.try_get(0)?)
}
