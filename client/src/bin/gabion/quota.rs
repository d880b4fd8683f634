//! `gabion quota`: how much directories may hold, and how much of that is used.

use gabion_client::terminal::{Column, Failure, Format, Output, Table, Tally, text};
use gabion_client::{QuotaChange, QuotaLimits, QuotaReport, QuotaUse};
use serde::Serialize;

use crate::args::{QuotaClear, QuotaGet, QuotaSet};
use crate::context::Context;

/// One limit, and what counts against it. A field is never renamed without a new schema number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Record {
    /// Whose quota it is; of the directory asked for also without a limit.
    directory: String,
    /// `bytes` or `entries`.
    of: &'static str,
    limit: Option<u64>,
    used: u64,
    reserved: u64,
    left: Option<u64>,
    /// Whether it is the limit that what is written into the directory meets first.
    binds: bool,
}

#[derive(Serialize)]
struct Listing<'a> {
    path: &'a str,
    quotas: &'a [Record],
}

pub(crate) async fn set(context: &Context, set: QuotaSet) -> Result<(), Failure> {
    let limits = QuotaLimits {
        bytes: set.bytes.map(|size| size.0),
        entries: set.entries,
    };
    context.client.set_quota(&set.path, QuotaChange::Set(limits)).await?;
    let report = context.client.quota(&set.path).await?;
    for record in records(&report) {
        let is_full = record.directory == report.path.as_str() && record.left == Some(0);
        if is_full {
            context.say(&format!(
                "{} holds {} of {}, with {} reserved: it cannot grow until something is removed",
                text::printable(&record.directory),
                shown(&record, record.used, false),
                shown(&record, record.limit.unwrap_or_default(), false),
                shown(&record, record.reserved, false),
            ));
        }
    }
    Ok(())
}

pub(crate) async fn clear(context: &Context, clear: QuotaClear) -> Result<(), Failure> {
    let mut tally = Tally::default();
    for path in &clear.paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match context.client.set_quota(path, QuotaChange::Clear).await {
            Ok(()) => tally.succeeded(),
            Err(error) => tally.failed(path.as_str(), error.into()),
        }
    }
    tally.finish("quota", "cleared", &mut |line| eprintln!("{line}"))
}

pub(crate) async fn get(context: &Context, get: QuotaGet) -> Result<(), Failure> {
    let report = context.client.quota(&get.path).await?;
    let records = records(&report);
    let mut output = Output::stdout();
    match get.printing.output {
        Format::Json => {
            let listing = Listing {
                path: report.path.as_str(),
                quotas: &records,
            };
            output.object(Format::Json, &listing)?;
        }
        Format::Jsonl => records
            .iter()
            .try_for_each(|record| output.object(Format::Jsonl, record))?,
        Format::Table => output.table(&table(&records, get.bytes))?,
    }
    output.flush()
}

/// The directory's own bytes and entries, then the limits above, the nearest first.
fn records(report: &QuotaReport) -> Vec<Record> {
    let all = || std::iter::once(&report.own).chain(&report.above);
    let least = |left: fn(&QuotaUse) -> Option<u64>| all().filter_map(left).min();
    let (least_bytes, least_entries) = (least(QuotaUse::bytes_left), least(QuotaUse::entries_left));
    let mut records = Vec::new();
    for (up, usage) in all().enumerate() {
        let directory = above(report.path.as_str(), usage.depth);
        let bytes = Record {
            directory: directory.clone(),
            of: "bytes",
            limit: usage.limits.bytes,
            used: usage.bytes,
            reserved: usage.reserved_bytes,
            left: usage.bytes_left(),
            binds: usage.bytes_left().is_some() && usage.bytes_left() == least_bytes,
        };
        let entries = Record {
            directory,
            of: "entries",
            limit: usage.limits.entries,
            used: usage.entries,
            reserved: usage.reserved_entries,
            left: usage.entries_left(),
            binds: usage.entries_left().is_some() && usage.entries_left() == least_entries,
        };
        records.extend(
            [bytes, entries]
                .into_iter()
                .filter(|one| up == 0 || one.limit.is_some()),
        );
    }
    records
}

/// The first `depth` names of a path.
fn above(path: &str, depth: u16) -> String {
    let names: Vec<&str> = path.split('/').skip(1).take(usize::from(depth)).collect();
    format!("/{}", names.join("/"))
}

fn shown(record: &Record, number: u64, exact: bool) -> String {
    match record.of {
        "bytes" => text::size_or_bytes(number, exact),
        _ => number.to_string(),
    }
}

fn table(records: &[Record], exact: bool) -> Table {
    let mut table = Table::new(&[
        Column::Words("of"),
        Column::Numbers("limit"),
        Column::Numbers("used"),
        Column::Numbers("reserved"),
        Column::Numbers("left"),
        Column::Words("binds"),
        Column::Words("directory"),
    ]);
    for record in records {
        let or_dash =
            |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| shown(record, number, exact));
        table.row([
            record.of.to_owned(),
            or_dash(record.limit),
            shown(record, record.used, exact),
            shown(record, record.reserved, exact),
            or_dash(record.left),
            if record.binds { "yes" } else { "-" }.to_owned(),
            text::printable(&record.directory).into_owned(),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use gabion_protocol::FsPath;

    use super::*;

    fn report() -> QuotaReport {
        let usage = |depth, bytes, entries| QuotaUse {
            depth,
            limits: QuotaLimits { bytes, entries },
            bytes: 6 << 20,
            entries: 7,
            reserved_bytes: 1 << 20,
            reserved_entries: 1,
        };
        QuotaReport {
            path: FsPath::parse("/a/b").unwrap(),
            own: usage(2, Some(10 << 20), None),
            above: vec![usage(1, Some(8 << 20), Some(100)), usage(0, None, Some(8))],
        }
    }

    #[test]
    fn quotas_are_pinned_and_the_one_that_binds_is_told() {
        let expected = "\
OF         LIMIT     USED  RESERVED     LEFT  BINDS  DIRECTORY
bytes     10 MiB  6.0 MiB   1.0 MiB  3.0 MiB  -      /a/b
entries        -        7         1        -  -      /a/b
bytes    8.0 MiB  6.0 MiB   1.0 MiB  1.0 MiB  yes    /a
entries      100        7         1       92  -      /a
entries        8        7         1        0  yes    /
";
        assert_eq!(table(&records(&report()), false).to_string(), expected);
        let json = serde_json::to_string(&records(&report())[0]).unwrap();
        let expected = r#"{"directory":"/a/b","of":"bytes","limit":10485760,"used":6291456,"reserved":1048576,"left":3145728,"binds":false}"#;
        assert_eq!(json, expected);
    }
}
