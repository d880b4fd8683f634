//! `gabion admin chunk`: the chunks that are not as they should be, and single ones with all that is known of their copies.

use std::time::{Duration, Instant};

use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_protocol::ChunkId;
use gabion_protocol::messages::master::{
    ChunkReport, ChunkState, CopyCounts, CopyReport, Health, ReplicaState, TroubledChunk,
};
use serde::Serialize;

use crate::args::{ChunkList, ChunkRepair, ChunkShow};
use crate::context::Context;

/// How long a repair that was asked for is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(300);

/// A chunk as it is shown.
#[derive(Debug, Serialize)]
struct ChunkRecord {
    id: String,
    bytes: u64,
    crc32: String,
    wanted: u8,
    /// Good copies on servers that answer.
    reachable: Vec<u32>,
    /// Servers of all live copies.
    live: Vec<u32>,
    /// Servers that make a copy.
    copying: Vec<u32>,
    damaged: Vec<DamageRecord>,
}

#[derive(Debug, Serialize)]
struct DamageRecord {
    server: u32,
    what: String,
}

#[derive(Serialize)]
struct AllChunks<'a> {
    chunks: &'a [ChunkRecord],
}

impl ChunkRecord {
    fn new(chunk: &TroubledChunk) -> Self {
        let in_state = |wanted: ReplicaState| {
            let replicas = chunk.info.replicas.iter().filter(|(_, _, state)| *state == wanted);
            replicas.map(|(server, _, _)| server.0).collect()
        };
        let damage = |(server, what): &(gabion_protocol::ServerId, String)| DamageRecord {
            server: server.0,
            what: what.clone(),
        };
        Self {
            id: chunk.info.chunk.to_string(),
            bytes: chunk.info.length,
            crc32: format!("{:08x}", chunk.info.crc),
            wanted: chunk.info.wanted,
            reachable: chunk.reachable.iter().map(|server| server.0).collect(),
            live: in_state(ReplicaState::Live),
            copying: in_state(ReplicaState::Copying),
            damaged: chunk.damaged.iter().map(damage).collect(),
        }
    }
}

pub(super) async fn list(context: &Context, list: ChunkList) -> Result<(), Failure> {
    let mut output = Output::stdout();
    let mut kept = Vec::new();
    let mut after = None;
    loop {
        let (chunks, next) = context.client.troubled(list.state, after).await?;
        for chunk in chunks.iter().map(ChunkRecord::new) {
            match list.printing.output {
                // As they come: there may be millions.
                Format::Jsonl => output.object(Format::Jsonl, &chunk)?,
                Format::Json | Format::Table => kept.push(chunk),
            }
        }
        after = next;
        if after.is_none() {
            break;
        }
        if context.stop.is_cancelled() {
            return Err(Failure::interrupted());
        }
    }
    match list.printing.output {
        Format::Json => output.object(Format::Json, &AllChunks { chunks: &kept })?,
        Format::Jsonl => {}
        Format::Table => output.table(&table(&kept, list.bytes))?,
    }
    output.flush()
}

fn table(chunks: &[ChunkRecord], exact: bool) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Words("chunk"),
        Numbers("size"),
        Numbers("wanted"),
        Words("reachable on"),
        Words("copied to"),
        Words("damaged on"),
    ]);
    for chunk in chunks {
        let damaged: Vec<u32> = chunk.damaged.iter().map(|damage| damage.server).collect();
        table.row([
            chunk.id.clone(),
            text::size_or_bytes(chunk.bytes, exact),
            chunk.wanted.to_string(),
            servers(&chunk.reachable),
            servers(&chunk.copying),
            servers(&damaged),
        ]);
    }
    table
}

fn servers(numbers: &[u32]) -> String {
    if numbers.is_empty() {
        return "-".to_owned();
    }
    let names: Vec<String> = numbers.iter().map(|number| format!("c{number}")).collect();
    names.join(" ")
}

/// A chunk and its copies as they are shown.
#[derive(Debug, Serialize)]
struct ReportRecord {
    id: String,
    /// `open`, `sealed`, or `garbage`.
    phase: &'static str,
    generation: u32,
    bytes: u64,
    crc32: String,
    references: u64,
    wanted: u8,
    /// Copies that count now.
    present: usize,
    owner: u64,
    owner_path: Option<String>,
    copies: Vec<CopyRecord>,
}

#[derive(Debug, Serialize)]
struct CopyRecord {
    server: u32,
    server_name: String,
    health: &'static str,
    replica: u64,
    /// `present`, `expected`, `leaving`, `gone`, `damaged`, `copying`, or `dropping`.
    counts: &'static str,
    /// What somebody said against it.
    said: Option<String>,
    /// Whether its own server did.
    confirmed: bool,
}

