//! Keys: the root key, the keys derived from it for each role and id, tickets, and the files they live in.
//!
//! A root key lives on masters only. Every other identity holds one key derived from it (HMAC-SHA-256, RFC 2104),
//! so masters know all keys and store none. A client that wants to talk to a chunkserver shows it a [`Ticket`]; the
//! key of that connection is derived from the *server's* key and the ticket, and the master hands it to the client
//! wrapped under the client's own key. So each pair proves itself to the other, and no key crosses the wire bare.
//!
//! Invariants: keys never appear in `Debug`, logs or arguments; MACs are compared in constant time; each use of a key
//! has its own label, so that a MAC made for one purpose never serves another **[format]**.

use std::fmt;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ids::{ClusterId, ServerId, StateTime};
use crate::messages::encode;

/// Bytes of a truncated MAC: 128 bits, as RFC 2104 §5 allows.
pub const MAC_BYTES: usize = 16;

/// What a peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Keeps names; its id is its Raft node id.
    Master,
    /// Keeps bytes; its id is its name.
    Chunkserver,
    /// Uses files.
    Client,
    /// Uses files and runs the cluster.
    Operator,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Master => "master",
            Self::Chunkserver => "chunkserver",
            Self::Client => "client",
            Self::Operator => "operator",
        })
    }
}

/// Who a peer is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Identity {
    /// What it is.
    pub role: Role,
    /// Which one.
    pub id: String,
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.role, self.id)
    }
}

/// What a key is used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Deriving an identity's key from the root key.
    Identity,
    /// The dialing side's proof in the handshake.
    ProofOfDialer,
    /// The accepting side's proof in the handshake.
    ProofOfAcceptor,
    /// Chunk tokens.
    Token,
    /// Deriving a connection's key from a ticket.
    Ticket,
    /// Wrapping a connection's key.
    Wrap,
}

impl Purpose {
    fn label(self) -> &'static [u8] {
        match self {
            Self::Identity => b"gabion identity v1",
            Self::ProofOfDialer => b"gabion proof dialer v1",
            Self::ProofOfAcceptor => b"gabion proof acceptor v1",
            Self::Token => b"gabion token v1",
            Self::Ticket => b"gabion ticket v1",
            Self::Wrap => b"gabion wrap v1",
        }
    }
}

/// A secret of 256 bits.
#[derive(Clone, PartialEq, Eq)]
pub struct Key([u8; 32]);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(secret)")
    }
}

impl Key {
    /// The root key of a cluster that runs without authentication, on loopback only.
    pub const INSECURE_ROOT: Self = Self([0; 32]);

    /// A fresh random key.
    ///
    /// # Panics
    /// If the operating system gives no randomness.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes).expect("the operating system provides randomness");
        Self(bytes)
    }

    /// The key of these bytes.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn hmac(&self, purpose: Purpose, data: &[u8]) -> Hmac<Sha256> {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of any length");
        let label = purpose.label();
        // The label's length first, so that no label and data together equal another label and data.
        mac.update(&[label.len() as u8]);
        mac.update(label);
        mac.update(data);
        mac
    }

    /// A key derived from this one.
    #[must_use]
    pub fn derive(&self, purpose: Purpose, data: &[u8]) -> Self {
        Self(self.hmac(purpose, data).finalize().into_bytes().into())
    }

    /// A truncated MAC of `data`.
    #[must_use]
    pub fn mac(&self, purpose: Purpose, data: &[u8]) -> [u8; MAC_BYTES] {
        let full: [u8; 32] = self.hmac(purpose, data).finalize().into_bytes().into();
        let mut mac = [0; MAC_BYTES];
        mac.copy_from_slice(&full[..MAC_BYTES]);
        mac
    }

    /// Whether `mac` is this key's MAC of `data`, in constant time.
    #[must_use]
    pub fn verify(&self, purpose: Purpose, data: &[u8], mac: &[u8; MAC_BYTES]) -> bool {
        self.hmac(purpose, data).verify_truncated_left(mac).is_ok()
    }

    /// The key of one identity of a cluster, derived from this root key.
    #[must_use]
    pub fn identity_key(&self, cluster: ClusterId, identity: &Identity) -> Self {
        self.derive(Purpose::Identity, &encode(&(cluster, identity)))
    }
}

/// Shown to a chunkserver: who comes, to which server, until when. Worthless without its connection key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Ticket {
    /// Who may show it.
    pub bearer: Identity,
    /// To which server.
    pub server: ServerId,
    /// Valid before this state time.
    pub expires: StateTime,
    /// Random, so that no two tickets share a key.
    pub nonce: [u8; 16],
}

/// The key of the connection that `ticket` opens, as the target server and the masters derive it.
#[must_use]
pub fn connection_key(server_key: &Key, ticket: &Ticket) -> Key {
    server_key.derive(Purpose::Ticket, &encode(ticket))
}

