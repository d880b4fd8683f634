//! Is every copy of every chunk what the masters say it is? Each server reads its copies again from its disks.
//!
//! A copy that is damaged or gone is reported to the masters, who then point readers to the others first.

use std::collections::HashSet;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use gabion_client::terminal::{Column, Failure, FileProgress, Format, Output, Progress, Table, text};
use gabion_client::{Client, Entry, Error, Extent, FsPath, Replica, Verdict, Walk};
use gabion_protocol::ErrorCode;
use serde::Serialize;

use super::Severity;

/// Times the locations of a file are asked for anew because their tokens expired during a long check.
const RELOCATIONS_MAX: u32 = 1000;

/// What is wrong with a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Bytes do not have their checksum, or the file is short.
    Damaged,
    /// Its bytes agree with its server's index, but not with the masters.
    Differs,
    /// Its server never finished it.
    Unsealed,
    /// Its disk cannot read it.
    Unreadable,
    /// Its server does not have it.
    Missing,
    /// Fewer copies are known than wanted.
    TooFew,
    /// Its server, or the masters, could not be asked.
    Unchecked,
}

impl Kind {
    fn severity(self) -> Severity {
        match self {
            Self::Damaged | Self::Differs | Self::Unsealed | Self::Unreadable => Severity::Damaged,
            Self::Missing | Self::TooFew | Self::Unchecked => Severity::Incomplete,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Damaged => "damaged",
            Self::Differs => "differs",
            Self::Unsealed => "unsealed",
            Self::Unreadable => "unreadable",
            Self::Missing => "missing",
            Self::TooFew => "too few",
            Self::Unchecked => "unchecked",
        }
    }

    /// Whether the masters should hear of it: what could not be checked is no fact about the copy.
    fn is_reported(self) -> bool {
        !matches!(self, Self::TooFew | Self::Unchecked)
    }
}

/// Something wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The file.
    pub path: String,
    /// The chunk, if it is about one.
    pub chunk: Option<String>,
    /// The server's name, if it is about a copy.
    pub server: Option<String>,
    /// What kind.
    pub kind: Kind,
    /// What was found.
    pub what: String,
    /// Whether the masters know of it now.
    pub reported: bool,
}

/// What was looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Files.
    pub files: u64,
    /// Chunks.
    pub chunks: u64,
    /// Copies that were read again.
    pub copies: u64,
    /// Bytes of those copies.
    pub bytes: u64,
}

impl Checked {
    fn add(&mut self, other: Self) {
        self.files += other.files;
        self.chunks += other.chunks;
        self.copies += other.copies;
        self.bytes += other.bytes;
    }
}

#[derive(Serialize)]
struct Report<'a> {
    checked: Checked,
    findings: &'a [Finding],
}

/// How to check.
#[derive(Debug, Clone)]
pub struct Options {
    /// Files checked at the same time.
    pub jobs: usize,
    /// How to print.
    pub format: Format,
    /// Errors only.
    pub quiet: bool,
}

/// Checks every copy of every chunk of `root` and all below it.
///
/// # Errors
/// [`Failure`] with exit code 7 if a copy is damaged, 8 if copies are missing or could not be checked.
pub async fn run(client: &Client, root: &FsPath, options: &Options) -> Result<(), Failure> {
    let (_, entry) = client.resolve(root).await?;
    let progress = Progress::new(
        options.quiet,
        if entry.is_file() { 1 } else { entry.children },
        entry.length,
    );
    let (checked, findings) = check(client, root, entry, options.jobs, &progress).await;
    let took = progress.finish();
    let mut output = Output::stdout();
    match options.format {
        Format::Table => output.table(&table(&findings))?,
        Format::Json => {
            let findings = &findings;
            output.object(Format::Json, &Report { checked, findings })?;
        }
        Format::Jsonl => findings
            .iter()
            .try_for_each(|finding| output.object(Format::Jsonl, finding))?,
    }
    output.flush()?;
    if !options.quiet {
        let took = format!(
            "{} in {} ({})",
            text::size(checked.bytes),
            text::span(took),
            text::rate(checked.bytes, took)
        );
        eprintln!("{}", summary(checked, &findings, &took));
    }
    super::end(findings.iter().map(|finding| finding.kind.severity()))
}

/// Checks `root` and all below it; files that go away meanwhile are passed over.
async fn check(
    client: &Client,
    root: &FsPath,
    entry: Entry,
    jobs: usize,
    progress: &Progress,
) -> (Checked, Vec<Finding>) {
    let first = entry.is_file().then(|| Ok((root.clone(), entry.clone())));
    let walk = entry.is_directory().then(|| Walk::new(client.clone(), root.clone()));
    let below = Box::pin(futures_util::stream::unfold(walk, |walk| async move {
        let mut walk = walk?;
        walk.next().await.map(|next| (next, Some(walk)))
    }));
    let mut running = futures_util::stream::iter(first)
        .chain(below)
        .map(|next| async move {
            match next {
                Ok((path, entry)) if entry.is_file() => {
                    let bar = progress.file(path.as_str(), entry.length);
                    check_file(client, &path, &bar).await
                }
                Ok(_) => (Checked::default(), Vec::new()),
                Err(error) => (Checked::default(), unreadable(root, &error).into_iter().collect()),
            }
        })
        .buffer_unordered(jobs);
    let (mut checked, mut findings) = (Checked::default(), Vec::new());
    while let Some((more, found)) = running.next().await {
        checked.add(more);
        findings.extend(found);
    }
    findings.sort_by(|a, b| (&a.path, &a.chunk, &a.server).cmp(&(&b.path, &b.chunk, &b.server)));
    (checked, findings)
}

