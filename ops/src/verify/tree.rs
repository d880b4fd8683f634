//! Is a local tree the same as one on the cluster? Both ways, and by content: every byte is fetched and compared,
//! and the local file's checksum with the one the masters hold.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use futures_util::StreamExt as _;
use gabion_client::terminal::{Column, Failure, FileProgress, Format, Output, Progress, Table, text};
use gabion_client::{Client, Entry, EntryKind, FsPath, Walk};
use gabion_protocol::limits::PACKET_BYTES;
use serde::Serialize;
use walkdir::WalkDir;

use super::Severity;

/// What differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Bytes differ.
    Content,
    /// Lengths differ.
    Length,
    /// The bytes are equal, but not the checksum the masters hold.
    Checksum,
    /// Of one kind here, of another there.
    FileOrDirectory,
    /// Not on the cluster.
    OnlyLocal,
    /// Not on this machine.
    OnlyRemote,
    /// Could not be read.
    Unreadable,
}

impl Kind {
    fn severity(self) -> Severity {
        match self {
            Self::Content | Self::Length | Self::Checksum | Self::FileOrDirectory => Severity::Damaged,
            Self::OnlyLocal | Self::OnlyRemote | Self::Unreadable => Severity::Incomplete,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Content => "content differs",
            Self::Length => "length differs",
            Self::Checksum => "checksum differs",
            Self::FileOrDirectory => "kind differs",
            Self::OnlyLocal => "only local",
            Self::OnlyRemote => "only remote",
            Self::Unreadable => "unreadable",
        }
    }
}

/// A difference.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The name below both trees; empty for the trees themselves.
    pub path: String,
    /// What kind.
    pub kind: Kind,
    /// What was found.
    pub what: String,
}

/// What was compared.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Files on both sides.
    pub files: u64,
    /// Directories on both sides.
    pub directories: u64,
    /// Symbolic links on both sides.
    pub links: u64,
    /// Bytes of those files.
    pub bytes: u64,
}

#[derive(Serialize)]
struct Report<'a> {
    compared: Compared,
    findings: &'a [Finding],
}

/// How to compare.
#[derive(Debug, Clone)]
pub struct Options {
    /// Compare lengths and checksums only: the cluster's bytes are not fetched.
    pub quick: bool,
    /// Files compared at the same time.
    pub jobs: usize,
    /// How to print.
    pub format: Format,
    /// Errors only.
    pub quiet: bool,
}

/// A file that both sides have.
#[derive(Debug)]
struct Pair {
    name: String,
    local: PathBuf,
    remote: FsPath,
    entry: Entry,
}

/// Compares the file or tree `local` with `remote`.
///
/// # Errors
/// [`Failure`] with exit code 7 if something differs, 8 if something is on one side only or could not be read.
pub async fn run(client: &Client, local: &Path, remote: &FsPath, options: &Options) -> Result<(), Failure> {
    let mut findings = Vec::new();
    let here = read_local(local, &mut findings)?;
    let there = read_remote(client, remote, &mut findings).await?;
    let (mut compared, pairs) = pair_up(local, here, there, &mut findings);
    let bytes = pairs.iter().map(|pair| pair.entry.length).sum();
    let progress = Progress::new(options.quiet, pairs.len() as u64, bytes);
    let mut running = futures_util::stream::iter(pairs)
        .map(|pair| {
            let (client, quick) = (client.clone(), options.quick);
            let bar = progress.file(pair.remote.as_str(), pair.entry.length);
            let name = pair.name.clone();
            let length = pair.entry.length;
            async move {
                // A task of its own: its checksums are made on another thread than its neighbours'.
                let found = tokio::spawn(async move { compare(&client, &pair, quick, &bar).await }).await;
                (
                    name,
                    length,
                    found.unwrap_or_else(|panic| Some((Kind::Unreadable, panic.to_string()))),
                )
            }
        })
        .buffer_unordered(options.jobs);
    while let Some((path, length, found)) = running.next().await {
        compared.files += 1;
        compared.bytes += length;
        findings.extend(found.map(|(kind, what)| Finding { path, kind, what }));
    }
    drop(running);
    let took = progress.finish();
    findings.sort_by(|a, b| a.path.cmp(&b.path));
    print(&findings, compared, options.format)?;
    if !options.quiet {
        let how = if options.quick {
            "by length and crc32"
        } else {
            "byte by byte"
        };
        let rate = text::rate(compared.bytes, took);
        eprintln!(
            "{}",
            summary(compared, &findings, how, &format!("{} ({rate})", text::span(took)))
        );
    }
    super::end(findings.iter().map(|finding| finding.kind.severity()))
}

