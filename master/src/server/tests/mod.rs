//! A whole master, or three, in one process, spoken to over TCP.

mod balance;
mod cluster;
mod conditions;
mod fake;
mod files;
mod merges;
mod operators;
mod reads;
mod repair;
mod room;
mod scrubs;
mod seats;
mod servers;