async fn check_file(client: &Client, path: &FsPath, bar: &FileProgress) -> (Checked, Vec<Finding>) {
    let mut checked = Checked::default();
    let mut findings = Vec::new();
    let (entry, mut extents) = match client.locate(path).await {
        Ok(located) => located,
        Err(error) => {
            findings.extend(unreadable(path, &error));
            return (checked, findings);
        }
    };
    checked.files = 1;
    let (mut next, mut relocations) = (0, 0);
    // A chunk may hold several ranges of a file that was overwritten.
    let mut seen = HashSet::new();
    while let Some(extent) = extents.get(next) {
        if seen.contains(&extent.chunk) {
            bar.advance(extent.length);
            next += 1;
            continue;
        }
        let verdicts = join_all(
            extent
                .replicas
                .iter()
                .map(|replica| client.verify_replica(extent, replica)),
        )
        .await;
        let expired = verdicts.iter().any(|verdict| is_expired(verdict.as_ref()));
        if expired && relocations < RELOCATIONS_MAX {
            relocations += 1;
            match client.locate(path).await {
                // The same file still: chunks that it has not seen have fresh tokens, wherever they are in it now.
                Ok((again, fresh)) if again.ino == entry.ino => {
                    (extents, next) = (fresh, 0);
                    continue;
                }
                Ok(_) => return (checked, findings),
                Err(error) => {
                    findings.extend(unreadable(path, &error));
                    return (checked, findings);
                }
            }
        }
        findings.extend(too_few(path, &entry, extent));
        for (replica, verdict) in extent.replicas.iter().zip(&verdicts) {
            findings.extend(judge_copy(client, path, extent, replica, verdict).await);
            checked.copies += u64::from(verdict.is_ok());
            checked.bytes += if verdict.is_ok() { extent.chunk_length } else { 0 };
        }
        checked.chunks += 1;
        seen.insert(extent.chunk);
        bar.advance(extent.length);
        next += 1;
    }
    (checked, findings)
}

fn is_expired(verdict: Result<&Verdict, &Error>) -> bool {
    verdict.err().is_some_and(|error| error.code() == ErrorCode::BadToken)
}

fn too_few(path: &FsPath, entry: &Entry, extent: &Extent) -> Option<Finding> {
    let known = extent.replicas.len();
    (known < usize::from(entry.replicas)).then(|| Finding {
        path: path.to_string(),
        chunk: Some(extent.chunk.to_string()),
        server: None,
        kind: Kind::TooFew,
        what: format!("{known} of {} copies", entry.replicas),
        reported: false,
    })
}

async fn judge_copy(
    client: &Client,
    path: &FsPath,
    extent: &Extent,
    replica: &Replica,
    verdict: &Result<Verdict, Error>,
) -> Option<Finding> {
    let (kind, what) = match verdict {
        Ok(verdict) => judge(verdict, extent.chunk_length, extent.chunk_crc)?,
        Err(error) => (Kind::Unchecked, error.to_string()),
    };
    let mut finding = Finding {
        path: path.to_string(),
        chunk: Some(extent.chunk.to_string()),
        server: Some(text::server_name(&client.server_label(replica.server)).to_owned()),
        kind,
        what,
        reported: false,
    };
    if kind.is_reported() {
        let told = client
            .report_damage(extent.chunk, replica.server, replica.token.grant.replica, &finding.what)
            .await;
        match told {
            Ok(()) => finding.reported = true,
            Err(error) => finding.what.push_str(&format!(" (not reported: {error})")),
        }
    }
    Some(finding)
}

/// What a server's verdict means, held against the masters' length and checksum; `None` if the copy is good.
fn judge(verdict: &Verdict, length: u64, crc: u32) -> Option<(Kind, String)> {
    match verdict {
        Verdict::Good { length: l, crc: c } if (*l, *c) == (length, crc) => None,
        Verdict::Good { length: l, crc: c } => Some((
            Kind::Differs,
            format!("{l} bytes with crc32 {c:08x}, the masters have {length} with {crc:08x}"),
        )),
        Verdict::Missing => Some((Kind::Missing, "its server does not have it".to_owned())),
        Verdict::Unsealed { length: l } => Some((Kind::Unsealed, format!("never sealed, {l} of {length} bytes"))),
        Verdict::Damaged { offset, what } => Some((Kind::Damaged, format!("at byte {offset}: {what}"))),
        Verdict::Unreadable { what } => Some((Kind::Unreadable, what.clone())),
    }
}

