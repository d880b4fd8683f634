//! Room that an upload holds against quotas. Uploads that no quota concerns have none.

use gabion_protocol::ids::Ino;
use gabion_protocol::messages::master::Room;
use serde::{Deserialize, Serialize};

use super::{Fields, Key, Kind, Value};

/// Key of a [`Reservation`]: its upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReservationKey(pub Ino);

impl Key for ReservationKey {
    const KIND: Kind = Kind::Reservation;
    type Value = Reservation;

    fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.0.0.to_be_bytes());
    }

    fn read(fields: &mut Fields<'_>) -> Option<Self> {
        fields.u64().map(|ino| Self(Ino(ino)))
    }
}

/// Room for an upload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reservation {
    /// Where it counts, and in all directories above: the deepest one on the upload's way that was there.
    pub directory: Ino,
    /// What the writer knows.
    pub room: Room,
    /// Bytes of the file that would be replaced: they need no room.
    pub replaced: u64,
    /// Bytes reserved.
    pub bytes: u64,
    /// Entries reserved.
    pub entries: u64,
}

impl Value for Reservation {}
