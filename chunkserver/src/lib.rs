//! Gabion's chunkserver: keeps bytes. It knows chunks, not files; masters decide what lives and what goes.
//!
//! | module | what it does |
//! |---|---|
//! | [`disk`] | chunks on disks: nothing acknowledged that a power cut could take back |
//!
//! Invariants: bytes are checked against their CRCs before they are stored or passed on; nothing is deleted without a
//! master's order; damage is never taken for absence; every queue and buffer is bounded.

pub mod disk;
