//! `gabion snapshot`: what a directory held at a moment.

use gabion_client::terminal::{Column, Failure, Format, Output, Table, Tally, text};
use gabion_client::{SnapshotInfo, snapshot_path};
use gabion_protocol::ErrorCode;
use serde::Serialize;

use crate::args::{SnapshotCreate, SnapshotList, SnapshotRemove};
use crate::context::Context;

mod differences;
mod restore;

pub(crate) use differences::diff;
pub(crate) use restore::restore;

/// A snapshot. A field is never renamed without a new schema number.
#[derive(Debug, Serialize)]
struct Record {
    directory: String,
    name: String,
    created: String,
    files: u64,
    directories: u64,
    bytes: u64,
    /// Where it is read.
    path: String,
}

impl Record {
    fn new(info: &SnapshotInfo) -> Result<Self, Failure> {
        Ok(Self {
            directory: info.directory.to_string(),
            name: info.name.clone(),
            created: text::rfc3339(info.created_ms),
            files: info.files,
            directories: info.directories,
            bytes: info.bytes,
            path: snapshot_path(&info.directory, &info.name)?.to_string(),
        })
    }
}

#[derive(Serialize)]
struct Listing {
    snapshots: Vec<Record>,
}

pub(crate) async fn create(context: &Context, create: SnapshotCreate) -> Result<(), Failure> {
    let SnapshotCreate { of } = create;
    let made = context.client.create_snapshot(&of.directory, &of.name).await;
    let info = made.map_err(|error| {
        let help = format!("choose another name, or remove that one: gabion snapshot rm {of}");
        Failure::from(error).advise(ErrorCode::Exists, &help)
    })?;
    context.say(&format!(
        "made {of}: {}, {}; read it at {}",
        text::count(info.files, "file"),
        text::size(info.bytes),
        snapshot_path(&of.directory, &of.name)?
    ));
    Ok(())
}

pub(crate) async fn remove(context: &Context, remove: SnapshotRemove) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for of in &remove.snapshots {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match context.client.remove_snapshot(&of.directory, &of.name).await {
            Ok(()) => tally.succeeded(),
            Err(error) => tally.failed(of.to_string(), error.into()),
        }
    }
    tally.finish("snapshot", "removed", &mut |line| eprintln!("{line}"))
}

pub(crate) async fn list(context: &Context, list: SnapshotList) -> Result<(), Failure> {
    let found = context.client.snapshots(list.path.as_ref()).await?;
    let records: Vec<Record> = found.iter().map(Record::new).collect::<Result<_, _>>()?;
    let mut output = Output::stdout();
    match list.printing.output {
        Format::Json => output.object(Format::Json, &Listing { snapshots: records })?,
        Format::Jsonl => records
            .iter()
            .try_for_each(|record| output.object(Format::Jsonl, record))?,
        Format::Table => {
            let mut table = Table::new(&[
                Column::Words("created"),
                Column::Numbers("files"),
                Column::Numbers("size"),
                Column::Words("snapshot"),
            ]);
            for record in &records {
                table.row([
                    record.created.clone(),
                    record.files.to_string(),
                    text::size_or_bytes(record.bytes, list.bytes),
                    text::printable(&format!("{}@{}", record.directory, record.name)).into_owned(),
                ]);
            }
            output.table(&table)?;
        }
    }
    output.flush()?;
    Ok(())
}
