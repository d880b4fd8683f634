//! `gabion du` and `gabion df`: what takes how much space. Both ask for what the masters know already, and walk nothing.

use gabion_client::terminal::{Column, Failure, Format, Output, Table, Tally, text};
use gabion_protocol::messages::master::{Entry, EntryKind, Health, ServerInfo, Status, TrashTotals};
use gabion_protocol::{ErrorCode, FsPath};
use serde::Serialize;

use crate::args::{Space, Usage};
use crate::context::Context;
use crate::glob;
use crate::records;

/// Entries asked for at once.
const PAGE: u32 = 1000;

/// What a file or directory holds.
#[derive(Debug, Serialize)]
struct Holding {
    path: String,
    kind: &'static str,
    bytes: u64,
    /// Files and directories below a directory; 0 for a file.
    entries: u64,
}

impl Holding {
    fn new(path: &FsPath, entry: &Entry) -> Self {
        Self {
            path: path.to_string(),
            kind: records::kind(&entry.kind),
            bytes: entry.length,
            entries: match entry.kind {
                EntryKind::File | EntryKind::Link { .. } => 0,
                EntryKind::Directory => entry.children,
            },
        }
    }
}

#[derive(Serialize)]
struct Holdings {
    entries: Vec<Holding>,
}

pub(crate) async fn usage(context: &Context, usage: Usage) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut found = Vec::new();
    for path in &glob::expand(context, &usage.paths, &mut tally).await {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match look(context, path, usage.summarize, &mut found).await {
            Ok(()) => tally.succeeded(),
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    let mut output = Output::stdout();
    match usage.printing.output {
        Format::Json => output.object(Format::Json, &Holdings { entries: found })?,
        Format::Jsonl => found
            .iter()
            .try_for_each(|holding| output.object(Format::Jsonl, holding))?,
        Format::Table => output.table(&holdings(&found, usage.bytes))?,
    }
    output.flush()?;
    tally.finish("path", "looked at", &mut |line| eprintln!("{line}"))
}

/// Adds what is to be told of `path`: last itself, as `du` does.
async fn look(context: &Context, path: &FsPath, summarize: bool, found: &mut Vec<Holding>) -> Result<(), Failure> {
    let entry = context.client.stat(path).await?;
    let mut after: Option<String> = None;
    let mut more = entry.is_directory() && !summarize;
    while more {
        let page = match context.client.list(path, after.as_deref(), PAGE).await {
            Ok(page) => page,
            // It was replaced or removed meanwhile: what it held is told by itself.
            Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::NotDirectory) => break,
            Err(error) => return Err(error.into()),
        };
        for entry in &page.entries {
            let path = path.join(&entry.name).map_err(gabion_client::Error::from)?;
            found.push(Holding::new(&path, entry));
        }
        after = page.entries.last().map(|entry| entry.name.clone());
        more = page.more && after.is_some();
    }
    found.push(Holding::new(path, &entry));
    Ok(())
}

fn holdings(found: &[Holding], exact: bool) -> Table {
    let mut table = Table::new(&[
        Column::Numbers("size"),
        Column::Numbers("entries"),
        Column::Words("path"),
    ]);
    for holding in found {
        table.row([
            text::size_or_bytes(holding.bytes, exact),
            holding.entries.to_string(),
            text::printable(&holding.path).into_owned(),
        ]);
    }
    table
}

/// Space of a disk, a server, or all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Room {
    bytes_total: u64,
    bytes_used: u64,
    bytes_free: u64,
}

impl Room {
    fn of<'a>(servers: impl Iterator<Item = &'a ServerInfo>) -> Self {
        let (mut bytes_total, mut bytes_free) = (0u64, 0u64);
        for server in servers {
            bytes_total = bytes_total.saturating_add(server.load.bytes_total);
            bytes_free = bytes_free.saturating_add(server.load.bytes_free);
        }
        Self {
            bytes_total,
            bytes_used: bytes_total.saturating_sub(bytes_free),
            bytes_free,
        }
    }

    fn cells(&self, exact: bool) -> [String; 4] {
        let percent = match self.bytes_total {
            0 => "-".to_owned(),
            total => format!("{:.0} %", self.bytes_used as f64 * 100.0 / total as f64),
        };
        let size = |bytes| text::size_or_bytes(bytes, exact);
        [
            size(self.bytes_total),
            size(self.bytes_used),
            size(self.bytes_free),
            percent,
        ]
    }
}

#[derive(Serialize)]
struct SpaceRecord {
    #[serde(flatten)]
    room: Room,
    servers_counted: usize,
    files: u64,
    directories: u64,
    /// Of files with a name, without their copies.
    file_bytes: u64,
    trash_entries: u64,
    trash_bytes: u64,
    servers: Vec<ServerRoom>,
}

#[derive(Serialize)]
struct ServerRoom {
    server: u32,
    name: String,
    health: &'static str,
    #[serde(flatten)]
    room: Room,
    chunks: u64,
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Alive => "alive",
        Health::Suspect => "suspect",
        Health::Lost => "lost",
    }
}

/// Servers whose space can be used.
fn counted(status: &Status) -> impl Iterator<Item = &ServerInfo> {
    status.servers.iter().filter(|server| server.health != Health::Lost)
}

pub(crate) async fn space(context: &Context, space: Space) -> Result<(), Failure> {
    let status = context.client.status().await?;
    let trash = context.client.trash_page(None, 1).await?.totals;
    let mut output = Output::stdout();
    match space.printing.output {
        format @ (Format::Json | Format::Jsonl) => output.object(format, &record(&status, trash))?,
        Format::Table => output.bytes(shown(&status, trash, &space).as_bytes())?,
    }
    output.flush()
}

