//! The system under stress: real processes, real disks, real faults.
//!
//! This library is the harness; the suites are in `tests/`. A suite says what was promised, breaks something on
//! purpose, and checks from outside that the promise held. Nothing here looks inside a server: it starts the binaries,
//! talks their protocol, sends signals, cuts networks and fills disks.
//!
//! | module | what it is for |
//! |---|---|
//! | [`cluster`] | starts a whole cluster in a temporary directory, and stops it whatever happens |
//! | [`process`], [`command`] | one server process; one run of a command-line tool |
//! | [`load`], [`ledger`] | work that goes on during a fault, and the account of it kept outside the cluster |
//! | [`network`], [`disk`], [`damage`], [`proxy`] | faults: cut networks, full disks, flipped bits, lost replies, long ways |
//! | [`content`], [`files`], [`wait`], [`skip`] | known bytes, waiting for events, tests that cannot run here |
//!
//! Rules of the suites:
//! * waiting is always for an event with a deadline, never a sleep that hopes;
//! * a run in which the planned fault did not fire, or nothing succeeded meanwhile, fails: it proved nothing;
//! * sizes are small unless `GABION_TEST_LONG=1`;
//! * `GABION_TEST_TIMES=1` shows what a test waits for;
//! * what cannot run here (no root, no namespaces) says `skipped: …` on stderr, and fails if `GABION_TEST_NO_SKIP=1`.

pub mod binaries;
pub mod cluster;
pub mod command;
pub mod content;
pub mod damage;
pub mod disk;
pub mod files;
pub mod ledger;
pub mod load;
pub mod network;
pub mod process;
pub mod proxy;
pub mod skip;
pub mod syscalls;
pub mod wait;

pub use cluster::{Cluster, Plan};
pub use wait::{seconds, until};

/// Whether the full sizes were asked for.
#[must_use]
pub fn long() -> bool {
    std::env::var_os("GABION_TEST_LONG").is_some_and(|value| value != "0" && !value.is_empty())
}

/// `small`, or `full` when the full sizes were asked for.
pub fn scaled<T>(small: T, full: T) -> T {
    if long() { full } else { small }
}

/// Bytes of a KiB.
pub const KIB: u64 = 1 << 10;
/// Bytes of a MiB.
pub const MIB: u64 = 1 << 20;
/// Bytes of a GiB.
pub const GIB: u64 = 1 << 30;
