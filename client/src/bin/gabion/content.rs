//! Verbs on content: `cat`, `checksum`, `chunks`.

use gabion_client::FileReader;
use gabion_client::terminal::{Column, Failure, FileProgress, Format, Output, Progress, Table, Tally, text};
use gabion_protocol::FsPath;
use gabion_protocol::checksum::{Running, crc};
use gabion_protocol::limits::PACKET_BYTES;
use gabion_protocol::messages::master::{Entry, Extent};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::args::{Cat, Checksum, Chunks};
use crate::context::Context;
use crate::glob;
use crate::records::{self, Totals};

pub(crate) async fn cat(context: &Context, cat: Cat) -> Result<(), Failure> {
    let mut tally = Tally::default();
    // No bars: standard output is most likely the same terminal.
    let paths = glob::expand(context, &cat.paths, &mut tally).await;
    let progress = Progress::new(true, paths.len() as u64, 0);
    for path in &paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        let bar = progress.file(path.as_str(), 0);
        match to_stdout(context, path, &bar).await {
            Ok(_) => tally.succeeded(),
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    tally.finish("file", "written out", &mut |line| eprintln!("{line}"))
}

/// Writes a file to standard output. Each byte is checked before it is written; that the whole file is what its
/// writer stored is known only at the end.
pub(crate) async fn to_stdout(context: &Context, path: &FsPath, bar: &FileProgress) -> Result<Entry, Failure> {
    let reader = context.client.open(path).await?;
    let mut stdout = tokio::io::stdout();
    let written = async {
        read_all(&reader, async |bytes| {
            stdout.write_all(bytes).await.map_err(Failure::stdout)?;
            bar.advance(bytes.len() as u64);
            Ok(())
        })
        .await?;
        stdout.flush().await.map_err(Failure::stdout)
    };
    tokio::select! {
        written = written => written?,
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
    }
    Ok(reader.entry().clone())
}

/// Gives every byte of the file to `take`, in order.
async fn read_all(reader: &FileReader, mut take: impl AsyncFnMut(&[u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut stream = reader.stream();
    let mut buffer = vec![0; PACKET_BYTES];
    loop {
        let read = stream.read(&mut buffer).await.map_err(Failure::from_reading)?;
        if read == 0 {
            return Ok(());
        }
        take(&buffer[..read]).await?;
    }
}

/// The checksum of a file, as JSON.
#[derive(Debug, Serialize)]
struct ChecksumRecord {
    path: String,
    bytes: u64,
    /// `null` if the file was changed so that only reading it tells.
    crc32: Option<String>,
    /// Whether every byte was read and has it, or only the masters were asked.
    verified: bool,
}

#[derive(Serialize)]
struct Checksums {
    files: Vec<ChecksumRecord>,
}

pub(crate) async fn checksum(context: &Context, checksum: Checksum) -> Result<(), Failure> {
    let mut output = Output::stdout();
    let mut tally = Tally::default();
    let mut totals = Totals::default();
    let mut files = Vec::new();
    let progress = Progress::new(context.quiet, checksum.paths.len() as u64, 0);
    for path in &checksum.paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match checksum_of(context, path, checksum.deep, &progress).await {
            Ok((entry, crc)) => {
                tally.succeeded();
                totals.add(&entry);
                let record = ChecksumRecord {
                    path: path.to_string(),
                    bytes: entry.length,
                    crc32: crc.map(records::crc32),
                    verified: checksum.deep,
                };
                match checksum.printing.output {
                    Format::Table => {
                        let crc = record.crc32.as_deref().unwrap_or("unknown ");
                        output.line(&format!("{crc}  {}", text::printable(&record.path)))?;
                        if crc.trim_end() == "unknown" {
                            context.say("it was overwritten in part: --deep reads it and makes its checksum");
                        }
                    }
                    Format::Jsonl => output.object(Format::Jsonl, &record)?,
                    Format::Json => files.push(record),
                }
                output.flush()?;
            }
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    let took = progress.finish();
    if checksum.printing.output == Format::Json {
        output.object(Format::Json, &Checksums { files })?;
        output.flush()?;
    }
    if checksum.deep && totals.files > 0 {
        context.say(&totals.fetched("read", took));
    }
    tally.finish("file", "checked", &mut |line| eprintln!("{line}"))
}

/// A file and its checksum, if it is known.
async fn checksum_of(
    context: &Context,
    path: &FsPath,
    deep: bool,
    progress: &Progress,
) -> Result<(Entry, Option<u32>), Failure> {
    let (_, entry) = context.client.resolve(path).await?;
    if !deep {
        records::require_file(path, &entry)?;
        let crc = entry.known_crc();
        return Ok((entry, crc));
    }
    let reader = context.client.open(path).await?;
    let bar = progress.file(path.as_str(), reader.entry().length);
    let mut whole = Running::default();
    let read = read_all(&reader, async |bytes| {
        whole.append(crc(bytes), bytes.len() as u64);
        bar.advance(bytes.len() as u64);
        Ok(())
    });
    tokio::select! {
        read = read => read?,
        () = context.stop.cancelled() => return Err(Failure::interrupted()),
    }
    Ok((reader.entry().clone(), Some(whole.crc())))
}

/// A chunk of a file, as JSON.
#[derive(Debug, Serialize)]
struct ChunkRecord {
    index: u64,
    offset: u64,
    bytes: u64,
    chunk: String,
    generation: u32,
    crc32: String,
    copies: Vec<CopyRecord>,
}

#[derive(Debug, Serialize)]
struct CopyRecord {
    server: u32,
    name: String,
    healthy: bool,
}

#[derive(Debug, Serialize)]
struct FileChunks {
    path: String,
    wanted: u8,
    chunks: Vec<ChunkRecord>,
}

#[derive(Serialize)]
struct AllChunks {
    files: Vec<FileChunks>,
}

/// A chunk that says which file it belongs to, for JSON lines.
#[derive(Serialize)]
struct ChunkOfFile<'a> {
    path: &'a str,
    #[serde(flatten)]
    chunk: &'a ChunkRecord,
}

pub(crate) async fn chunks(context: &Context, chunks: Chunks) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let mut files = Vec::new();
    for path in &chunks.paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match context.client.locate(path).await {
            Ok((entry, extents)) => {
                tally.succeeded();
                let label = |server| text::server_name(&context.client.server_label(server)).to_owned();
                files.push(FileChunks {
                    path: path.to_string(),
                    wanted: entry.replicas,
                    chunks: (0..)
                        .zip(&extents)
                        .map(|(index, extent)| chunk_record(index, extent, label))
                        .collect(),
                });
            }
            Err(error) => tally.failed(path.as_str(), error.into()),
        }
    }
    let mut output = Output::stdout();
    match chunks.printing.output {
        Format::Json => output.object(Format::Json, &AllChunks { files })?,
        Format::Jsonl => {
            for file in &files {
                for chunk in &file.chunks {
                    output.object(
                        Format::Jsonl,
                        &ChunkOfFile {
                            path: &file.path,
                            chunk,
                        },
                    )?;
                }
            }
        }
        Format::Table => {
            for (i, file) in files.iter().enumerate() {
                if chunks.paths.len() > 1 {
                    let gap = if i > 0 { "\n" } else { "" };
                    output.line(&format!("{gap}{}:", text::printable(&file.path)))?;
                }
                output.table(&chunk_table(file, chunks.bytes))?;
            }
        }
    }
    output.flush()?;
    tally.finish("file", "shown", &mut |line| eprintln!("{line}"))
}

fn chunk_record(index: u64, extent: &Extent, label: impl Fn(gabion_protocol::ServerId) -> String) -> ChunkRecord {
    ChunkRecord {
        index,
        offset: extent.offset,
        bytes: extent.length,
        chunk: extent.chunk.to_string(),
        generation: extent.generation.0,
        crc32: records::crc32(extent.chunk_crc),
        copies: extent
            .replicas
            .iter()
            .map(|replica| CopyRecord {
                server: replica.server.0,
                name: label(replica.server),
                healthy: replica.healthy,
            })
            .collect(),
    }
}

fn chunk_table(file: &FileChunks, exact: bool) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Numbers("index"),
        Numbers("offset"),
        Numbers("size"),
        Words("chunk"),
        Words("crc32"),
        Numbers("copies"),
        Words("on"),
    ]);
    for chunk in &file.chunks {
        // A copy that cannot be counted on is marked, and does not count.
        let on = chunk.copies.iter().map(|copy| match copy.healthy {
            true => copy.name.clone(),
            false => format!("{}(!)", copy.name),
        });
        let on: Vec<_> = on.collect();
        let healthy = chunk.copies.iter().filter(|copy| copy.healthy).count();
        table.row([
            chunk.index.to_string(),
            chunk.offset.to_string(),
            text::size_or_bytes(chunk.bytes, exact),
            chunk.chunk.clone(),
            chunk.crc32.clone(),
            format!("{healthy}/{}", file.wanted),
            text::printable(&on.join(" ")).into_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chunk_table_is_pinned() {
        let chunk = |index, name: &str, healthy| ChunkRecord {
            index,
            offset: index * (64 << 20),
            bytes: 64 << 20,
            chunk: format!("0-1-{index:x}"),
            generation: 1,
            crc32: records::crc32(0xcbf4_3926),
            copies: vec![
                CopyRecord {
                    server: 1,
                    name: "c1".to_owned(),
                    healthy: true,
                },
                CopyRecord {
                    server: 2,
                    name: name.to_owned(),
                    healthy,
                },
            ],
        };
        let file = FileChunks {
            path: "/a".to_owned(),
            wanted: 2,
            chunks: vec![chunk(0, "c2", true), chunk(1, "c3", false)],
        };
        let expected = "\
INDEX    OFFSET    SIZE  CHUNK  CRC32     COPIES  ON
    0         0  64 MiB  0-1-0  cbf43926     2/2  c1 c2
    1  67108864  64 MiB  0-1-1  cbf43926     1/2  c1 c3(!)
";
        assert_eq!(chunk_table(&file, false).to_string(), expected);
    }
}
