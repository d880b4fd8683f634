//! `gabion head`: the beginning of files. No more is read than is shown, but for the rest of one piece.

use gabion_client::FileReader;
use gabion_client::terminal::{Failure, Tally, text};
use gabion_protocol::FsPath;
use tokio::io::AsyncWriteExt as _;

use crate::args::Head;
use crate::context::Context;
use crate::glob;

/// Bytes read at a time, on the way to the last line.
const PIECE_BYTES: u64 = 64 << 10;

pub(crate) async fn run(context: &Context, head: Head) -> Result<(), Failure> {
    let mut tally = Tally::default();
    let paths = glob::expand(context, &head.paths, &mut tally).await;
    for (i, path) in paths.iter().enumerate() {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        let title = (paths.len() > 1).then(|| {
            let gap = if i > 0 { "\n" } else { "" };
            format!("{gap}==> {} <==\n", text::printable(path.as_str()))
        });
        let shown = tokio::select! {
            shown = show(context, &head, path, title) => shown,
            () = context.stop.cancelled() => return Err(Failure::interrupted()),
        };
        match shown {
            Ok(()) => tally.succeeded(),
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    tally.finish("file", "shown", &mut |line| eprintln!("{line}"))
}

async fn show(context: &Context, head: &Head, path: &FsPath, title: Option<String>) -> Result<(), Failure> {
    let reader = context.client.open(path).await?;
    let mut stdout = tokio::io::stdout();
    if let Some(title) = title {
        stdout.write_all(title.as_bytes()).await.map_err(Failure::stdout)?;
    }
    let mut lines = head.lines;
    let most = head.bytes.map_or(u64::MAX, |bytes| bytes.0);
    let end = reader.entry().length.min(most);
    let mut at = 0;
    while at < end && lines > 0 {
        let bytes = piece(&reader, at, end).await?;
        at += bytes.len() as u64;
        let shown = match head.bytes {
            Some(_) => &bytes[..],
            None => first_lines(&bytes, &mut lines),
        };
        stdout.write_all(shown).await.map_err(Failure::stdout)?;
    }
    stdout.flush().await.map_err(Failure::stdout)
}

async fn piece(reader: &FileReader, at: u64, end: u64) -> Result<bytes::Bytes, Failure> {
    Ok(reader.read_at(at, PIECE_BYTES.min(end - at)).await?)
}

/// As much of `bytes` as `lines` lines, which then counts those still to come.
fn first_lines<'a>(bytes: &'a [u8], lines: &mut u64) -> &'a [u8] {
    for (at, _) in bytes.iter().enumerate().filter(|(_, byte)| **byte == b'\n') {
        *lines -= 1;
        if *lines == 0 {
            return &bytes[..=at];
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_over_pieces() {
        let mut lines = 3;
        assert_eq!(first_lines(b"a\nbb", &mut lines), b"a\nbb");
        assert_eq!(first_lines(b"\n\nc", &mut lines), b"\n\n");
        assert_eq!(lines, 0);
        let mut lines = 2;
        assert_eq!(first_lines(b"no end", &mut lines), b"no end");
    }
}
