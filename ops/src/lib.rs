//! Gabion ops.
