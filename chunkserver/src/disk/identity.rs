//! `disk.id`: which cluster, server and life a directory belongs to **[format]**.
//!
//! ```text
//! gabion disk 2
//! cluster 32 hexadecimal digits
//! incarnation 32 hexadecimal digits
//! disk 32 hexadecimal digits, this disk's own
//! disks those of all disks of the server as of its last start, this one's too, sorted, one space between
//! server number, or none before the masters gave one
//! boot number of starts
//! index made, or none before the index was first complete
//! crc32 of all lines above, 8 hexadecimal digits
//! ```
//!
//! Text, so that a person who finds the disk knows whose it is. Exactly these lines: any other byte is damage, and a
//! damaged identity is never taken for a new disk. The file is written before the index exists and once more after,
//! so an index that vanished later is noticed instead of being made again, empty. The list of disks is what tells the
//! empty directory below a disk that is not mounted from a new disk ([`super::roster`]).

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

use gabion_protocol::{ClusterId, Incarnation, ServerId};

use super::durable::publish;
use super::error::DiskError;

/// The file's name in its directory.
pub(crate) const FILE_NAME: &str = "disk.id";

const FIRST_LINE: &str = "gabion disk 2";

/// One disk, drawn when its directory is first used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DiskId(pub [u8; 16]);

impl DiskId {
    /// A fresh one.
    pub(crate) fn random() -> Self {
        Self(Incarnation::random().0)
    }

    fn parse(text: &str) -> Option<Self> {
        gabion_protocol::keys::unhex(text).map(Self)
    }
}

impl fmt::Display for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&gabion_protocol::keys::hex(&self.0))
    }
}

impl fmt::Debug for DiskId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What `disk.id` says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskIdentity {
    /// The cluster.
    pub cluster: ClusterId,
    /// This life of the server's directories, the same on all its disks.
    pub incarnation: Incarnation,
    /// This disk.
    pub disk: DiskId,
    /// All disks of the server as of its last start, this one among them.
    pub disks: BTreeSet<DiskId>,
    /// The server, once the masters gave it a number.
    pub server: Option<ServerId>,
    /// Starts of the server on this directory.
    pub boot: u64,
    /// Whether the index was made.
    pub indexed: bool,
}

impl DiskIdentity {
    /// The file's content.
    #[must_use]
    pub fn encode(&self) -> String {
        let server = self.server.map_or_else(|| "none".to_owned(), |id| id.to_string());
        let index = if self.indexed { "made" } else { "none" };
        let disks: Vec<_> = self.disks.iter().map(DiskId::to_string).collect();
        let body = format!(
            "{FIRST_LINE}\ncluster {}\nincarnation {}\ndisk {}\ndisks {}\nserver {server}\nboot {}\nindex {index}\n",
            self.cluster,
            self.incarnation,
            self.disk,
            disks.join(" "),
            self.boot
        );
        format!("{body}crc32 {:08x}\n", gabion_protocol::checksum::crc(body.as_bytes()))
    }

    /// Reads the file's content.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(text: &str) -> Result<Self, String> {
        let identity = Self::fields(text).ok_or_else(|| "it is not a disk identity of format 2".to_owned())?;
        // One text per identity: comparing with our own encoding checks the CRC, the order of the disks and every byte
        // between the fields.
        if identity.encode() == text && identity.disks.contains(&identity.disk) {
            Ok(identity)
        } else {
            Err("its checksum or its list of disks is wrong".to_owned())
        }
    }

    fn fields(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next()? != FIRST_LINE {
            return None;
        }
        let mut field = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix(' ');
        Some(Self {
            cluster: field("cluster")?.parse().ok()?,
            incarnation: field("incarnation")?.parse().ok()?,
            disk: DiskId::parse(field("disk")?)?,
            disks: field("disks")?.split(' ').map(DiskId::parse).collect::<Option<_>>()?,
            server: match field("server")? {
                "none" => None,
                number => Some(number.parse().ok()?),
            },
            boot: field("boot")?.parse().ok()?,
            indexed: match field("index")? {
                "made" => true,
                "none" => false,
                _ => return None,
            },
        })
    }

    /// Reads `dir`'s identity; `None` if there is none.
    pub(crate) fn load(dir: &Path) -> Result<Option<Self>, DiskError> {
        let path = dir.join(FILE_NAME);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(DiskError::io("read", &path, e)),
        };
        let damaged = |why| DiskError::Identity {
            path: path.clone(),
            why,
        };
        let text = String::from_utf8(bytes).map_err(|_| damaged("it is not text".to_owned()))?;
        Self::decode(&text).map(Some).map_err(damaged)
    }

    /// Replaces `dir`'s identity, durably.
    pub(crate) fn store(&self, dir: &Path) -> Result<(), DiskError> {
        publish(&dir.join(FILE_NAME), self.encode().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> DiskIdentity {
        DiskIdentity {
            cluster: ClusterId([1; 16]),
            incarnation: Incarnation([2; 16]),
            disk: DiskId([5; 16]),
            disks: [5, 4].map(|byte| DiskId([byte; 16])).into(),
            server: Some(ServerId(3)),
            boot: 4,
            indexed: true,
        }
    }

    #[test]
    fn golden_disk_id() {
        assert_eq!(identity().encode(), include_str!("golden/disk.id"));
        let new = DiskIdentity {
            server: None,
            indexed: false,
            ..identity()
        };
        assert_eq!(DiskIdentity::decode(&new.encode()), Ok(new));
    }

    #[test]
    fn a_list_out_of_order_or_without_the_disk_itself_is_refused() {
        let reseal = |text: &str| {
            let body = &text[..text.find("crc32").unwrap()];
            format!("{body}crc32 {:08x}\n", gabion_protocol::checksum::crc(body.as_bytes()))
        };
        let (four, five) = ("04".repeat(16), "05".repeat(16));
        let text = identity().encode();
        assert_eq!(reseal(&text), text);
        for list in [format!("{five} {four}"), format!("{four} {four} {five}"), four.clone()] {
            let changed = reseal(&text.replace(&format!("disks {four} {five}"), &format!("disks {list}")));
            assert_ne!(changed, text);
            assert!(DiskIdentity::decode(&changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_refused() {
        let good = identity().encode().into_bytes();
        for bit in 0..good.len() * 8 {
            let mut bytes = good.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let refused = String::from_utf8(bytes).map_or(true, |text| DiskIdentity::decode(&text).is_err());
            assert!(refused, "bit {bit}");
        }
        let text = identity().encode();
        assert!((0..text.len()).all(|len| DiskIdentity::decode(&text[..len]).is_err()));
    }
}
