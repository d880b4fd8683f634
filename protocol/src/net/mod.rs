//! Connections that carry many streams.
//!
//! One task owns each half of a socket. The reader hands each frame to its stream's bounded queue and never waits for
//! one stream; the writer takes frames from one bounded queue and never interleaves two. Either side may open streams:
//! the dialer's ids are odd, the acceptor's even.
//!
//! Invariants: every queue is bounded; a stream whose peer sends beyond its queue is closed, the connection lives on;
//! a frame error ends the connection, because where the next frame begins is then unknown; when a connection ends,
//! every call and stream on it learns so at once.
//!
//! Start reading at [`dial`] and [`accept`]; [`Connection`] is what both give.

mod connection;
mod handshake;
mod reader;
mod seats;
mod writer;

pub use connection::{Connection, Incoming, Peer, Stream};
pub use handshake::{Acceptor, Admit, Dialer, accept, accept_seated, dial};
pub use seats::{Handshakes, Seat, SeatCounts, Seats};
pub use writer::Outgoing;

#[cfg(test)]
mod tests;