/// Wraps the connection key of `ticket` so that only the bearer can read it.
#[must_use]
pub fn wrap_connection_key(server_key: &Key, bearer_key: &Key, ticket: &Ticket) -> [u8; 32] {
    xor(connection_key(server_key, ticket).0, &wrapping(bearer_key, ticket))
}

/// Unwraps what [`wrap_connection_key`] wrapped. With another key the result is noise, and the handshake fails.
#[must_use]
pub fn unwrap_connection_key(bearer_key: &Key, ticket: &Ticket, wrapped: &[u8; 32]) -> Key {
    Key(xor(wrapping(bearer_key, ticket).0, &Key(*wrapped)))
}

/// A one-time pad: the ticket's nonce makes it fresh.
fn wrapping(bearer_key: &Key, ticket: &Ticket) -> Key {
    bearer_key.derive(Purpose::Wrap, &encode(ticket))
}

fn xor(mut left: [u8; 32], right: &Key) -> [u8; 32] {
    left.iter_mut().zip(right.0).for_each(|(l, r)| *l ^= r);
    left
}

/// SHA-256 of `parts` in order.
#[must_use]
pub fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    let mut hash = Sha256::new();
    parts.iter().for_each(|part| hash.update(part));
    hash.finalize().into()
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            let _ = write!(text, "{byte:02x}");
            text
        })
}

/// Bytes of exactly `N` hexadecimal pairs.
#[must_use]
pub fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    if text.len() != N * 2 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    let mut bytes = [0; N];
    for (i, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[i * 2..i * 2 + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Why a key file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyFileError {
    /// It cannot be read or written.
    #[error("cannot use key file {path}: {source}")]
    Io {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// Others may read it.
    #[error("key file {path} can be read by others (mode {mode:o}): run chmod 600 {path}")]
    TooOpen {
        /// The file.
        path: String,
        /// Its permission bits.
        mode: u32,
    },
    /// It does not hold a key.
    #[error("key file {path} is not a key file: {why}")]
    Malformed {
        /// The file.
        path: String,
        /// What is wrong; never the key itself.
        why: String,
    },
    /// It holds another kind of key than is needed here.
    #[error("key file {path} holds the key of {found}, but this needs the key of {needed}")]
    WrongHolder {
        /// The file.
        path: String,
        /// Whose key it holds.
        found: String,
        /// Whose key is needed.
        needed: String,
    },
}

/// Whose key a file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// The cluster's root key.
    Root,
    /// One identity's key.
    One(Identity),
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Root => f.write_str("the cluster's root"),
            Self::One(identity) => identity.fmt(f),
        }
    }
}

/// What a key file holds.
#[derive(Debug, Clone)]
pub struct KeyFile {
    /// The cluster it is for.
    pub cluster: ClusterId,
    /// Whose key it is.
    pub holder: Holder,
    /// The key.
    pub key: Key,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFileText {
    cluster: String,
    role: String,
    #[serde(default)]
    id: String,
    key: String,
}

impl KeyFile {
    /// A fresh cluster's root key.
    #[must_use]
    pub fn new_root() -> Self {
        Self {
            cluster: ClusterId::random(),
            holder: Holder::Root,
            key: Key::random(),
        }
    }

    /// The root key of a cluster without authentication, known to everyone.
    #[must_use]
    pub fn insecure_root() -> Self {
        Self {
            cluster: ClusterId([0; 16]),
            holder: Holder::Root,
            key: Key::INSECURE_ROOT,
        }
    }

    /// The key of `identity`, issued from this root key.
    #[must_use]
    pub fn issue(&self, identity: Identity) -> Self {
        assert_eq!(self.holder, Holder::Root, "only the root key issues keys");
        Self {
            cluster: self.cluster,
            key: self.key.identity_key(self.cluster, &identity),
            holder: Holder::One(identity),
        }
    }

    /// Reads a key file.
    ///
    /// # Errors
    /// [`KeyFileError`], also if group or others may read it.
    pub fn load(path: &Path) -> Result<Self, KeyFileError> {
        let shown = path.display().to_string();
        let io = |source| KeyFileError::Io {
            path: shown.clone(),
            source,
        };
        let mode = std::fs::metadata(path).map_err(io)?.permissions().mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(KeyFileError::TooOpen { path: shown, mode });
        }
        let text = std::fs::read_to_string(path).map_err(io)?;
        Self::parse(&text).map_err(|why| KeyFileError::Malformed { path: shown, why })
    }

