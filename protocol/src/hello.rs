//! The first exchange on every connection: versions, who is who, and mutual proof **[format]**.
//!
//! ```text
//! dialer   → Hello      versions, cluster, who I am, whom I want, nonce, ticket?
//! acceptor → Challenge  chosen version, who I am, nonce, MAC(key, both messages)     or an error
//! dialer   → Proof      MAC(key, both messages)                                       or it hangs up
//! acceptor → Welcome                                                                  or an error
//! ```
//!
//! Both prove that they hold one key: the dialer's own key (masters derive it from the root key), or, towards a
//! chunkserver, the key that belongs to the ticket. The MACs cover both nonces, so a recording proves nothing on
//! another connection, and the whole exchange, so nobody on the path can talk the versions down.

use serde::{Deserialize, Serialize};

use crate::error::{ErrorCode, WireError};
use crate::ids::{ClusterId, Incarnation};
use crate::keys::{Identity, Key, MAC_BYTES, Purpose, Role, Ticket, sha256};
use crate::messages::encode;

/// The protocol's history. A server speaks its own version and the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u16)]
pub enum Version {
    /// The first: hello with mutual proof, commands with sessions, write streams, block reads.
    V1 = 1,
}

/// Oldest version this program speaks.
pub const VERSION_MIN: u16 = Version::V1 as u16;
/// Newest version this program speaks.
pub const VERSION_MAX: u16 = Version::V1 as u16;

/// Highest feature level this program knows: no command or changed outcome is used before every master knows it.
pub const LEVEL_MAX: u32 = 1;

/// Whom a dialer wants to reach: a wrong address is noticed before anything is said.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Its role.
    pub role: Role,
    /// Its id; any if `None`.
    pub id: Option<String>,
}

/// One side's own description.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Introduction {
    /// Who.
    pub identity: Identity,
    /// Counts its starts, synced before it speaks; 0 for programs without a directory.
    pub boot: u64,
    /// This run of the process: two processes with one boot counter are copies of one directory.
    pub incarnation: Incarnation,
    /// Highest feature level it knows.
    pub level: u32,
    /// Fresh randomness.
    pub nonce: [u8; 16],
}

/// The dialer's first message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Oldest version it speaks.
    pub version_min: u16,
    /// Newest version it speaks.
    pub version_max: u16,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Who it is.
    pub from: Introduction,
    /// Whom it wants.
    pub target: Target,
    /// What entitles it, towards a chunkserver.
    pub ticket: Option<Ticket>,
}

/// The acceptor's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Challenge {
    /// The version both speak from now on.
    pub version: u16,
    /// Who it is.
    pub from: Introduction,
    /// Its proof over the hello and this message without the proof.
    pub proof: [u8; MAC_BYTES],
}

/// The dialer's proof over the same.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    /// Its MAC.
    pub proof: [u8; MAC_BYTES],
}

/// Both messages, hashed: what the proofs cover.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transcript([u8; 32]);

impl Transcript {
    /// Of a hello and the answer to it.
    #[must_use]
    pub fn new(hello: &Hello, version: u16, acceptor: &Introduction) -> Self {
        let (first, second) = (encode(hello), encode(&(version, acceptor)));
        let len = (first.len() as u64).to_be_bytes();
        Self(sha256(&[&len, &first, &second]))
    }

    /// One side's proof.
    #[must_use]
    pub fn prove(&self, key: &Key, purpose: Purpose) -> [u8; MAC_BYTES] {
        key.mac(purpose, &self.0)
    }

    /// Whether the other side holds the key.
    #[must_use]
    pub fn proves(&self, key: &Key, purpose: Purpose, proof: &[u8; MAC_BYTES]) -> bool {
        key.verify(purpose, &self.0, proof)
    }
}

/// The newest version in common.
///
/// # Errors
/// [`ErrorCode::WrongVersion`] names both ranges.
pub fn choose_version(hello: &Hello) -> Result<u16, WireError> {
    let newest = hello.version_max.min(VERSION_MAX);
    if newest >= hello.version_min.max(VERSION_MIN) {
        return Ok(newest);
    }
    let (theirs, ours) = (
        format!("{} to {}", hello.version_min, hello.version_max),
        format!("{VERSION_MIN} to {VERSION_MAX}"),
    );
    Err(WireError::new(
        ErrorCode::WrongVersion,
        format!(
            "no protocol version in common: {} speaks {theirs}, this side {ours}",
            hello.from.identity
        ),
    )
    .help("update the older program; neighbours one version apart work together"))
}

