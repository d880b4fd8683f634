//! `gabion admin scrub`: reading copies again, before somebody needs them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use gabion_client::terminal::{Column, Failure, Format, Output, Table, failure, text};
use gabion_client::{Verdict, Walk};
use gabion_protocol::messages::master::{EntryKind, Extent, Replica, ScrubPass, ServerInfo, ServerScrub};
use gabion_protocol::{ErrorCode, FsPath, ServerId, StateTime};
use serde::Serialize;

use crate::args::{ScrubStart, ScrubStatus};
use crate::context::Context;

pub(crate) async fn start(context: &Context, arguments: ScrubStart) -> Result<(), Failure> {
    if let Some(path) = &arguments.path {
        return read_again(context, path).await;
    }
    let known = context.client.status().await?.servers;
    let servers = arguments.server.iter().map(|wanted| find(&known, wanted));
    let servers: Vec<_> = servers.collect::<Result<_, _>>()?;
    let started = context.client.start_scrub(&servers).await?;
    let names = |servers: &[ServerId]| {
        let name = |id: &ServerId| known.iter().find(|server| server.server == *id);
        let names = servers
            .iter()
            .map(|id| name(id).map_or_else(|| format!("c{id}"), |server| text::printable(&server.name).into_owned()));
        names.collect::<Vec<_>>().join(", ")
    };
    if !started.begun.is_empty() {
        context.say(&format!(
            "{} read all copies again; see: gabion admin scrub status",
            names(&started.begun)
        ));
    }
    if started.waiting.is_empty() {
        return Ok(());
    }
    eprintln!(
        "not begun yet: {}; the masters repeat it until they have a new leader; see: gabion admin status",
        names(&started.waiting)
    );
    Err(Failure::Told {
        exit_code: failure::PARTIAL,
    })
}

/// A server by its name or number.
fn find(known: &[ServerInfo], wanted: &str) -> Result<ServerId, Failure> {
    let number = wanted.parse().map(ServerId);
    let named = known.iter().rev().find(|server| server.name == wanted);
    let numbered = || known.iter().find(|server| Ok(server.server) == number);
    if let Some(server) = named.or_else(numbered) {
        return Ok(server.server);
    }
    Err(Failure::code(
        ErrorCode::NotFound,
        format!("there is no chunkserver {wanted}"),
        "see: gabion admin status",
    ))
}

/// What was found below a path.
#[derive(Debug, Default)]
struct Found {
    files: u64,
    copies: u64,
    bytes: u64,
    damaged: u64,
    unknown: u64,
}

/// Has the servers read all copies of the files below a path again, and waits for it.
async fn read_again(context: &Context, path: &FsPath) -> Result<(), Failure> {
    let began = Instant::now();
    let mut found = Found::default();
    let (_, entry) = context.client.resolve(path).await?;
    let mut files = VecDeque::new();
    let mut walk = None;
    match entry.kind {
        EntryKind::File | EntryKind::Link { .. } => files.push_back(path.clone()),
        EntryKind::Directory => walk = Some(Walk::new(context.client.clone(), path.clone())),
    }
    loop {
        if context.stop.is_cancelled() {
            return Err(Failure::interrupted());
        }
        if let Some(file) = files.pop_front() {
            check_file(context, &file, &mut found).await?;
            continue;
        }
        let Some(walking) = &mut walk else { break };
        match walking.next().await {
            Some(next) => match next? {
                (file, entry) if entry.is_file() => files.push_back(file),
                _ => {}
            },
            None => walk = None,
        }
    }
    context.say(&format!(
        "read {} of {} again, {} in {}: {} damaged",
        text::count(found.copies, "copy"),
        text::count(found.files, "file"),
        text::size(found.bytes),
        text::span(began.elapsed()),
        found.damaged
    ));
    match (found.damaged, found.unknown) {
        (0, 0) => Ok(()),
        (0, _) => Err(Failure::Told {
            exit_code: failure::PARTIAL,
        }),
        _ => Err(Failure::Told {
            exit_code: ErrorCode::Corrupt.exit_code(),
        }),
    }
}

