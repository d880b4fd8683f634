//! Is a stopped server's directory whole? Its own checksums say so, without any other process.
//!
//! Nothing is written. A directory that a running process holds is refused: its files change while they are read.

use std::fs::{File, TryLockError};
use std::path::Path;

use gabion_chunkserver::disk::DiskError;
use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_master::state::rows::{MemoryRows, RowsError};
use gabion_master::state::{Command, check};
use gabion_master::store::offline::{self, OfflineError};
use gabion_protocol::ErrorCode;
use serde::Serialize;

use super::Severity;

/// Findings shown; a disk that is gone has millions.
const FINDINGS_MAX: usize = 1000;

/// What was found, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Which part: the log, the state, a kind of chunk.
    pub place: String,
    /// The chunk or file, if it is about one.
    pub object: Option<String>,
    /// What was found.
    pub what: String,
    /// Whether something that was promised is not there; what a crash may leave behind is no damage.
    pub is_damage: bool,
}

/// What a directory holds and what is wrong with it.
#[derive(Debug, Default, Serialize)]
pub struct Report {
    /// Whose directory: `master` or `chunkserver`.
    pub role: &'static str,
    /// The directory.
    pub directory: String,
    /// What was checked, fact by fact.
    pub facts: Vec<(&'static str, String)>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// Findings beyond the first thousand.
    pub findings_more: u64,
}

impl Report {
    fn new(role: &'static str, directory: &Path) -> Self {
        Self {
            role,
            directory: directory.display().to_string(),
            ..Self::default()
        }
    }

    fn add(&mut self, finding: Finding) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(finding);
        } else {
            self.findings_more += 1;
        }
    }

    fn damage(&mut self, place: &str, what: impl ToString) {
        self.add(Finding {
            place: place.to_owned(),
            object: None,
            what: what.to_string(),
            is_damage: true,
        });
    }

    fn fact(&mut self, name: &'static str, value: impl ToString) {
        self.facts.push((name, value.to_string()));
    }

    fn summary(&self) -> String {
        let facts: Vec<_> = self
            .facts
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect();
        let damaged = self.findings.iter().filter(|finding| finding.is_damage).count() as u64 + self.findings_more;
        let harmless = self.findings.len() as u64 + self.findings_more - damaged;
        let verdict = match (damaged, harmless) {
            (0, 0) => "all good".to_owned(),
            (0, harmless) => format!("no damage, {} of no harm", text::count(harmless, "finding")),
            (damaged, _) => format!("{damaged} DAMAGED"),
        };
        format!(
            "verified the {} directory {}: {}: {verdict}",
            self.role,
            self.directory,
            facts.join(", ")
        )
    }

    fn table(&self) -> Table {
        let mut table = Table::new(&[Column::Words("place"), Column::Words("object"), Column::Words("found")]);
        for finding in &self.findings {
            table.row([
                finding.place.clone(),
                finding
                    .object
                    .as_deref()
                    .map_or_else(|| "-".to_owned(), |object| text::printable(object).into_owned()),
                text::printable(&finding.what).into_owned(),
            ]);
        }
        table
    }
}

/// Checks `directory`.
///
/// # Errors
/// [`Failure`] if it is no server's directory or in use, with exit code 7 if it is damaged.
pub fn run(directory: &Path, format: Format, quiet: bool) -> Result<(), Failure> {
    let report = match role_of(directory)? {
        Role::Master => verify_master(directory)?,
        Role::Chunkserver => verify_chunkserver(directory)?,
    };
    let mut output = Output::stdout();
    match format {
        Format::Table => output.table(&report.table())?,
        Format::Json => output.object(format, &report)?,
        Format::Jsonl => report
            .findings
            .iter()
            .try_for_each(|finding| output.object(format, finding))?,
    }
    output.flush()?;
    if !quiet {
        eprintln!("{}", report.summary());
    }
    super::end(
        report
            .findings
            .iter()
            .filter(|finding| finding.is_damage)
            .map(|_| Severity::Damaged),
    )
}

/// Whose directory it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Master,
    Chunkserver,
}

fn role_of(directory: &Path) -> Result<Role, Failure> {
    let has = |name: &str| directory.join(name).exists();
    if has("disk.id") || (has("index") && has("data")) {
        return Ok(Role::Chunkserver);
    }
    if has("raft") || has("identity") {
        return Ok(Role::Master);
    }
    std::fs::metadata(directory).map_err(|error| Failure::local("read", directory.display(), &error))?;
    Err(Failure::code(
        ErrorCode::NotFound,
        format!("{} is no directory of a master or chunkserver", directory.display()),
        "name what the server's configuration calls dir, or one of its dirs",
    ))
}

