//! What is told of a file or directory beside its content, mode and time: who it belongs to, and extended attributes.

use serde::{Deserialize, Serialize};

/// Owner, group and extended attributes.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Attributes {
    /// Its owner: a name, or a number as text; empty if nobody said. Kept and shown; nothing is decided by it.
    pub owner: String,
    /// Its group, in the same way.
    pub group: String,
    /// Extended attributes in the order of their names.
    pub extended: Vec<(String, Vec<u8>)>,
}

/// A change of [`Attributes`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum AttributeChange {
    /// Who it belongs to; empty for nobody, `None` leaves what is there.
    Owner {
        /// Its owner.
        owner: Option<String>,
        /// Its group.
        group: Option<String>,
    },
    /// Sets an extended attribute, in place of its older value.
    Set {
        /// Its name, 1 to [`crate::limits::NAME_BYTES_MAX`] bytes.
        name: String,
        /// Its value. All names and values of a file have at most [`crate::limits::ATTRIBUTES_BYTES_MAX`] bytes.
        value: Vec<u8>,
    },
    /// Removes an extended attribute.
    Remove {
        /// Its name.
        name: String,
    },
}
