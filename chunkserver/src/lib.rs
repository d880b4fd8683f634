//! Gabion chunkserver.
