//! Files, directories and links as JSON shows them: integers in bytes, times in RFC 3339, checksums as eight hexadecimal
//! digits. A field is never renamed without a new schema number.

use std::time::Duration;

use gabion_client::terminal::{Failure, failure, text};
use gabion_protocol::messages::master::{Entry, EntryKind};
use gabion_protocol::{ErrorCode, FsPath};
use serde::Serialize;

/// A file, directory or link.
#[derive(Debug, Serialize)]
pub(crate) struct EntryRecord {
    path: String,
    name: String,
    kind: &'static str,
    /// Of the file, of all files below a directory, or of a link's target.
    bytes: u64,
    /// `null` for all but files.
    crc32: Option<String>,
    replicas: Option<u8>,
    chunk_bytes: Option<u64>,
    chunks: Option<u64>,
    /// What is below a directory; `null` for others.
    entries: Option<u64>,
    mode: String,
    modified: String,
    degraded: bool,
    inode: u64,
    /// What a link stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
}

impl EntryRecord {
    pub(crate) fn new(path: &FsPath, entry: &Entry) -> Self {
        let is_file = entry.is_file();
        Self {
            path: path.to_string(),
            name: entry.name.clone(),
            kind: kind(&entry.kind),
            bytes: entry.length,
            crc32: entry.known_crc().filter(|_| is_file).map(crc32),
            replicas: is_file.then_some(entry.replicas),
            chunk_bytes: is_file.then_some(entry.chunk_bytes),
            chunks: is_file.then_some(entry.children),
            entries: entry.is_directory().then_some(entry.children),
            mode: format!("{:04o}", entry.mode),
            modified: text::rfc3339(entry.modified_ms),
            degraded: entry.degraded,
            inode: entry.ino.0,
            target: entry.target().map(str::to_owned),
        }
    }
}

/// The word for a kind.
pub(crate) fn kind(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Link { .. } => "link",
    }
}

/// The word for a kind in a narrow column.
pub(crate) fn short_kind(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "dir",
        EntryKind::Link { .. } => "link",
    }
}

/// A name as people read it, with what a link stands for.
pub(crate) fn shown_name(name: &str, entry: &Entry) -> String {
    let name = text::printable(name);
    match entry.target() {
        Some(target) => format!("{name} -> {}", text::printable(target)),
        None => name.into_owned(),
    }
}

/// A checksum as people compare it.
pub(crate) fn crc32(crc: u32) -> String {
    format!("{crc:08x}")
}

/// A file's checksum, if the masters know it.
pub(crate) fn known_crc32(entry: &Entry) -> String {
    entry.known_crc().map_or_else(|| "-".to_owned(), crc32)
}

/// Copies wanted, with `<` in front while there are fewer.
pub(crate) fn replicas(entry: &Entry) -> String {
    match entry.kind {
        EntryKind::Directory | EntryKind::Link { .. } => "-".to_owned(),
        EntryKind::File if entry.degraded => format!("<{}", entry.replicas),
        EntryKind::File => entry.replicas.to_string(),
    }
}

/// Refuses a directory where only a file has content.
pub(crate) fn require_file(path: &FsPath, entry: &Entry) -> Result<(), Failure> {
    match entry.kind {
        // What was asked for is what the link leads to.
        EntryKind::File | EntryKind::Link { .. } => Ok(()),
        EntryKind::Directory => Err(Failure::code(
            ErrorCode::IsDirectory,
            format!("cannot read {path}: it is a directory"),
            format!("see what it holds: gabion list {path}"),
        )),
    }
}

/// What an upload or download has brought, for its one summary line.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) files: u64,
    pub(crate) directories: u64,
    pub(crate) links: u64,
    bytes: u64,
    /// Bytes of them that did not have to be moved.
    kept: u64,
    chunks: u64,
    degraded: u64,
    /// Fewest and most copies wanted of any file.
    replicas: Option<(u8, u8)>,
    /// Fewest and most copies there are of any chunk.
    copies: Option<(u8, u8)>,
}

