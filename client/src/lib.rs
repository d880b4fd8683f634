//! Gabion client.
