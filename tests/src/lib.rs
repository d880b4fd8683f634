//! Gabion tests.
