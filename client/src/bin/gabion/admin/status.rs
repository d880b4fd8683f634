//! `gabion admin status`: the cluster at a glance.

use std::time::Duration;

use gabion_client::Merges;
use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_protocol::messages::master::{Health, MasterInfo, ServerInfo, ServerInventory, Status};
use rustix::termios::isatty;
use serde::Serialize;

use super::inventory;
use crate::args;
use crate::context::Context;

/// Clears a terminal and goes to its first line.
const CLEAR: &str = "\u{1b}[2J\u{1b}[H";

#[derive(Serialize)]
struct StatusRecord {
    cluster: String,
    answered_by: u64,
    leader: Option<u64>,
    term: u64,
    last_log: u64,
    applied: u64,
    snapshot: Option<u64>,
    state_time_ms: u64,
    level: u32,
    files: u64,
    directories: u64,
    bytes: u64,
    /// `chunks_by_copies[n]` chunks have `n` live copies.
    chunks_by_copies: Vec<u64>,
    under_replicated: u64,
    damaged: u64,
    masters: Vec<MasterRecord>,
    servers: Vec<ServerRecord>,
}

/// The status and what repair does.
#[derive(Serialize)]
struct FullStatusRecord {
    #[serde(flatten)]
    status: StatusRecord,
    copies_in_progress: u64,
    /// Large chunks that took the place of small ones since the leader leads.
    merges_done: u64,
    merges_in_progress: u64,
    /// Files that may lie in small chunks.
    merges_waiting: u64,
    /// Chunkservers whose unknown copies wait for an operator.
    servers_stopped: u64,
    /// Copies of chunks the masters have forgotten.
    copies_forgotten: u64,
}

#[derive(Serialize)]
pub(super) struct MasterRecord {
    pub(super) id: u64,
    pub(super) role: &'static str,
    voter: bool,
    pub(super) raft_address: String,
    client_address: String,
    matched: Option<u64>,
    pub(super) lag: Option<u64>,
}

#[derive(Serialize)]
struct ServerRecord {
    id: u32,
    name: String,
    address: String,
    rack: String,
    health: &'static str,
    beat_age_ms: Option<u64>,
    bytes_total: u64,
    bytes_free: u64,
    chunks: u64,
    streams: u32,
    disks_ok: u16,
    disks_failed: u16,
}

impl MasterRecord {
    pub(super) fn new(master: &MasterInfo, status: &Status) -> Self {
        let role = match status.leader {
            Some(leader) if leader == master.id => "leader",
            _ if !master.voter => "learner",
            Some(_) => "follower",
            None => "unknown",
        };
        Self {
            id: master.id.0,
            role,
            voter: master.voter,
            raft_address: master.raft_address.clone(),
            client_address: master.client_address.clone(),
            matched: master.matched,
            lag: master.matched.map(|matched| status.last_log.saturating_sub(matched)),
        }
    }
}

impl ServerRecord {
    fn new(server: &ServerInfo) -> Self {
        let load = server.load;
        Self {
            id: server.server.0,
            name: server.name.clone(),
            address: server.address.clone(),
            rack: server.rack.clone(),
            health: match server.health {
                Health::Alive => "alive",
                Health::Suspect => "suspect",
                Health::Lost => "lost",
            },
            beat_age_ms: server.beat_age_ms,
            bytes_total: load.bytes_total,
            bytes_free: load.bytes_free,
            chunks: load.chunks,
            streams: load.streams,
            disks_ok: load.disks_ok,
            disks_failed: load.disks_failed,
        }
    }
}

impl StatusRecord {
    fn new(status: &Status) -> Self {
        Self {
            cluster: status.cluster.to_string(),
            answered_by: status.answered_by.0,
            leader: status.leader.map(|leader| leader.0),
            term: status.term,
            last_log: status.last_log,
            applied: status.applied,
            snapshot: status.snapshot,
            state_time_ms: status.now.0,
            level: status.level,
            files: status.files,
            directories: status.directories,
            bytes: status.bytes,
            chunks_by_copies: status.copies.clone(),
            under_replicated: status.under_replicated,
            damaged: status.damaged,
            masters: status
                .masters
                .iter()
                .map(|master| MasterRecord::new(master, status))
                .collect(),
            servers: status.servers.iter().map(ServerRecord::new).collect(),
        }
    }
}

pub(crate) async fn run(context: &Context, arguments: args::Status) -> Result<(), Failure> {
    let mut output = Output::stdout();
    let Some(pause) = arguments.watch else {
        let asked = ask_status(context).await?;
        show_status(&mut output, &arguments, &asked)?;
        return output.flush();
    };
    // A moment at least: a pause of nothing would be a denial of service.
    let mut beats = tokio::time::interval(pause.0.max(Duration::from_millis(100)));
    beats.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let redraw = arguments.printing.output == Format::Table && isatty(std::io::stdout());
    loop {
        tokio::select! {
            _ = beats.tick() => {}
            () = context.stop.cancelled() => return Err(Failure::interrupted()),
        }
        let asked = ask_status(context).await;
        if redraw {
            output.bytes(CLEAR.as_bytes())?;
        }
        match asked {
            Ok(asked) => show_status(&mut output, &arguments, &asked)?,
            // Watching is for the bad days: it goes on.
            Err(error) => eprintln!("{}", error.report()),
        }
        output.flush()?;
    }
}