/// Checks what a hello says about cluster and target, before any key is looked at.
///
/// # Errors
/// [`ErrorCode::WrongCluster`] or [`ErrorCode::Unreachable`] for a wrong address.
pub fn check_target(hello: &Hello, cluster: ClusterId, acceptor: &Identity) -> Result<(), WireError> {
    if hello.cluster != cluster {
        return Err(WireError::new(
            ErrorCode::WrongCluster,
            format!("{acceptor} belongs to cluster {cluster}, not to {}", hello.cluster),
        )
        .help("check the address and the key file: they are of different clusters"));
    }
    let target = &hello.target;
    let wanted = target.id.as_ref().is_none_or(|id| *id == acceptor.id);
    if target.role == acceptor.role && wanted {
        return Ok(());
    }
    let wanted = target.id.as_deref().unwrap_or("(any)");
    Err(WireError::new(
        ErrorCode::Unreachable,
        format!("this address is {acceptor}, not {} {wanted}", target.role),
    )
    .help("check the addresses in the configuration"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{ServerId, StateTime};
    use proptest::prelude::*;

    pub(super) fn hello() -> Hello {
        Hello {
            version_min: 1,
            version_max: 1,
            cluster: ClusterId([1; 16]),
            from: Introduction {
                identity: Identity {
                    role: Role::Client,
                    id: "a".into(),
                },
                boot: 2,
                incarnation: Incarnation([3; 16]),
                level: 1,
                nonce: [4; 16],
            },
            target: Target {
                role: Role::Chunkserver,
                id: Some("c1".into()),
            },
            ticket: Some(Ticket {
                bearer: Identity {
                    role: Role::Client,
                    id: "a".into(),
                },
                server: ServerId(5),
                expires: StateTime(6),
                nonce: [7; 16],
            }),
        }
    }

    #[test]
    fn golden_hello() {
        let mut expected = vec![1, 1];
        expected.extend([1; 16]);
        expected.extend([2, 1, b'a', 2]);
        expected.extend([3; 16]);
        expected.push(1);
        expected.extend([4; 16]);
        expected.extend([1, 1, 2, b'c', b'1', 1, 2, 1, b'a', 5, 6]);
        expected.extend([7; 16]);
        assert_eq!(encode(&hello()), expected);
        let transcript = Transcript::new(&hello(), 1, &hello().from);
        let proof = transcript.prove(&Key::from_bytes([8; 32]), Purpose::ProofOfDialer);
        assert_eq!(crate::keys::hex(&proof), include_str!("golden/hello_proof.hex").trim());
    }

    #[test]
    fn a_proof_binds_both_messages_the_key_and_the_side() {
        let key = Key::from_bytes([8; 32]);
        let transcript = Transcript::new(&hello(), 1, &hello().from);
        let proof = transcript.prove(&key, Purpose::ProofOfDialer);
        assert!(transcript.proves(&key, Purpose::ProofOfDialer, &proof));
        assert!(!transcript.proves(&key, Purpose::ProofOfAcceptor, &proof), "reflected");
        assert!(!transcript.proves(&Key::from_bytes([9; 32]), Purpose::ProofOfDialer, &proof));
        let mut other = hello();
        other.from.nonce[0] ^= 1;
        assert!(!Transcript::new(&other, 1, &hello().from).proves(&key, Purpose::ProofOfDialer, &proof));
        assert!(!Transcript::new(&hello(), 2, &hello().from).proves(&key, Purpose::ProofOfDialer, &proof));
    }

    #[test]
    fn versions_meet_or_say_why() {
        let range = |version_min, version_max| Hello {
            version_min,
            version_max,
            ..hello()
        };
        assert_eq!(choose_version(&range(1, 9)), Ok(1));
        assert_eq!(choose_version(&range(2, 9)).unwrap_err().code, ErrorCode::WrongVersion);
        assert_eq!(choose_version(&range(0, 0)).unwrap_err().code, ErrorCode::WrongVersion);
    }

    #[test]
    fn wrong_cluster_and_wrong_address_are_told_apart() {
        let c1 = Identity {
            role: Role::Chunkserver,
            id: "c1".into(),
        };
        assert!(check_target(&hello(), ClusterId([1; 16]), &c1).is_ok());
        let code = |cluster, identity: &Identity| check_target(&hello(), cluster, identity).unwrap_err().code;
        assert_eq!(code(ClusterId([2; 16]), &c1), ErrorCode::WrongCluster);
        let c2 = Identity {
            id: "c2".into(),
            ..c1.clone()
        };
        assert_eq!(code(ClusterId([1; 16]), &c2), ErrorCode::Unreachable);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_fail(bytes: Vec<u8>) {
            let _ = crate::messages::decode::<Hello>(&bytes);
            let _ = crate::messages::decode::<Result<Challenge, WireError>>(&bytes);
        }
    }
}