fn record(status: &Status, trash: TrashTotals) -> SpaceRecord {
    let server = |server: &ServerInfo| ServerRoom {
        server: server.server.0,
        name: server.name.clone(),
        health: health(server.health),
        room: Room::of(std::iter::once(server)),
        chunks: server.load.chunks,
    };
    SpaceRecord {
        room: Room::of(counted(status)),
        servers_counted: counted(status).count(),
        files: status.files,
        directories: status.directories,
        file_bytes: status.bytes,
        trash_entries: trash.entries,
        trash_bytes: trash.bytes,
        servers: status.servers.iter().map(server).collect(),
    }
}

fn shown(status: &Status, trash: TrashTotals, space: &Space) -> String {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Words("of"),
        Numbers("size"),
        Numbers("used"),
        Numbers("free"),
        Numbers("use"),
    ]);
    let mut row = |name: String, room: Room| {
        let [size, used, free, percent] = room.cells(space.bytes);
        table.row([name, size, used, free, percent]);
    };
    if space.long {
        for server in &status.servers {
            let name = match server.health {
                Health::Alive => server.name.clone(),
                other => format!("{} ({})", server.name, health(other)),
            };
            row(text::printable(&name).into_owned(), Room::of(std::iter::once(server)));
        }
    }
    let servers = text::count(counted(status).count() as u64, "chunkserver");
    row(servers, Room::of(counted(status)));
    let size = |bytes| text::size_or_bytes(bytes, space.bytes);
    format!(
        "{table}\n{} in {}, without copies; {} in the trash\n",
        size(status.bytes),
        text::count(status.files, "file"),
        size(trash.bytes)
    )
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;
    use gabion_protocol::ids::{ClusterId, MasterId, ServerId, StateTime};
    use gabion_protocol::messages::master::Load;

    use super::*;
    use crate::args::{Arguments, Verb};
    use crate::records::tests::entry;

    fn status() -> Status {
        let server = |number: u32, health, free| ServerInfo {
            server: ServerId(number),
            name: format!("c{number}"),
            address: "h:1".to_owned(),
            rack: String::new(),
            health,
            beat_age_ms: Some(1),
            load: Load {
                bytes_total: 1 << 30,
                bytes_free: free,
                chunks: 7,
                ..Load::default()
            },
        };
        Status {
            cluster: ClusterId([1; 16]),
            answered_by: MasterId(1),
            leader: Some(MasterId(1)),
            term: 1,
            last_log: 1,
            applied: 1,
            snapshot: None,
            now: StateTime(1),
            level: 1,
            masters: Vec::new(),
            servers: vec![
                server(1, Health::Alive, 1 << 30),
                server(2, Health::Suspect, 1 << 29),
                server(3, Health::Lost, 0),
            ],
            files: 2,
            directories: 1,
            bytes: 5 << 20,
            copies: Vec::new(),
            under_replicated: 0,
            damaged: 0,
        }
    }

    fn trash() -> TrashTotals {
        TrashTotals {
            entries: 1,
            files: 3,
            directories: 1,
            bytes: 1 << 20,
        }
    }

    fn space(line: &str) -> Space {
        match Arguments::try_parse_from(line.split(' ')).unwrap().verb {
            Verb::Df(space) => space,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn free_space_is_pinned_and_lost_servers_have_none() {
        let expected = "\
OF                 SIZE     USED     FREE   USE
2 chunkservers  2.0 GiB  512 MiB  1.5 GiB  25 %

5.0 MiB in 2 files, without copies; 1.0 MiB in the trash
";
        assert_eq!(shown(&status(), trash(), &space("gabion df -h")), expected);
        let long = shown(&status(), trash(), &space("gabion df -l --bytes"));
        assert!(
            long.contains("c3 (lost)       1073741824  1073741824           0  100 %"),
            "{long}"
        );
        let mut none = status();
        none.servers.clear();
        assert!(shown(&none, trash(), &space("gabion df")).contains("0 chunkservers   0 B   0 B   0 B    -"));
    }

    #[test]
    fn json_of_free_space_is_pinned() {
        let mut one = status();
        one.servers.truncate(1);
        let expected = r#"{"bytes_total":1073741824,"bytes_used":0,"bytes_free":1073741824,"servers_counted":1,"files":2,"directories":1,"file_bytes":5242880,"trash_entries":1,"trash_bytes":1048576,"servers":[{"server":1,"name":"c1","health":"alive","bytes_total":1073741824,"bytes_used":0,"bytes_free":1073741824,"chunks":7}]}"#;
        assert_eq!(serde_json::to_string(&record(&one, trash())).unwrap(), expected);
    }

    #[test]
    fn holdings_are_pinned() {
        let found: Vec<_> = [("/a", EntryKind::File), ("/d\n", EntryKind::Directory)]
            .map(|(path, kind)| Holding::new(&FsPath::parse(path).unwrap(), &entry("x", kind, 2048, 0)))
            .into();
        let expected = "   SIZE  ENTRIES  PATH
2.0 KiB        0  /a
2.0 KiB        2  /d\\n
";
        assert_eq!(holdings(&found, false).to_string(), expected);
        let json = serde_json::to_string(&found[1]).unwrap();
        assert_eq!(json, r#"{"path":"/d\n","kind":"directory","bytes":2048,"entries":2}"#);
    }

    #[test]
    fn the_letter_h_asks_for_readable_sizes() {
        for line in [
            "gabion du -sh /a",
            "gabion du -s --bytes -o json /a /b",
            "gabion df -h",
            "gabion du",
        ] {
            assert!(Arguments::try_parse_from(line.split(' ')).is_ok(), "{line}");
        }
        let help = Arguments::try_parse_from(["gabion", "du", "--help"]).unwrap_err();
        assert_eq!(help.kind(), clap::error::ErrorKind::DisplayHelp);
    }
}