impl ReportRecord {
    fn new(report: &ChunkReport) -> Self {
        let ChunkReport { info, copies, .. } = report;
        let number = |copy: &CopyReport| {
            let mut rows = info.replicas.iter();
            rows.find(|(server, ..)| *server == copy.server)
                .map_or(0, |(_, number, _)| number.0)
        };
        let record = |copy: &CopyReport| CopyRecord {
            server: copy.server.0,
            server_name: copy.name.clone(),
            health: match copy.health {
                Health::Alive => "alive",
                Health::Suspect => "suspect",
                Health::Lost => "lost",
            },
            replica: number(copy),
            counts: match copy.counts {
                CopyCounts::Present => "present",
                CopyCounts::Expected => "expected",
                CopyCounts::Leaving => "leaving",
                CopyCounts::Gone => "gone",
                CopyCounts::Damaged => "damaged",
                CopyCounts::Copying => "copying",
                CopyCounts::Dropping => "dropping",
            },
            said: copy.said.as_ref().map(|(what, _)| what.clone()),
            confirmed: copy.said.as_ref().is_some_and(|(_, confirmed)| *confirmed),
        };
        Self {
            id: info.chunk.to_string(),
            phase: match info.state {
                ChunkState::Open => "open",
                ChunkState::Sealed => "sealed",
                ChunkState::Garbage => "garbage",
            },
            generation: info.generation.0,
            bytes: info.length,
            crc32: format!("{:08x}", info.crc),
            references: info.references,
            wanted: info.wanted,
            present: present(report),
            owner: report.owner.0,
            owner_path: report.owner_path.clone(),
            copies: copies.iter().map(record).collect(),
        }
    }

    fn render(&self, exact: bool) -> String {
        let owner = match &self.owner_path {
            Some(path) => format!("{} (inode {})", text::printable(path), self.owner),
            None => format!("inode {}, which has no path: removed, or an upload", self.owner),
        };
        format!(
            "chunk     {}, {}, generation {}\nlength    {}, CRC {}\ncopies    {} wanted, {} present\nnamed by  {}\nowner     \
             {owner}\n\n{}",
            self.id,
            self.phase,
            self.generation,
            text::size_or_bytes(self.bytes, exact),
            self.crc32,
            self.wanted,
            self.present,
            text::count(self.references, "extent"),
            self.table(),
        )
    }

    fn table(&self) -> Table {
        use Column::{Numbers, Words};
        let mut table = Table::new(&[
            Words("server"),
            Words("health"),
            Words("copy"),
            Numbers("number"),
            Words("said of it"),
        ]);
        for copy in &self.copies {
            let said = match (&copy.said, copy.confirmed) {
                (Some(what), true) => text::printable(what).into_owned(),
                (Some(what), false) => format!("{} (not confirmed)", text::printable(what)),
                (None, _) => "-".to_owned(),
            };
            table.row([
                text::printable(&copy.server_name).into_owned(),
                copy.health.to_owned(),
                copy.counts.to_owned(),
                copy.replica.to_string(),
                said,
            ]);
        }
        table
    }
}

/// Copies that count, and nobody speaks against.
fn present(report: &ChunkReport) -> usize {
    let counts = |copy: &&CopyReport| copy.counts == CopyCounts::Present && copy.said.is_none();
    report.copies.iter().filter(counts).count()
}

pub(super) async fn show(context: &Context, arguments: ChunkShow) -> Result<(), Failure> {
    let report = context.client.inspect_chunk(arguments.chunk).await?;
    print(&report, arguments.printing.output, arguments.bytes)
}

fn print(report: &ChunkReport, format: Format, exact: bool) -> Result<(), Failure> {
    let (mut output, record) = (Output::stdout(), ReportRecord::new(report));
    match format {
        format @ (Format::Json | Format::Jsonl) => output.object(format, &record)?,
        Format::Table => output.bytes(record.render(exact).as_bytes())?,
    }
    output.flush()
}

pub(super) async fn repair(context: &Context, arguments: ChunkRepair) -> Result<(), Failure> {
    let (chunk, format) = (arguments.chunk, arguments.printing.output);
    let report = context.client.inspect_chunk(chunk).await?;
    let live = |copy: &&CopyReport| !matches!(copy.counts, CopyCounts::Copying | CopyCounts::Dropping);
    let names: Vec<_> = report
        .copies
        .iter()
        .filter(live)
        .map(|copy| text::printable(&copy.name))
        .collect();
    context.say(&format!(
        "plan: {} read their copies of chunk {chunk} again, and repair looks at it before all others",
        if names.is_empty() {
            "no servers".to_owned()
        } else {
            names.join(", ")
        }
    ));
    if !arguments.apply {
        print(&report, format, false)?;
        context.say("nothing is changed yet: run the same command with --apply");
        return Ok(());
    }
    context.client.repair_chunk(chunk).await?;
    let report = wait(context, chunk).await?;
    print(&report, format, false)?;
    let (present, wanted) = (present(&report), usize::from(report.info.wanted));
    if present >= wanted {
        context.say(&format!(
            "chunk {chunk} has {present} copies that were read and are good"
        ));
        return Ok(());
    }
    context.say(&format!(
        "chunk {chunk} has {present} of {wanted} copies{}",
        obstacle(&report)
    ));
    let exit_code = if report.copies.iter().any(may_be_read) { 8 } else { 7 };
    Err(Failure::Told { exit_code })
}

