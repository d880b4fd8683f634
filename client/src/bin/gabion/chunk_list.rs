//! `gabion admin chunk list`: the chunks that are not as they should be.

use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_protocol::messages::master::{ReplicaState, TroubledChunk};
use serde::Serialize;

use crate::args::ChunkList;
use crate::context::Context;

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

pub(crate) async fn run(context: &Context, list: ChunkList) -> Result<(), Failure> {
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
}