async fn check_file(context: &Context, path: &FsPath, found: &mut Found) -> Result<(), Failure> {
    let (_, extents) = match context.client.locate(path).await {
        Ok(located) => located,
        Err(error) if error.code() == ErrorCode::NotFound => return Ok(()),
        Err(error) => return Err(error.into()),
    };
    found.files += 1;
    for extent in &extents {
        let copies = extent.replicas.iter();
        let asked = join_all(copies.map(|replica| check_copy(context, extent, replica))).await;
        for (replica, checked) in extent.replicas.iter().zip(asked) {
            let what = match checked {
                Ok(None) => {
                    found.copies += 1;
                    found.bytes += extent.chunk_length;
                    continue;
                }
                Ok(Some(what)) => {
                    found.copies += 1;
                    found.damaged += 1;
                    what
                }
                Err(error) => {
                    found.unknown += 1;
                    error.to_string()
                }
            };
            let server = context.client.server_label(replica.server);
            eprintln!(
                "{}: chunk {} on {server}: {what}",
                text::printable(path.as_str()),
                extent.chunk
            );
        }
    }
    Ok(())
}

/// What is wrong with a copy, if anything. The server sets a copy aside and reports it whose bytes do not fit their
/// checksums; one that only the masters know to be wrong is reported here, and looked at by them.
async fn check_copy(
    context: &Context,
    extent: &Extent,
    replica: &Replica,
) -> Result<Option<String>, gabion_client::Error> {
    let what = match context.client.verify_replica(extent, replica).await? {
        Verdict::Good { length, crc } if (length, crc) == (extent.chunk_length, extent.chunk_crc) => return Ok(None),
        Verdict::Damaged { offset, what } => return Ok(Some(format!("at byte {offset}: {what}"))),
        Verdict::Unreadable { what } => return Ok(Some(what)),
        Verdict::Good { length, crc } => format!(
            "{length} bytes with checksum {crc:08x} instead of {} with {:08x}",
            extent.chunk_length, extent.chunk_crc
        ),
        Verdict::Missing => "the server does not hold it".to_owned(),
        Verdict::Unsealed { .. } => "it was never completed".to_owned(),
    };
    let number = replica.token.grant.replica;
    context
        .client
        .report_damage(extent.chunk, replica.server, number, &what)
        .await?;
    Ok(Some(what))
}

#[derive(Serialize)]
struct StatusRecord {
    state_time_ms: u64,
    servers: Vec<ServerRecord>,
}

#[derive(Serialize)]
struct ServerRecord {
    id: u32,
    name: String,
    /// `waiting`, `asked`, `regular`, `idle` or `unknown`.
    state: &'static str,
    report_age_ms: Option<u64>,
    /// In state time, as are all moments here.
    started_ms: Option<u64>,
    bytes_done: u64,
    bytes_total: u64,
    copies_done: u64,
    damaged: u64,
    gave_way: u64,
    last: Option<PassRecord>,
}

#[derive(Serialize)]
struct PassRecord {
    started_ms: u64,
    ended_ms: u64,
    bytes: u64,
    copies: u64,
    damaged: u64,
}

impl ServerRecord {
    fn new(server: &ServerScrub) -> Self {
        let told = server.progress;
        let pass = |last: ScrubPass| PassRecord {
            started_ms: last.started.0,
            ended_ms: last.ended.0,
            bytes: last.bytes,
            copies: last.chunks,
            damaged: last.damaged,
        };
        let state = match (server.age_ms, server.waiting, told.asked, told.running) {
            (_, true, ..) => "waiting",
            (None, ..) => "unknown",
            (_, _, true, _) => "asked",
            (_, _, _, true) => "regular",
            (_, _, _, false) => "idle",
        };
        Self {
            id: server.server.0,
            name: server.name.clone(),
            state,
            report_age_ms: server.age_ms,
            started_ms: told.started.map(|at| at.0),
            bytes_done: told.bytes_done,
            bytes_total: told.bytes_total,
            copies_done: told.chunks_done,
            damaged: told.damaged,
            gave_way: told.gave_way,
            last: told.last.map(pass),
        }
    }
}