/// Looks at a chunk until all that can be said about it is said, and nothing more is under way.
async fn wait(context: &Context, chunk: ChunkId) -> Result<ChunkReport, Failure> {
    let end = Instant::now() + PATIENCE;
    loop {
        let report = context.client.inspect_chunk(chunk).await?;
        let enough = present(&report) >= usize::from(report.info.wanted);
        if enough && is_settled(&report) || Instant::now() >= end {
            return Ok(report);
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = context.stop.cancelled() => return Err(Failure::interrupted()),
        }
    }
}

/// Whether no server that answers owes a word about its copy, and none is being made or removed.
fn is_settled(report: &ChunkReport) -> bool {
    let owes = |copy: &CopyReport| {
        let is_open = copy.said.as_ref().is_some_and(|(_, confirmed)| !confirmed);
        let moves = matches!(copy.counts, CopyCounts::Copying | CopyCounts::Dropping);
        copy.health == Health::Alive && (is_open || moves)
    };
    !report.copies.iter().any(owes)
}

fn may_be_read(copy: &CopyReport) -> bool {
    match copy.counts {
        CopyCounts::Present | CopyCounts::Leaving => true,
        CopyCounts::Expected | CopyCounts::Gone | CopyCounts::Damaged | CopyCounts::Copying | CopyCounts::Dropping => {
            false
        }
    }
}

/// What stands against more copies, and what to do about it.
fn obstacle(report: &ChunkReport) -> &'static str {
    if !is_settled(report) {
        return ": its servers are still at work; look again with gabion admin chunk show";
    }
    if !report.copies.iter().any(may_be_read) {
        return ": none can be read; start the servers that hold it (gabion admin server list), or remove its file";
    }
    ": no other server has room and is in service; add one, or start those that are away"
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_protocol::messages::master::{ChunkInfo, ChunkState};
    use gabion_protocol::{ChunkId, Generation, ReplicaNumber, ServerId};

    #[test]
    fn the_list_is_pinned() {
        let copy = |server, state| (ServerId(server), ReplicaNumber(7), state);
        let chunk = TroubledChunk {
            info: ChunkInfo {
                chunk: ChunkId::from_bytes([0; 14]),
                state: ChunkState::Sealed,
                generation: Generation(1),
                length: 1 << 20,
                crc: 0xab,
                references: 1,
                wanted: 3,
                replicas: vec![
                    copy(1, ReplicaState::Live),
                    copy(2, ReplicaState::Live),
                    copy(4, ReplicaState::Copying),
                ],
            },
            reachable: vec![ServerId(1)],
            damaged: vec![(ServerId(2), "block 3".to_owned())],
        };
        let record = ChunkRecord::new(&chunk);
        let expected = "\
CHUNK     SIZE  WANTED  REACHABLE ON  COPIED TO  DAMAGED ON
0-0-0  1.0 MiB       3  c1            c4         c2
";
        assert_eq!(table(std::slice::from_ref(&record), false).to_string(), expected);
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!((&json["id"], &json["live"][1]), (&"0-0-0".into(), &2.into()));
        assert_eq!(json["damaged"][0]["what"], "block 3");
    }

    #[test]
    fn a_report_says_what_is_known_of_each_copy() {
        let copy = |server, counts, said| CopyReport {
            server: ServerId(server),
            name: format!("c{server}"),
            health: Health::Alive,
            counts,
            said,
        };
        let live = |server| (ServerId(server), ReplicaNumber(7), ReplicaState::Live);
        let mut report = ChunkReport {
            info: ChunkInfo {
                chunk: ChunkId::from_bytes([0; 14]),
                state: ChunkState::Sealed,
                generation: Generation(1),
                length: 1 << 20,
                crc: 0xab,
                references: 1,
                wanted: 2,
                replicas: vec![live(1), live(2), live(4)],
            },
            owner: gabion_protocol::Ino(5),
            owner_path: Some("/a".to_owned()),
            copies: vec![
                copy(1, CopyCounts::Present, None),
                copy(2, CopyCounts::Present, Some(("block 3".to_owned(), false))),
                copy(4, CopyCounts::Damaged, Some(("gone".to_owned(), true))),
            ],
        };
        let expected = "\
chunk     0-0-0, sealed, generation 1
length    1.0 MiB, CRC 000000ab
copies    2 wanted, 1 present
named by  1 extent
owner     /a (inode 5)

SERVER  HEALTH  COPY     NUMBER  SAID OF IT
c1      alive   present       7  -
c2      alive   present       7  block 3 (not confirmed)
c4      alive   damaged       7  gone
";
        assert_eq!(ReportRecord::new(&report).render(false), expected);
        assert!(!is_settled(&report), "c2 has not read its copy yet");
        report.copies[1].health = Health::Lost;
        assert!(is_settled(&report), "nobody waits for the dead");
        let json = serde_json::to_value(ReportRecord::new(&report)).unwrap();
        assert_eq!(
            (&json["present"], &json["copies"][2]["confirmed"]),
            (&1.into(), &true.into())
        );
        assert!(obstacle(&report).contains("add one"));
        report.copies.truncate(0);
        assert!(obstacle(&report).contains("none can be read"));
    }
}
