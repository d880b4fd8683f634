//! `gabion check`: whether a local tree and one on the cluster are equal, without fetching anything.

use gabion_client::terminal::{Column, Failure, Format, Output, Table, failure, text};
use gabion_protocol::messages::master::EntryKind;
use serde::Serialize;

use crate::args::Check;
use crate::below::Links;
use crate::compare::{self, Compared, Sides, Verdict};
use crate::context::Context;
use crate::jobs::Jobs;
use crate::records;

/// How a name differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Difference {
    /// Both have it, with other content.
    Differs,
    /// The cluster does not have it.
    Missing,
    /// Only the cluster has it.
    Extra,
    /// A file on one side, a directory on the other.
    Kind,
    /// It could not be compared.
    Unreadable,
}

impl Difference {
    fn word(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::Missing => "missing",
            Self::Extra => "extra",
            Self::Kind => "kind",
            Self::Unreadable => "unreadable",
        }
    }
}

#[derive(Debug, Serialize)]
struct Finding {
    /// The name below both trees; empty for the trees themselves.
    path: String,
    found: Difference,
    why: String,
}

/// What was compared.
#[derive(Debug, Default, Serialize)]
struct Counts {
    files: u64,
    directories: u64,
    links: u64,
    bytes: u64,
    /// Files whose checksum nobody knew: their bytes were fetched.
    fetched: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    compared: &'a Counts,
    differences: &'a [Finding],
}

pub(crate) async fn run(context: &Context, check: Check) -> Result<(), Failure> {
    let links = Links::of(check.dereference);
    let (_, at_root) = context.client.resolve(&check.remote).await?;
    let local = compare::read_local(&check.local, links)?;
    let remote = compare::read_remote(context, &check.remote, at_root, links).await?;
    let mut findings = Vec::new();
    for (path, failure) in local.failures.into_iter().chain(remote.failures) {
        findings.push(Finding::unreadable(path, &failure));
    }
    for (name, what) in &local.passed_over {
        context.say(&format!("passed over {}: {what}", text::printable(name)));
    }
    let paired = compare::pair_up(local.entries, remote.entries);
    let mut counts = Counts {
        directories: paired.directories,
        links: paired.links + paired.links_differ.len() as u64,
        ..Counts::default()
    };
    let sides = Sides {
        local: check.local,
        remote: check.remote,
        is_quick: false,
    };
    let compared = compare::compare_all(context, &sides, paired.files, &Jobs::new(check.parallel.jobs)).await?;
    for Compared {
        pair,
        verdict,
        was_fetched,
    } in compared
    {
        counts.files += 1;
        counts.bytes += pair.remote.length;
        counts.fetched += u64::from(was_fetched);
        match verdict {
            Ok(Verdict::Equal) => {}
            Ok(Verdict::Differs(why)) => findings.push(Finding::new(pair.name, Difference::Differs, why)),
            Err(failure) if failure.concerns_all() => return Err(failure),
            Err(failure) => findings.push(Finding::unreadable(pair.name, &failure)),
        }
    }
    for pair in paired.kinds {
        let why = format!(
            "a {} here, a {} on the cluster",
            records::kind(&pair.local.kind),
            records::kind(&pair.remote.kind)
        );
        findings.push(Finding::new(pair.name, Difference::Kind, why));
    }
    for pair in paired.links_differ {
        let stands_for = |kind: &EntryKind| match kind {
            EntryKind::Link { target } => target.clone(),
            EntryKind::File | EntryKind::Directory => String::new(),
        };
        let (here, there) = (stands_for(&pair.local.kind), stands_for(&pair.remote.kind));
        let why = format!("a link to {here:?} here, to {there:?} on the cluster");
        findings.push(Finding::new(pair.name, Difference::Differs, why));
    }
    for (name, local) in paired.only_local {
        findings.push(Finding::new(
            name,
            Difference::Missing,
            only(&local.kind, "not on the cluster"),
        ));
    }
    for (name, remote) in paired.only_remote {
        findings.push(Finding::new(name, Difference::Extra, only(&remote.kind, "not here")));
    }
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    print(&counts, &findings, check.printing.output)?;
    context.say(&summary(&counts, &findings));
    match findings.is_empty() {
        true => Ok(()),
        false => Err(Failure::Told {
            exit_code: failure::PARTIAL,
        }),
    }
}

fn only(kind: &EntryKind, but: &str) -> String {
    format!("a {}, {but}", records::kind(kind))
}

impl Finding {
    fn new(path: String, found: Difference, why: String) -> Self {
        Self { path, found, why }
    }

    fn unreadable(path: String, failure: &Failure) -> Self {
        Self::new(path, Difference::Unreadable, failure.line())
    }
}

fn print(counts: &Counts, findings: &[Finding], format: Format) -> Result<(), Failure> {
    let mut output = Output::stdout();
    match format {
        Format::Table if findings.is_empty() => {}
        Format::Table => output.table(&table(findings))?,
        Format::Json => {
            let report = Report {
                compared: counts,
                differences: findings,
            };
            output.object(format, &report)?;
        }
        Format::Jsonl => findings.iter().try_for_each(|finding| output.object(format, finding))?,
    }
    output.flush()
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&[Column::Words("found"), Column::Words("path"), Column::Words("why")]);
    for finding in findings {
        let path = if finding.path.is_empty() { "." } else { &finding.path };
        table.row([
            finding.found.word().to_owned(),
            text::printable(path).into_owned(),
            text::printable(&finding.why).into_owned(),
        ]);
    }
    table
}

fn summary(counts: &Counts, findings: &[Finding]) -> String {
    let fetched = match counts.fetched {
        0 => "nothing fetched".to_owned(),
        number => format!(
            "{} fetched, because nobody knew their checksum",
            text::count(number, "file")
        ),
    };
    let verdict = match findings.len() as u64 {
        0 => "no difference".to_owned(),
        number => text::count(number, "difference"),
    };
    format!(
        "compared {} and {}{}, {}, by size and crc32, {fetched}: {verdict}",
        text::count(counts.files, "file"),
        match counts.directories {
            1 => "1 directory".to_owned(),
            number => format!("{number} directories"),
        },
        match counts.links {
            0 => String::new(),
            number => format!(" and {}", text::count(number, "link")),
        },
        text::size(counts.bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn table_and_summary_are_pinned() {
        let findings = [
            Finding::new(
                String::new(),
                Difference::Kind,
                "a file here, a directory on the cluster".to_owned(),
            ),
            Finding::new(
                "a\n".to_owned(),
                Difference::Missing,
                only(&EntryKind::File, "not on the cluster"),
            ),
        ];
        let expected = "\
FOUND    PATH  WHY
kind     .     a file here, a directory on the cluster
missing  a\\n   a file, not on the cluster
";
        assert_eq!(table(&findings).to_string(), expected);
        let counts = Counts {
            files: 2,
            directories: 1,
            links: 0,
            bytes: 9,
            fetched: 0,
        };
        assert_eq!(
            summary(&counts, &findings),
            "compared 2 files and 1 directory, 9 B, by size and crc32, nothing fetched: 2 differences"
        );
    }
}