/// The range that holds both.
fn widened(range: Option<(u8, u8)>, (least, most): (u8, u8)) -> (u8, u8) {
    range.map_or((least, most), |(low, high)| (low.min(least), high.max(most)))
}

fn range((least, most): (u8, u8)) -> String {
    match least == most {
        true => least.to_string(),
        false => format!("{least}–{most}"),
    }
}

impl Totals {
    /// One more file.
    pub(crate) fn add(&mut self, entry: &Entry) {
        self.files += 1;
        self.bytes += entry.length;
        self.chunks += entry.children;
        self.degraded += u64::from(entry.degraded);
        let wanted = (entry.replicas, entry.replicas);
        self.replicas = Some(widened(self.replicas, wanted));
        if !entry.degraded {
            self.copies = Some(widened(self.copies, wanted));
        }
    }

    /// So many bytes of a file were where they should be already.
    pub(crate) fn keep(&mut self, bytes: u64) {
        self.kept += bytes;
    }

    /// The copies of a degraded file's chunks, as counted; if they were not, what is promised of any stored file.
    pub(crate) fn add_copies(&mut self, entry: &Entry, counted: Option<(u8, u8)>) {
        let promised = (entry.replicas.min(2), entry.replicas);
        self.copies = Some(widened(self.copies, counted.unwrap_or(promised)));
    }

    /// `uploaded 3 files, 1.2 GiB in 4.1 s (300 MiB/s), 20 chunks × 3 copies, crc32 verified`; `× 2 of 3 copies` if
    /// there are fewer than wanted.
    pub(crate) fn uploaded(&self, took: Duration) -> String {
        let copies = match (self.replicas, self.copies) {
            (Some(wanted), copies) if self.chunks > 0 => {
                let noun = if wanted.1 == 1 { "copy" } else { "copies" };
                let have = copies.filter(|_| self.degraded > 0);
                let have = have.map_or_else(String::new, |have| format!("{} of ", range(have)));
                format!(" × {have}{} {noun}", range(wanted))
            }
            _ => String::new(),
        };
        self.summary("uploaded", took, &copies)
    }

    /// The same of reading, where one copy of each chunk is enough.
    pub(crate) fn fetched(&self, verb: &str, took: Duration) -> String {
        self.summary(verb, took, "")
    }

    fn summary(&self, verb: &str, took: Duration, copies: &str) -> String {
        let files = text::count(self.files, "file");
        let directories = match self.directories {
            0 => String::new(),
            number => format!(" and {}", text::count(number, "directory")),
        };
        let directories = match self.links {
            0 => directories,
            number => format!("{directories} and {}", text::count(number, "link")),
        };
        let bytes = match self.kept {
            0 => text::size(self.bytes),
            kept => format!("{} ({} kept)", text::size(self.bytes), text::size(kept)),
        };
        let rate = text::rate(self.bytes - self.kept.min(self.bytes), took);
        let chunks = text::count(self.chunks, "chunk");
        let took = text::span(took);
        format!("{verb} {files}{directories}, {bytes} in {took} ({rate}), {chunks}{copies}, crc32 verified")
    }

