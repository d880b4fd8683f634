//! `gabion admin`: the cluster itself, a file for each noun. What changes it for good prints a plan first and acts with
//! `--apply`.

mod balance;
mod chunk;
mod disk;
mod inventory;
mod raft;
mod scrub;
mod server;
mod status;

use gabion_client::terminal::Failure;

use crate::args::balance::Balance;
use crate::args::inventory::Inventory;
use crate::args::{Admin, Chunk, Disk, Raft, Scrub, Server};
use crate::context::Context;

pub(crate) async fn run(context: &Context, admin: Admin) -> Result<(), Failure> {
    match admin {
        Admin::Status(status) => status::run(context, status).await,
        Admin::Raft(raft) => match raft {
            Raft::Status(status) => raft::status(context, status).await,
            Raft::Add(add) => raft::add(context, add).await,
            Raft::Remove(remove) => raft::remove(context, remove).await,
            Raft::TransferLeader(transfer) => raft::transfer_leader(context, transfer).await,
            Raft::Snapshot => raft::snapshot(context).await,
        },
        Admin::Chunk(chunk) => match chunk {
            Chunk::List(list) => chunk::list(context, list).await,
            Chunk::Show(show) => chunk::show(context, show).await,
            Chunk::Repair(repair) => chunk::repair(context, repair).await,
        },
        Admin::Disk(Disk::List(list)) => disk::list(context, list).await,
        Admin::Disk(Disk::Drain(drain)) => disk::drain(context, drain).await,
        Admin::Server(server) => match server {
            Server::List(list) => server::list(context, list).await,
            Server::Show(show) => server::show(context, show).await,
            Server::Drain(drain) => server::drain(context, drain).await,
            Server::Maintenance(maintenance) => server::maintenance(context, maintenance).await,
            Server::Remove(remove) => server::remove(context, remove).await,
        },
        Admin::Scrub(scrub) => match scrub {
            Scrub::Start(start) => scrub::start(context, start).await,
            Scrub::Status(status) => scrub::status(context, status).await,
        },
        Admin::Balance(balance) => match balance {
            Balance::Plan(plan) => balance::plan(context, plan).await,
            Balance::Start(start) => balance::start(context, start).await,
            Balance::Stop(stop) => balance::stop(context, stop).await,
        },
        Admin::Inventory(inventory) => match inventory {
            Inventory::Status(status) => inventory::status(context, status).await,
            Inventory::Accept(accept) => inventory::accept(context, accept).await,
        },
    }
}