/// The status, and what it does not hold.
struct Asked {
    status: Status,
    /// Copies being made.
    copying: u64,
    merges: Merges,
    inventories: Vec<ServerInventory>,
}

async fn ask_status(context: &Context) -> Result<Asked, gabion_client::Error> {
    let client = &context.client;
    let (status, copying) = tokio::try_join!(client.status(), client.copies_in_progress())?;
    // Masters of an older release do not know of any.
    let merges = client.merges().await.unwrap_or_default();
    // Operators only: for others the rest is told all the same.
    let inventories = client.inventories().await.unwrap_or_default();
    Ok(Asked {
        status,
        copying,
        merges,
        inventories,
    })
}

fn show_status(output: &mut Output, arguments: &args::Status, asked: &Asked) -> Result<(), Failure> {
    match arguments.printing.output {
        format @ (Format::Json | Format::Jsonl) => {
            let stopped = asked.inventories.iter().filter(|server| server.stopped);
            let record = FullStatusRecord {
                status: StatusRecord::new(&asked.status),
                copies_in_progress: asked.copying,
                merges_done: asked.merges.done,
                merges_in_progress: asked.merges.under_way,
                merges_waiting: asked.merges.waiting,
                servers_stopped: stopped.count() as u64,
                copies_forgotten: asked.inventories.iter().map(|server| server.forgotten).sum(),
            };
            output.object(format, &record)
        }
        Format::Table => {
            output.bytes(render(&asked.status, arguments.bytes).as_bytes())?;
            if asked.copying > 0 {
                let copies = text::count(asked.copying, "copy");
                output.line(&format!("\nrepair    {copies} in progress"))?;
            }
            if asked.merges != Merges::default() {
                output.line(&format!("\nmerges    {}", merges(asked.merges)))?;
            }
            for trouble in inventory::troubles(&asked.inventories) {
                output.line(&format!("\ninventory {trouble}; see: gabion admin inventory status"))?;
            }
            Ok(())
        }
    }
}

/// What becomes of small chunks, in a line.
fn merges(merges: Merges) -> String {
    let Merges {
        done,
        under_way,
        waiting,
    } = merges;
    let waiting = text::count(waiting, "file");
    format!("{under_way} in progress, {waiting} waiting, {done} done")
}

/// The status screen.
fn render(status: &Status, exact: bool) -> String {
    let leader = status
        .leader
        .map_or_else(|| "none".to_owned(), |leader| format!("m{leader}"));
    format!(
        "cluster   {}\nleader    {leader}, term {}, log {}, applied {}, snapshot {}\nfiles     {}\nhealth    {}\n\n{}\n{}{}",
        status.cluster,
        status.term,
        status.last_log,
        status.applied,
        status
            .snapshot
            .map_or_else(|| "none yet".to_owned(), |index| index.to_string()),
        contents(status, exact),
        health(status),
        masters(status),
        servers(status, exact),
        copies(status).map_or_else(String::new, |table| format!("\n{table}")),
    )
}

fn contents(status: &Status, exact: bool) -> String {
    let files = text::count(status.files, "file");
    let directories = text::count(status.directories, "directory");
    format!("{files} in {directories}, {}", text::size_or_bytes(status.bytes, exact))
}

/// One line that says whether somebody has to get up.
fn health(status: &Status) -> String {
    let mut troubles = Vec::new();
    let mut add = |number: u64, what: &str| {
        if number > 0 {
            troubles.push(format!("{number} {what}"));
        }
    };
    let with = |health: Health| status.servers.iter().filter(|server| server.health == health).count() as u64;
    add(u64::from(status.leader.is_none()), "leader missing");
    add(with(Health::Suspect), "chunkservers suspect");
    add(with(Health::Lost), "chunkservers lost");
    add(
        status
            .servers
            .iter()
            .map(|server| u64::from(server.load.disks_failed))
            .sum(),
        "disks failed",
    );
    add(
        status.copies.first().copied().unwrap_or(0),
        "chunks without a live copy",
    );
    add(status.under_replicated, "chunks with fewer copies than wanted");
    add(status.damaged, "copies reported damaged");
    if troubles.is_empty() {
        return "ok".to_owned();
    }
    troubles.join(", ")
}

fn masters(status: &Status) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Words("master"),
        Words("role"),
        Numbers("matched"),
        Numbers("lag"),
        Words("clients"),
        Words("masters"),
    ]);
    for master in &status.masters {
        let record = MasterRecord::new(master, status);
        table.row([
            format!("m{}", record.id),
            record.role.to_owned(),
            or_dash(record.matched),
            or_dash(record.lag),
            text::printable(&record.client_address).into_owned(),
            text::printable(&record.raft_address).into_owned(),
        ]);
    }
    table
}

