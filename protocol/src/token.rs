//! Tokens: a master's word that one session may read or write one chunk on one server, until a state time.
//!
//! The MAC is made with a key derived from the *target server's* key, so a taken-over chunkserver can forge tokens
//! only for itself. Checked before any IO **[format]**.

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, WireError};
use crate::ids::{ChunkId, Generation, ReplicaNumber, ServerId, SessionId, StateTime};
use crate::keys::{Key, MAC_BYTES, Purpose};

/// What a token allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Read and verify.
    Read,
    /// Write and seal.
    Write,
}

/// What a token says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The chunk.
    pub chunk: ChunkId,
    /// The generation the grant is for; a server that saw a later one refuses to write.
    pub generation: Generation,
    /// The replica's file on the target server.
    pub replica: ReplicaNumber,
    /// The target server.
    pub server: ServerId,
    /// What may be done.
    pub mode: Mode,
    /// For whom.
    pub session: SessionId,
    /// Valid before this state time.
    pub expires: StateTime,
}

/// A grant and its MAC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// What is allowed.
    pub grant: Grant,
    mac: [u8; MAC_BYTES],
}

impl Token {
    /// Signs `grant` with the target server's key.
    #[must_use]
    pub fn sign(grant: Grant, server_key: &Key) -> Self {
        let mac = server_key.mac(Purpose::Token, &crate::messages::encode(&grant));
        Self { grant, mac }
    }

    /// The grant, if this token was signed for `server` with its key, allows `mode` and has not expired at `now`.
    ///
    /// # Errors
    /// [`ErrorCode::BadToken`] says what is wrong with it.
    pub fn check(&self, server: ServerId, server_key: &Key, mode: Mode, now: StateTime) -> Result<Grant, WireError> {
        let refuse = |why: &str| {
            let chunk = self.grant.chunk;
            WireError::new(
                ErrorCode::BadToken,
                format!("cannot use the token for chunk {chunk}: {why}"),
            )
            .help("ask a master for a fresh one")
        };
        if !server_key.verify(Purpose::Token, &crate::messages::encode(&self.grant), &self.mac) {
            return Err(refuse("it was not made for this server"));
        }
        if self.grant.server != server {
            return Err(refuse("it names another server"));
        }
        if self.grant.mode != mode {
            return Err(refuse("it allows something else"));
        }
        if self.grant.expires <= now {
            return Err(refuse("it has expired"));
        }
        Ok(self.grant)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{Timeline, VolumeId};

    fn grant() -> Grant {
        Grant {
            chunk: ChunkId {
                volume: VolumeId(0),
                timeline: Timeline(1),
                counter: 42,
            },
            generation: Generation(1),
            replica: ReplicaNumber(7),
            server: ServerId(3),
            mode: Mode::Write,
            session: SessionId {
                opened: StateTime(5),
                random: 6,
            },
            expires: StateTime(1000),
        }
    }

    #[test]
    fn every_flipped_bit_is_refused() {
        let key = Key::from_bytes([9; 32]);
        let token = Token::sign(grant(), &key);
        assert!(token.check(ServerId(3), &key, Mode::Write, StateTime(999)).is_ok());
        let bytes = postcard::to_stdvec(&token).unwrap();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            if let Ok(forged) = postcard::from_bytes::<Token>(&bytes) {
                assert!(
                    forged.check(ServerId(3), &key, Mode::Write, StateTime(0)).is_err(),
                    "bit {bit}"
                );
            }
        }
    }

    #[test]
    fn a_token_serves_one_purpose() {
        let key = Key::from_bytes([9; 32]);
        let token = Token::sign(grant(), &key);
        let check = |server, key: &Key, mode, now| token.check(ServerId(server), key, mode, StateTime(now)).is_ok();
        assert!(!check(4, &key, Mode::Write, 0), "another server");
        assert!(!check(3, &Key::from_bytes([8; 32]), Mode::Write, 0), "another key");
        assert!(!check(3, &key, Mode::Read, 0), "another mode");
        assert!(!check(3, &key, Mode::Write, 1000), "expired");
    }

    #[test]
    fn golden_token() {
        let bytes = postcard::to_stdvec(&Token::sign(grant(), &Key::from_bytes([9; 32]))).unwrap();
        assert_eq!(bytes[..12], [0, 1, 42, 1, 7, 3, 1, 5, 6, 0xe8, 7, bytes[11]]);
        assert_eq!(bytes.len(), 11 + MAC_BYTES);
    }
}