/// The kinds of all names below `root`; the root's own name is empty.
fn read_local(root: &Path, findings: &mut Vec<Finding>) -> Result<BTreeMap<String, EntryKind>, Failure> {
    std::fs::metadata(root).map_err(|error| Failure::local("read", root.display(), &error))?;
    let mut found = BTreeMap::new();
    for next in WalkDir::new(root) {
        let entry = match next {
            Ok(entry) => entry,
            Err(error) => {
                let path = error.path().unwrap_or(root).display().to_string();
                findings.push(Finding {
                    path,
                    kind: Kind::Unreadable,
                    what: error.to_string(),
                });
                continue;
            }
        };
        // Below the root devices and pipes are passed over, as uploads do.
        let kind = match entry.file_type() {
            kind if kind.is_dir() => EntryKind::Directory,
            kind if kind.is_file() => EntryKind::File,
            _ if entry.depth() == 0 && !root.is_dir() => EntryKind::File,
            kind if kind.is_symlink() && entry.depth() > 0 => EntryKind::Link {
                target: stands_for(entry.path()),
            },
            _ => continue,
        };
        let inside = entry.path().strip_prefix(root).unwrap_or_else(|_| entry.path());
        match inside.to_str() {
            Some(name) => {
                found.insert(name.to_owned(), kind);
            }
            None => findings.push(Finding {
                path: inside.display().to_string(),
                kind: Kind::OnlyLocal,
                what: "its name is not UTF-8, so it cannot be on the cluster".to_owned(),
            }),
        }
    }
    Ok(found)
}

async fn read_remote(
    client: &Client,
    root: &FsPath,
    findings: &mut Vec<Finding>,
) -> Result<BTreeMap<String, (FsPath, Entry)>, Failure> {
    let (_, entry) = client.resolve(root).await?;
    let is_directory = entry.is_directory();
    let mut found = BTreeMap::from([(String::new(), (root.clone(), entry))]);
    if !is_directory {
        return Ok(found);
    }
    let mut walk = Walk::new(client.clone(), root.clone());
    while let Some(next) = walk.next().await {
        match next {
            Ok((path, entry)) => {
                let name = path.as_str().strip_prefix(root.as_str()).unwrap_or(path.as_str());
                found.insert(name.trim_start_matches('/').to_owned(), (path, entry));
            }
            Err(error) => findings.push(Finding {
                path: root.to_string(),
                kind: Kind::Unreadable,
                what: error.to_string(),
            }),
        }
    }
    Ok(found)
}

/// What a local link stands for.
fn stands_for(link: &Path) -> String {
    std::fs::read_link(link).map_or_else(|_| String::new(), |target| target.to_string_lossy().into_owned())
}

fn word(kind: &EntryKind) -> &'static str {
    match kind {
        EntryKind::File => "file",
        EntryKind::Directory => "directory",
        EntryKind::Link { .. } => "link",
    }
}

/// The files both sides have; what only one has, or has as another kind, is a finding.
fn pair_up(
    root: &Path,
    mut here: BTreeMap<String, EntryKind>,
    there: BTreeMap<String, (FsPath, Entry)>,
    findings: &mut Vec<Finding>,
) -> (Compared, Vec<Pair>) {
    let mut compared = Compared::default();
    let mut pairs = Vec::new();
    let mut find = |path: String, kind: Kind, what: &str| {
        findings.push(Finding {
            path,
            kind,
            what: what.to_owned(),
        });
    };
    for (name, (remote, entry)) in there {
        match (here.remove(&name), &entry.kind) {
            (Some(EntryKind::Directory), EntryKind::Directory) => compared.directories += 1,
            (Some(EntryKind::File), EntryKind::File) => pairs.push(Pair {
                local: if name.is_empty() {
                    root.to_owned()
                } else {
                    root.join(&name)
                },
                name,
                remote,
                entry,
            }),
            (Some(EntryKind::Link { target: here }), EntryKind::Link { target: there }) => {
                compared.links += 1;
                if here != *there {
                    let what = format!("a link to {here:?} here, to {there:?} there");
                    find(name, Kind::Content, &what);
                }
            }
            (Some(here), there) => {
                let what = format!("a {} here, a {} there", word(&here), word(there));
                find(name, Kind::FileOrDirectory, &what);
            }
            (None, there) => {
                let what = format!("a {} on the cluster, nothing here", word(there));
                find(name, Kind::OnlyRemote, &what);
            }
        }
    }
    for (name, kind) in here {
        let what = format!("a {} here, nothing on the cluster", word(&kind));
        find(name, Kind::OnlyLocal, &what);
    }
    (compared, pairs)
}

