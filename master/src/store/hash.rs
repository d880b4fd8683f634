//! The hash by which masters prove that they hold the same state at the same index **[format]**.
//!
//! SHA-256 over all rows of the state machine in key order, each as key length (u32 big-endian), key, value length,
//! value.

use sha2::{Digest, Sha256};

use super::state_db::View;
use crate::state::rows::RowsError;

/// The hash of a view's rows, in hexadecimal.
///
/// # Errors
/// [`RowsError`] if a row cannot be read.
pub fn state_hash(view: &View) -> Result<String, RowsError> {
    let mut hash = Sha256::new();
    let mut feed = |bytes: &[u8]| {
        let length = u32::try_from(bytes.len()).map_err(|_| RowsError::Corrupt {
            key: "of any row".to_owned(),
            why: format!("{} bytes are more than a row may have", bytes.len()),
        })?;
        hash.update(length.to_be_bytes());
        hash.update(bytes);
        Ok(())
    };
    view.for_each(|key, value| {
        feed(key)?;
        feed(value)
    })?;
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}