fn servers(status: &Status, exact: bool) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Words("server"),
        Words("health"),
        Numbers("last beat"),
        Numbers("used"),
        Numbers("free"),
        Numbers("chunks"),
        Numbers("streams"),
        Words("disks"),
        Words("rack"),
        Words("address"),
    ]);
    for server in &status.servers {
        let record = ServerRecord::new(server);
        let beat = record.beat_age_ms.map(Duration::from_millis);
        let disks = match record.disks_failed {
            0 => format!("{} ok", record.disks_ok),
            failed => format!("{} ok, {failed} failed", record.disks_ok),
        };
        table.row([
            text::printable(&record.name).into_owned(),
            record.health.to_owned(),
            beat.map_or_else(|| "never".to_owned(), |age| format!("{} ago", text::span(age))),
            text::size_or_bytes(record.bytes_total.saturating_sub(record.bytes_free), exact),
            text::size_or_bytes(record.bytes_free, exact),
            record.chunks.to_string(),
            record.streams.to_string(),
            disks,
            text::printable(&record.rack).into_owned(),
            text::printable(&record.address).into_owned(),
        ]);
    }
    table
}

/// How many chunks have how many copies, if there are chunks.
fn copies(status: &Status) -> Option<Table> {
    let mut table = Table::new(&[Column::Numbers("live copies"), Column::Numbers("chunks")]);
    for (number, chunks) in status.copies.iter().enumerate().filter(|(_, chunks)| **chunks > 0) {
        table.row([number.to_string(), chunks.to_string()]);
    }
    (!table.is_empty()).then_some(table)
}

pub(super) fn or_dash(number: Option<u64>) -> String {
    number.map_or_else(|| "-".to_owned(), |number| number.to_string())
}

#[cfg(test)]
mod tests {
    use gabion_protocol::messages::master::Load;
    use gabion_protocol::{ClusterId, MasterId, ServerId, StateTime};

    use super::*;

    fn status_of_three() -> Status {
        let master = |id: u64, matched| MasterInfo {
            id: MasterId(id),
            raft_address: format!("h{id}:7101"),
            client_address: format!("h{id}:7001"),
            voter: true,
            matched,
        };
        let server = |id: u32, health, beat_age_ms| ServerInfo {
            server: ServerId(id),
            name: format!("c{id}"),
            address: format!("h{id}:7201"),
            rack: "r1".to_owned(),
            health,
            beat_age_ms,
            load: Load {
                bytes_total: 100 << 30,
                bytes_free: 60 << 30,
                chunks: 20,
                streams: 1,
                disks_failed: 0,
                disks_ok: 1,
            },
        };
        Status {
            cluster: ClusterId([7; 16]),
            answered_by: MasterId(2),
            leader: Some(MasterId(2)),
            term: 4,
            last_log: 100,
            applied: 99,
            snapshot: None,
            now: StateTime(5),
            level: 1,
            masters: vec![master(1, Some(98)), master(2, Some(100)), master(3, None)],
            servers: vec![server(1, Health::Alive, Some(120)), server(2, Health::Lost, None)],
            files: 3,
            directories: 1,
            bytes: 1_288_490_189,
            copies: vec![0, 0, 2, 18],
            under_replicated: 2,
            damaged: 0,
        }
    }

    #[test]
    fn the_status_screen_is_pinned() {
        let expected = "\
cluster   07070707070707070707070707070707
leader    m2, term 4, log 100, applied 99, snapshot none yet
files     3 files in 1 directory, 1.2 GiB
health    1 chunkservers lost, 2 chunks with fewer copies than wanted

MASTER  ROLE      MATCHED  LAG  CLIENTS  MASTERS
m1      follower       98    2  h1:7001  h1:7101
m2      leader        100    0  h2:7001  h2:7101
m3      follower        -    -  h3:7001  h3:7101

SERVER  HEALTH   LAST BEAT    USED    FREE  CHUNKS  STREAMS  DISKS  RACK  ADDRESS
c1      alive   120 ms ago  40 GiB  60 GiB      20        1  1 ok   r1    h1:7201
c2      lost         never  40 GiB  60 GiB      20        1  1 ok   r1    h2:7201

LIVE COPIES  CHUNKS
          2       2
          3      18
";
        assert_eq!(render(&status_of_three(), false), expected);
    }

    #[test]
    fn json_has_the_same_facts() {
        let json = serde_json::to_value(StatusRecord::new(&status_of_three())).unwrap();
        assert_eq!(json["masters"][0]["lag"], 2);
        assert_eq!(json["servers"][1]["health"], "lost");
        assert_eq!(json["chunks_by_copies"][3], 18);
        assert_eq!(json["leader"], 2);
    }

    #[test]
    fn a_healthy_cluster_says_ok() {
        let mut status = status_of_three();
        status.servers.pop();
        status.under_replicated = 0;
        assert_eq!(health(&status), "ok");
    }
}
