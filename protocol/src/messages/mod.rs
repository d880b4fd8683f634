//! What is said, by family. A frame's kind names the family; the message is one postcard value of its enum.
//!
//! **Append only**: postcard numbers variants and fields by position, so a new variant goes last and a struct never
//! changes; a changed struct is a new variant. Golden bytes pin every family.
//!
//! | family | request | response | who asks whom |
//! |---|---|---|---|
//! | [`master`] | [`master::Request`] | `Result<`[`master::Response`]`, WireError>` | client, operator, chunkserver → master |
//! | [`data`] | [`data::Request`] and stream frames | `Result<`[`data::Response`]`, WireError>` | client, chunkserver → chunkserver |
//! | Raft | bytes owned by the masters' Raft module | | master → master |

pub mod data;
pub mod master;

#[cfg(test)]
mod golden;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::WireError;

/// Why bytes are not a message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// postcard refuses them.
    #[error("the message does not decode: {0}")]
    Malformed(postcard::Error),
    /// Something follows the message.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

/// Encodes a message.
///
/// # Panics
/// Never for the message types of this crate: they hold nothing postcard refuses.
#[must_use]
pub fn encode<T: Serialize + ?Sized>(message: &T) -> Vec<u8> {
    encode_onto(Vec::new(), message)
}

/// Encodes a message behind what `bytes` holds.
///
/// # Panics
/// As [`encode`].
#[must_use]
pub fn encode_onto<T: Serialize + ?Sized>(bytes: Vec<u8>, message: &T) -> Vec<u8> {
    postcard::to_extend(message, bytes).expect("messages hold only types postcard can write")
}

/// Decodes a message and refuses anything that follows it.
///
/// # Errors
/// [`DecodeError`] if the bytes are not exactly one message. A vector's declared length allocates no more than
/// the bytes at hand allow, as postcard caps its hints.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, DecodeError> {
    let (message, rest) = postcard::take_from_bytes(bytes).map_err(DecodeError::Malformed)?;
    if rest.is_empty() {
        Ok(message)
    } else {
        Err(DecodeError::Trailing(rest.len()))
    }
}

/// What every request is answered with.
pub type Answer<T> = Result<T, WireError>;