pub(crate) async fn status(context: &Context, arguments: ScrubStatus) -> Result<(), Failure> {
    let now = context.client.status().await?.now;
    let servers = context.client.scrub_status().await?;
    let record = StatusRecord {
        state_time_ms: now.0,
        servers: servers.iter().map(ServerRecord::new).collect(),
    };
    let mut output = Output::stdout();
    match arguments.printing.output {
        format @ (Format::Json | Format::Jsonl) => output.object(format, &record)?,
        Format::Table => output.table(&table(&record, now, arguments.bytes))?,
    }
    output.flush()
}

fn table(record: &StatusRecord, now: StateTime, exact: bool) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Words("server"),
        Words("pass"),
        Numbers("began"),
        Numbers("read"),
        Numbers("of"),
        Numbers("damaged"),
        Numbers("last pass"),
        Numbers("damaged then"),
    ]);
    let ago = |at: Option<u64>| {
        at.map_or_else(
            || "never".to_owned(),
            |at| format!("{} ago", text::span(Duration::from_millis(now.0.saturating_sub(at)))),
        )
    };
    for server in &record.servers {
        let last = server.last.as_ref();
        table.row([
            text::printable(&server.name).into_owned(),
            server.state.to_owned(),
            ago(server.started_ms),
            text::size_or_bytes(server.bytes_done, exact),
            text::size_or_bytes(server.bytes_total, exact),
            server.damaged.to_string(),
            ago(last.map(|last| last.ended_ms)),
            last.map_or_else(|| "-".to_owned(), |last| last.damaged.to_string()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use gabion_protocol::messages::master::{Health, Load, ScrubProgress};

    use super::*;

    fn scrubs() -> StatusRecord {
        let progress = ScrubProgress {
            started: Some(StateTime(60_000)),
            asked: true,
            running: true,
            bytes_done: 3 << 20,
            bytes_total: 12 << 20,
            chunks_done: 3,
            damaged: 1,
            gave_way: 2,
            last: Some(ScrubPass {
                started: StateTime(1_000),
                ended: StateTime(30_000),
                bytes: 4,
                chunks: 5,
                damaged: 6,
            }),
        };
        let server = |id, waiting, age_ms, progress| ServerScrub {
            server: ServerId(id),
            name: format!("c{id}"),
            waiting,
            age_ms,
            progress,
        };
        let servers = [
            server(1, false, Some(10), progress),
            server(2, true, None, ScrubProgress::default()),
        ];
        StatusRecord {
            state_time_ms: 90_000,
            servers: servers.iter().map(ServerRecord::new).collect(),
        }
    }

    #[test]
    fn the_status_is_pinned() {
        let expected = "\
SERVER  PASS          BEGAN     READ      OF  DAMAGED      LAST PASS  DAMAGED THEN
c1      asked    30.0 s ago  3.0 MiB  12 MiB        1  1 min 0 s ago             6
c2      waiting       never      0 B     0 B        0          never             -
";
        assert_eq!(table(&scrubs(), StateTime(90_000), false).to_string(), expected);
    }

    #[test]
    fn json_is_pinned() {
        let expected = r#"{"id":1,"name":"c1","state":"asked","report_age_ms":10,"started_ms":60000,"bytes_done":3145728,"bytes_total":12582912,"copies_done":3,"damaged":1,"gave_way":2,"last":{"started_ms":1000,"ended_ms":30000,"bytes":4,"copies":5,"damaged":6}}"#;
        assert_eq!(serde_json::to_string(&scrubs().servers[0]).unwrap(), expected);
    }

    #[test]
    fn servers_have_names_and_numbers() {
        let server = |id, name: &str| ServerInfo {
            server: ServerId(id),
            name: name.to_owned(),
            address: "h:1".to_owned(),
            rack: String::new(),
            health: Health::Alive,
            beat_age_ms: None,
            load: Load::default(),
        };
        // A name that was taken over by an empty directory: the newer one is meant.
        let known = [server(1, "a"), server(2, "b"), server(3, "a")];
        assert_eq!(find(&known, "a").unwrap(), ServerId(3));
        assert_eq!(find(&known, "1").unwrap(), ServerId(1));
        assert_eq!(find(&known, "c").unwrap_err().exit_code(), 3);
    }
}
