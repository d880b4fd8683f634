//! The client against masters and chunkservers made up in this process, which speak the real protocol over real
//! sockets and misbehave on demand.

mod appends;
mod fakes;
mod masters;
mod reads;
mod stocks;
mod writes;