/// Holds the lock a master holds while it runs. Read-only, so that a copy on a read-only disk can be checked too; a
/// directory without a lock file was never used.
fn lock(directory: &Path) -> Result<Option<File>, Failure> {
    let path = directory.join("lock");
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound && directory.is_dir() => return Ok(None),
        Err(error) => return Err(Failure::local("open", path.display(), &error)),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(Some(file)),
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            Err(in_use(directory, &format!("process {}", holder.trim())))
        }
        Err(TryLockError::Error(error)) => Err(Failure::local("lock", path.display(), &error)),
    }
}

fn in_use(directory: &Path, holder: &str) -> Failure {
    Failure::code(
        ErrorCode::Conflict,
        format!("{} is in use by {}", directory.display(), text::printable(holder)),
        "stop that server first, or check the running cluster: gabion-verify masters, gabion-verify replicas",
    )
}

/// Every record, every block of every sealed chunk, and files and records against each other.
fn verify_chunkserver(directory: &Path) -> Result<Report, Failure> {
    let found = gabion_chunkserver::offline::verify(directory).map_err(|error| match error {
        DiskError::Locked { holder, .. } => in_use(directory, &holder),
        error => Failure::code(
            ErrorCode::LocalFile,
            error.to_string(),
            "check the path and its permissions",
        ),
    })?;
    let mut report = Report::new("chunkserver", directory);
    report.fact("sealed chunks", found.sealed);
    report.fact("open chunks", found.open);
    report.fact("good bytes", found.bytes_good);
    report.findings_more = found.findings_more;
    for finding in found.findings {
        let path = finding.path.map(|path| path.display().to_string());
        report.add(Finding {
            place: finding.kind.name().to_owned(),
            object: finding.chunk.map(|chunk| chunk.to_string()).or(path),
            what: finding.what,
            is_damage: finding.kind.is_damage(),
        });
    }
    Ok(report)
}

/// Log entries and rows by their checksums, each row and command by its decoder, then the rows against each other.
fn verify_master(directory: &Path) -> Result<Report, Failure> {
    let _lock = lock(directory)?;
    let mut report = Report::new("master", directory);
    let mut rows = MemoryRows::default();
    let row = |key: &[u8], value: &[u8]| {
        check::row_decodes(key, value).map_err(|why| RowsError::Corrupt {
            key: gabion_protocol::keys::hex(key),
            why,
        })?;
        rows.0.insert(key.to_vec(), value.to_vec());
        Ok(())
    };
    let command = |bytes: &[u8]| Command::decode(bytes).map(drop).map_err(|error| error.to_string());
    match offline::verify(directory, row, command) {
        Ok(found) => {
            report.fact("entries", found.entries);
            report.fact("rows", found.rows);
            report.fact("term", found.term);
            report.fact("applied", found.applied);
            report.fact("state", found.state_hash);
        }
        Err(error) => {
            report.damage(place_of(&error), error);
            return Ok(report);
        }
    }
    match check::check(&rows) {
        Ok(checked) => checked
            .findings
            .into_iter()
            .for_each(|what| report.damage("state", what)),
        Err(error) => report.damage("state", error),
    }
    Ok(report)
}

fn place_of(error: &OfflineError) -> &'static str {
    match error {
        OfflineError::Log(_) | OfflineError::Command { .. } | OfflineError::Gap { .. } => "log",
        _ => "state",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strange_directory_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(run(directory.path(), Format::Table, true).unwrap_err().exit_code(), 3);
        assert_eq!(
            run(Path::new("/absent"), Format::Table, true).unwrap_err().exit_code(),
            3
        );
    }

    #[test]
    fn a_directory_in_use_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("lock"), "4711\n").unwrap();
        let held = File::open(directory.path().join("lock")).unwrap();
        held.lock().unwrap();
        let refused = lock(directory.path()).unwrap_err();
        assert_eq!(refused.exit_code(), 4);
        assert!(refused.report().unwrap().contains("process 4711"));
        drop(held);
        assert!(lock(directory.path()).unwrap().is_some());
    }

    #[test]
    fn summaries_are_pinned() {
        let mut report = Report::new("master", Path::new("/srv/m1"));
        report.fact("entries", 5);
        report.fact("rows", 7);
        assert_eq!(
            report.summary(),
            "verified the master directory /srv/m1: entries 5, rows 7: all good"
        );
        report.damage("log", "entry 3 does not have its checksum");
        assert!(report.summary().ends_with(": 1 DAMAGED"));
        assert_eq!(
            report.table().to_string(),
            "PLACE  OBJECT  FOUND\nlog    -       entry 3 does not have its checksum\n"
        );
    }
}