/// What differs between the two copies of a file, if anything.
async fn compare(client: &Client, pair: &Pair, quick: bool, bar: &FileProgress) -> Option<(Kind, String)> {
    let wrong = |why: String| Some((Kind::Unreadable, why));
    let file = match File::open(&pair.local).and_then(|file| Ok((file.metadata()?.len(), file))) {
        Ok((length, _)) if length != pair.entry.length => {
            return Some((
                Kind::Length,
                format!("{length} bytes here, {} on the cluster", pair.entry.length),
            ));
        }
        Ok((_, file)) => file,
        Err(error) => return wrong(format!("cannot read {}: {error}", pair.local.display())),
    };
    let mut local = Local {
        file,
        hasher: crc32fast::Hasher::new(),
    };
    // The checksum of a file that was overwritten in part is not known.
    if quick && pair.entry.known_crc().is_some() {
        while let Ok(bytes) = local.next(PACKET_BYTES).await {
            if bytes.is_empty() {
                break;
            }
            bar.advance(bytes.len() as u64);
        }
    } else {
        let reader = match client.open(&pair.remote).await {
            Ok(reader) => reader,
            Err(error) => return wrong(error.to_string()),
        };
        let mut stream = reader.stream();
        let mut at = 0;
        loop {
            let remote = match stream.next().await {
                Ok(Some(remote)) => remote,
                Ok(None) => break,
                Err(error) => return wrong(error.to_string()),
            };
            match local.next(remote.len()).await {
                Ok(here) if here == remote => {}
                Ok(here) => {
                    let same = here.iter().zip(&remote).take_while(|(a, b)| a == b).count();
                    return Some((Kind::Content, format!("first at byte {}", at + same as u64)));
                }
                Err(error) => return wrong(format!("cannot read {}: {error}", pair.local.display())),
            }
            at += remote.len() as u64;
            bar.advance(remote.len() as u64);
        }
    }
    let crc = local.hasher.finalize();
    let agreed = pair.entry.known_crc().filter(|agreed| crc != *agreed)?;
    let what = format!("crc32 {crc:08x} here, {agreed:08x} held by the masters");
    Some((Kind::Checksum, what))
}

/// A local file read in order, its checksum made on the way.
struct Local {
    file: File,
    hasher: crc32fast::Hasher,
}

impl Local {
    /// The next `length` bytes; fewer at the end of the file.
    async fn next(&mut self, length: usize) -> std::io::Result<Bytes> {
        let mut file = self.file.try_clone()?;
        let read = tokio::task::spawn_blocking(move || {
            let mut bytes = Vec::with_capacity(length);
            (&mut file).take(length as u64).read_to_end(&mut bytes)?;
            Ok::<_, std::io::Error>(bytes)
        });
        let bytes = read.await.map_err(std::io::Error::other)??;
        self.hasher.update(&bytes);
        Ok(bytes.into())
    }
}

fn print(findings: &[Finding], compared: Compared, format: Format) -> Result<(), Failure> {
    let mut output = Output::stdout();
    match format {
        Format::Table => output.table(&table(findings))?,
        Format::Json => output.object(format, &Report { compared, findings })?,
        Format::Jsonl => findings.iter().try_for_each(|finding| output.object(format, finding))?,
    }
    output.flush()
}

fn table(findings: &[Finding]) -> Table {
    let mut table = Table::new(&[Column::Words("kind"), Column::Words("path"), Column::Words("found")]);
    for finding in findings {
        let path = if finding.path.is_empty() { "." } else { &finding.path };
        table.row([
            finding.kind.word().to_owned(),
            text::printable(path).into_owned(),
            text::printable(&finding.what).into_owned(),
        ]);
    }
    table
}