    /// Reads a key file that must hold `needed`'s key.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub fn load_for(path: &Path, needed: &Holder) -> Result<Self, KeyFileError> {
        let file = Self::load(path)?;
        if file.holder != *needed {
            return Err(KeyFileError::WrongHolder {
                path: path.display().to_string(),
                found: file.holder.to_string(),
                needed: needed.to_string(),
            });
        }
        Ok(file)
    }

    fn parse(text: &str) -> Result<Self, String> {
        // A parse error of toml quotes the line, which may be the key: only its place is told.
        let text: KeyFileText = toml::from_str(text).map_err(|_| "expected cluster, role, id and key".to_owned())?;
        let holder = match text.role.as_str() {
            "root" => Holder::Root,
            role => Holder::One(Identity {
                role: match role {
                    "master" => Role::Master,
                    "chunkserver" => Role::Chunkserver,
                    "client" => Role::Client,
                    "operator" => Role::Operator,
                    other => return Err(format!("unknown role {other:?}")),
                },
                id: text.id,
            }),
        };
        Ok(Self {
            cluster: text
                .cluster
                .parse()
                .map_err(|e: crate::ids::IdParseError| e.to_string())?,
            holder,
            key: Key(unhex(&text.key).ok_or("the key is not 64 hexadecimal digits")?),
        })
    }

    /// Writes a new key file that only its owner can read. An existing file is never replaced: a lost root key is a
    /// lost cluster.
    ///
    /// # Errors
    /// [`KeyFileError::Io`], also if the file exists.
    pub fn create(&self, path: &Path) -> Result<(), KeyFileError> {
        let (role, id) = match &self.holder {
            Holder::Root => ("root".to_owned(), String::new()),
            Holder::One(identity) => (identity.role.to_string(), identity.id.clone()),
        };
        let text = toml::to_string(&KeyFileText {
            cluster: self.cluster.to_string(),
            role,
            id,
            key: hex(&self.key.0),
        })
        .expect("four strings are valid TOML");
        let write = || {
            use std::io::Write as _;
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(path)?;
            file.write_all(text.as_bytes())?;
            file.sync_all()
        };
        write().map_err(|source| KeyFileError::Io {
            path: path.display().to_string(),
            source,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(role: Role, id: &str) -> Identity {
        Identity { role, id: id.into() }
    }

    #[test]
    fn golden_derivation() {
        let root = Key::from_bytes([1; 32]);
        let key = root.identity_key(ClusterId([2; 16]), &identity(Role::Client, "a"));
        assert_eq!(hex(&key.mac(Purpose::Token, b"x")).len(), 32);
        // Frozen: a change here makes every issued key useless.
        assert_eq!(hex(&key.0), include_str!("golden/identity_key.hex").trim());
    }

    #[test]
    fn keys_differ_by_role_id_cluster_and_purpose() {
        let root = Key::from_bytes([1; 32]);
        let cluster = ClusterId([2; 16]);
        let key = |c, role, id: &str| root.identity_key(c, &identity(role, id));
        let base = key(cluster, Role::Client, "a");
        assert_ne!(base, key(cluster, Role::Operator, "a"));
        assert_ne!(base, key(cluster, Role::Client, "b"));
        assert_ne!(base, key(ClusterId([3; 16]), Role::Client, "a"));
        assert!(!base.verify(Purpose::Ticket, b"x", &base.mac(Purpose::Token, b"x")));
        assert_eq!(format!("{base:?}"), "Key(secret)");
    }

    #[test]
    fn a_wrapped_key_opens_only_for_its_bearer() {
        let (server, bearer) = (Key::random(), Key::random());
        let ticket = Ticket {
            bearer: identity(Role::Client, "a"),
            server: ServerId(1),
            expires: StateTime(9),
            nonce: [7; 16],
        };
        let wrapped = wrap_connection_key(&server, &bearer, &ticket);
        assert_eq!(
            unwrap_connection_key(&bearer, &ticket, &wrapped),
            connection_key(&server, &ticket)
        );
        assert_ne!(
            unwrap_connection_key(&Key::random(), &ticket, &wrapped),
            connection_key(&server, &ticket)
        );
    }

    #[test]
    fn key_files_are_private_and_never_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root.key");
        let root = KeyFile::new_root();
        root.create(&path).unwrap();
        assert!(matches!(root.create(&path), Err(KeyFileError::Io { .. })));
        let loaded = KeyFile::load_for(&path, &Holder::Root).unwrap();
        assert_eq!((loaded.cluster, &loaded.key), (root.cluster, &root.key));
        let needed = Holder::One(identity(Role::Client, "a"));
        assert!(matches!(
            KeyFile::load_for(&path, &needed),
            Err(KeyFileError::WrongHolder { .. })
        ));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(KeyFile::load(&path), Err(KeyFileError::TooOpen { .. })));
        let wrong = dir.path().join("wrong.key");
        std::fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&wrong)
            .unwrap();
        assert!(matches!(KeyFile::load(&wrong), Err(KeyFileError::Malformed { .. })));
    }
}