    /// Fewer copies than asked for are a success with a warning and an exit code of its own.
    pub(crate) fn check_degraded(&self) -> Result<(), Failure> {
        if self.degraded == 0 {
            return Ok(());
        }
        let have = if self.degraded == 1 { "has" } else { "have" };
        eprintln!(
            "degraded: {} {have} fewer copies than asked for, because too few chunkservers could take one; \
             see: gabion admin status",
            text::count(self.degraded, "file")
        );
        Err(Failure::Told {
            exit_code: failure::PARTIAL,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use gabion_protocol::Ino;

    use super::*;

    /// An entry with easily recognised values.
    pub(crate) fn entry(name: &str, kind: EntryKind, length: u64, modified_ms: i64) -> Entry {
        let is_file = kind == EntryKind::File;
        Entry {
            name: name.to_owned(),
            ino: Ino(7),
            kind,
            length,
            crc: if is_file { 0xcbf4_3926 } else { 0 },
            replicas: if is_file { 3 } else { 0 },
            chunk_bytes: if is_file { 64 << 20 } else { 0 },
            children: 2,
            mode: 0o644,
            modified_ms,
            degraded: false,
        }
    }

    #[test]
    fn json_of_a_file_is_pinned() {
        let path = FsPath::parse("/d/a").unwrap();
        let record = EntryRecord::new(&path, &entry("a", EntryKind::File, 9, 1_500));
        let expected = r#"{"path":"/d/a","name":"a","kind":"file","bytes":9,"crc32":"cbf43926","replicas":3,"chunk_bytes":67108864,"chunks":2,"entries":null,"mode":"0644","modified":"1970-01-01T00:00:01.5Z","degraded":false,"inode":7}"#;
        assert_eq!(serde_json::to_string(&record).unwrap(), expected);
    }

    #[test]
    fn json_of_a_directory_is_pinned() {
        let record = EntryRecord::new(&FsPath::root(), &entry("/", EntryKind::Directory, 9, 0));
        let expected = r#"{"path":"/","name":"/","kind":"directory","bytes":9,"crc32":null,"replicas":null,"chunk_bytes":null,"chunks":null,"entries":2,"mode":"0644","modified":"1970-01-01T00:00:00Z","degraded":false,"inode":7}"#;
        assert_eq!(serde_json::to_string(&record).unwrap(), expected);
    }

    #[test]
    fn summaries_read_as_promised() {
        let mut totals = Totals::default();
        for (length, children) in [(1 << 30, 16), (214_748_364, 3), (5, 1)] {
            let mut file = entry("a", EntryKind::File, length, 0);
            file.children = children;
            totals.add(&file);
        }
        assert_eq!(
            totals.uploaded(Duration::from_millis(4_100)),
            "uploaded 3 files, 1.2 GiB in 4.1 s (300 MiB/s), 20 chunks × 3 copies, crc32 verified"
        );
        assert!(totals.check_degraded().is_ok());
        let mut single = entry("b", EntryKind::File, 0, 0);
        single.replicas = 1;
        totals.add(&single);
        totals.directories = 2;
        assert_eq!(
            totals.uploaded(Duration::from_secs(60)),
            "uploaded 4 files and 2 directories, 1.2 GiB in 1 min 0 s (20 MiB/s), 22 chunks × 1–3 copies, crc32 verified"
        );
        assert_eq!(
            totals.fetched("downloaded", Duration::from_secs(60)),
            "downloaded 4 files and 2 directories, 1.2 GiB in 1 min 0 s (20 MiB/s), 22 chunks, crc32 verified"
        );
    }

    #[test]
    fn a_summary_does_not_boast_of_copies_that_are_not_there() {
        let mut file = entry("a", EntryKind::File, 5, 0);
        file.degraded = true;
        let said = |counted: &[Option<(u8, u8)>], whole: bool| {
            let mut totals = Totals::default();
            for counted in counted {
                totals.add(&file);
                totals.add_copies(&file, *counted);
            }
            if whole {
                totals.add(&entry("b", EntryKind::File, 5, 0));
            }
            assert_eq!(totals.check_degraded().unwrap_err().exit_code(), 8);
            totals.uploaded(Duration::from_secs(1))
        };
        assert!(said(&[Some((2, 2))], false).contains(" 2 chunks × 2 of 3 copies,"));
        assert!(said(&[Some((2, 2)), Some((2, 3))], false).contains(" 4 chunks × 2–3 of 3 copies,"));
        assert!(said(&[Some((2, 2))], true).contains(" 4 chunks × 2–3 of 3 copies,"));
        assert!(
            said(&[None], false).contains(" 2 chunks × 2–3 of 3 copies,"),
            "not counted"
        );
    }
}