fn summary(compared: Compared, findings: &[Finding], how: &str, took: &str) -> String {
    let verdict = match findings.len() as u64 {
        0 => "no difference".to_owned(),
        number => text::count(number, "difference").to_uppercase(),
    };
    format!(
        "compared {} and {}{} {how}, {} in {took}: {verdict}",
        text::count(compared.files, "file"),
        match compared.directories {
            1 => "1 directory".to_owned(),
            number => format!("{number} directories"),
        },
        match compared.links {
            0 => String::new(),
            number => format!(" and {}", text::count(number, "link")),
        },
        text::size(compared.bytes),
    )
}

#[cfg(test)]
mod tests {
    use gabion_protocol::Ino;

    use super::*;

    fn entry(kind: EntryKind) -> Entry {
        Entry {
            name: String::new(),
            ino: Ino(7),
            kind,
            length: 9,
            crc: 0,
            replicas: 3,
            chunk_bytes: 0,
            children: 0,
            mode: 0,
            modified_ms: 0,
            degraded: false,
        }
    }

    #[test]
    fn both_ways_are_compared() {
        use EntryKind::{Directory, File};
        let here = [("", Directory), ("a", File), ("b", File), ("c", Directory), ("d", File)];
        let there = [
            ("", Directory),
            ("a", File),
            ("b", Directory),
            ("c", File),
            ("e", Directory),
        ];
        let here = here.map(|(name, kind)| (name.to_owned(), kind)).into();
        let there = there
            .map(|(name, kind)| (name.to_owned(), (FsPath::root(), entry(kind))))
            .into();
        let mut findings = Vec::new();
        let (compared, pairs) = pair_up(Path::new("t"), here, there, &mut findings);
        assert_eq!(compared.directories, 1);
        assert_eq!(
            pairs.iter().map(|pair| pair.local.clone()).collect::<Vec<_>>(),
            [Path::new("t/a")]
        );
        let found: Vec<_> = findings
            .iter()
            .map(|finding| (finding.path.as_str(), finding.kind))
            .collect();
        let expected = [
            ("b", Kind::FileOrDirectory),
            ("c", Kind::FileOrDirectory),
            ("e", Kind::OnlyRemote),
            ("d", Kind::OnlyLocal),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn local_trees_are_read_with_their_links() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("sub")).unwrap();
        std::fs::write(root.path().join("sub/a"), "1").unwrap();
        std::os::unix::fs::symlink("sub/a", root.path().join("link")).unwrap();
        let mut findings = Vec::new();
        let found = read_local(root.path(), &mut findings).unwrap();
        let names: Vec<_> = found.keys().map(String::as_str).collect();
        assert_eq!(names, ["", "link", "sub", "sub/a"]);
        let target = "sub/a".to_owned();
        assert_eq!(found["link"], EntryKind::Link { target });
        assert!(findings.is_empty());
        let single = read_local(&root.path().join("link"), &mut findings).unwrap();
        assert_eq!(
            single.into_iter().collect::<Vec<_>>(),
            [(String::new(), EntryKind::File)]
        );
        assert_eq!(
            read_local(Path::new("/absent"), &mut findings).unwrap_err().exit_code(),
            3
        );
    }

    #[tokio::test]
    async fn local_files_are_read_in_order_with_their_checksum() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "123456789").unwrap();
        let mut local = Local {
            file: File::open(file.path()).unwrap(),
            hasher: crc32fast::Hasher::new(),
        };
        assert_eq!(local.next(4).await.unwrap(), "1234");
        assert_eq!(local.next(100).await.unwrap(), "56789");
        assert!(local.next(1).await.unwrap().is_empty());
        assert_eq!(local.hasher.finalize(), 0xcbf4_3926);
    }

    #[test]
    fn table_and_summary_are_pinned() {
        let findings = [
            Finding {
                path: String::new(),
                kind: Kind::FileOrDirectory,
                what: "a file here, a directory there".to_owned(),
            },
            Finding {
                path: "a\n".to_owned(),
                kind: Kind::Content,
                what: "first at byte 7".to_owned(),
            },
        ];
        let expected = "\
KIND             PATH  FOUND
kind differs     .     a file here, a directory there
content differs  a\\n   first at byte 7
";
        assert_eq!(table(&findings).to_string(), expected);
        let compared = Compared {
            files: 2,
            directories: 1,
            links: 0,
            bytes: 9,
        };
        assert_eq!(
            summary(compared, &findings, "byte by byte", "1.0 s (9 B/s)"),
            "compared 2 files and 1 directory byte by byte, 9 B in 1.0 s (9 B/s): 2 DIFFERENCES"
        );
    }
}
