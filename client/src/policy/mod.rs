//! What the client decides, apart from how it is carried out: no socket, no clock, no task. Time and randomness are
//! arguments, so every decision can be tested by calling a function.

pub(crate) mod chain;
pub(crate) mod damage;
pub(crate) mod latency;
pub(crate) mod placement;
pub(crate) mod replicas;
pub(crate) mod route;
pub(crate) mod window;