/// A file whose chunks cannot be told; a file that is gone meanwhile is none.
fn unreadable(path: &FsPath, error: &Error) -> Option<Finding> {
    (error.code() != ErrorCode::NotFound).then(|| Finding {
        path: path.to_string(),
        chunk: None,
        server: None,
        kind: Kind::Unchecked,
        what: error.to_string(),
        reported: false,
    })
}

fn table(findings: &[Finding]) -> Table {
    use Column::Words;
    let mut table = Table::new(&[
        Words("kind"),
        Words("server"),
        Words("chunk"),
        Words("file"),
        Words("found"),
    ]);
    let or_dash = |text: &Option<String>| {
        text.as_deref()
            .map_or_else(|| "-".to_owned(), |text| text::printable(text).into_owned())
    };
    for finding in findings {
        table.row([
            finding.kind.word().to_owned(),
            or_dash(&finding.server),
            or_dash(&finding.chunk),
            text::printable(&finding.path).into_owned(),
            text::printable(&finding.what).into_owned(),
        ]);
    }
    table
}

fn summary(checked: Checked, findings: &[Finding], took: &str) -> String {
    let looked_at = format!(
        "verified {} of {} in {}, {took}",
        match checked.copies {
            1 => "1 copy".to_owned(),
            copies => format!("{copies} copies"),
        },
        text::count(checked.chunks, "chunk"),
        text::count(checked.files, "file"),
    );
    let number = |severity| {
        findings
            .iter()
            .filter(|finding| finding.kind.severity() == severity)
            .count()
    };
    match (number(Severity::Damaged), number(Severity::Incomplete)) {
        (0, 0) => format!("{looked_at}: all good"),
        (damaged, 0) => format!("{looked_at}: {damaged} DAMAGED"),
        (0, missing) => format!("{looked_at}: none damaged, {missing} missing or unchecked"),
        (damaged, missing) => format!("{looked_at}: {damaged} DAMAGED, {missing} missing or unchecked"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts_are_held_against_the_masters() {
        let judged = |verdict: Verdict| judge(&verdict, 9, 0xcbf4_3926).map(|(kind, _)| kind);
        let good = |length, crc| Verdict::Good { length, crc };
        assert_eq!(judged(good(9, 0xcbf4_3926)), None);
        assert_eq!(judged(good(9, 1)), Some(Kind::Differs));
        assert_eq!(judged(good(8, 0xcbf4_3926)), Some(Kind::Differs));
        assert_eq!(judged(Verdict::Missing), Some(Kind::Missing));
        assert_eq!(judged(Verdict::Unsealed { length: 9 }), Some(Kind::Unsealed));
        let what = "a block does not have its checksum".to_owned();
        assert_eq!(
            judged(Verdict::Damaged {
                offset: 0,
                what: what.clone()
            }),
            Some(Kind::Damaged)
        );
        assert_eq!(judged(Verdict::Unreadable { what }), Some(Kind::Unreadable));
    }

    fn finding(kind: Kind) -> Finding {
        Finding {
            path: "/a".to_owned(),
            chunk: Some("0-1-2a".to_owned()),
            server: Some("c2".to_owned()),
            kind,
            what: "at byte 65536: a block does not have its checksum".to_owned(),
            reported: true,
        }
    }

    #[test]
    fn damage_outweighs_absence() {
        let code = |kinds: &[Kind]| {
            crate::verify::end(kinds.iter().map(|kind| kind.severity()))
                .map_or_else(|failure| failure.exit_code(), |()| 0)
        };
        assert_eq!(code(&[]), 0);
        assert_eq!(code(&[Kind::Missing, Kind::TooFew, Kind::Unchecked]), 8);
        assert_eq!(code(&[Kind::Missing, Kind::Damaged]), 7);
    }

    #[test]
    fn table_and_summary_are_pinned() {
        let findings = [finding(Kind::Damaged), finding(Kind::Missing)];
        let expected = "\
KIND     SERVER  CHUNK   FILE  FOUND
damaged  c2      0-1-2a  /a    at byte 65536: a block does not have its checksum
missing  c2      0-1-2a  /a    at byte 65536: a block does not have its checksum
";
        assert_eq!(table(&findings).to_string(), expected);
        let checked = Checked {
            files: 2,
            chunks: 3,
            copies: 9,
            bytes: 0,
        };
        assert_eq!(
            summary(checked, &findings, "1.0 GiB in 2.0 s (512 MiB/s)"),
            "verified 9 copies of 3 chunks in 2 files, 1.0 GiB in 2.0 s (512 MiB/s): 1 DAMAGED, 1 missing or unchecked"
        );
        assert!(summary(checked, &[], "x").ends_with(": all good"));
    }

    #[test]
    fn json_names_file_chunk_server_and_kind() {
        let json = serde_json::to_value(finding(Kind::TooFew)).unwrap();
        assert_eq!(
            (&json["kind"], &json["server"], &json["chunk"]),
            (&"too_few".into(), &"c2".into(), &"0-1-2a".into())
        );
    }
}
