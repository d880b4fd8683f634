//! `gabion tail`: the end of a file, and what comes to it.
//!
//! Growth is found by asking the masters for the file's entry: often while there is some, ever less often while there is
//! none. Only bytes that are in the file by then are read, so that what is shown is a prefix of what will be there.

use std::time::Duration;

use gabion_client::FileReader;
use gabion_client::terminal::Failure;
use gabion_protocol::ErrorCode;
use gabion_protocol::ids::Ino;
use gabion_protocol::messages::master::Entry;
use tokio::io::AsyncWriteExt as _;

use crate::args::Tail;
use crate::context::Context;

/// Between questions while the file grows.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Between questions while nothing happens: a person does not notice more often.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// Bytes looked at together on the way back for lines.
const LOOK_BYTES: u64 = 64 << 10;

pub(crate) async fn run(context: &Context, tail: Tail) -> Result<(), Failure> {
    let shown = show(context, &tail);
    tokio::select! {
        shown = shown => shown,
        () = context.stop.cancelled() => Err(Failure::interrupted()),
    }
}

async fn show(context: &Context, tail: &Tail) -> Result<(), Failure> {
    let follows = tail.follow || tail.follow_name;
    let reader = loop {
        match context.client.open(&tail.path).await {
            Ok(reader) => break reader,
            Err(error) if tail.follow_name && error.code() == ErrorCode::NotFound => {
                tokio::time::sleep(PAUSE_MAX).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let length = reader.entry().length;
    let from = match tail.bytes {
        Some(bytes) => length.saturating_sub(bytes.0),
        None => last_lines(&reader, tail.lines).await?,
    };
    write_out(&reader, from).await?;
    if !follows {
        return Ok(());
    }
    let place = Place {
        ino: reader.entry().ino,
        at: length,
    };
    follow(context, tail, place).await
}

/// How far a file was shown.
#[derive(Debug, Clone, Copy)]
struct Place {
    ino: Ino,
    at: u64,
}

/// Shows what is new, for ever.
async fn follow(context: &Context, tail: &Tail, mut place: Place) -> Result<(), Failure> {
    let path = &tail.path;
    let mut pause = PAUSE_MIN;
    let mut is_missing = false;
    loop {
        tokio::time::sleep(pause).await;
        let entry = match context.client.resolve(path).await {
            Ok((_, entry)) => entry,
            Err(error) if tail.follow_name && error.code() == ErrorCode::NotFound => {
                if !std::mem::replace(&mut is_missing, true) {
                    eprintln!("gabion tail: {path} is gone; waiting for it");
                }
                pause = PAUSE_MAX;
                continue;
            }
            // Whoever follows a file for days outlives an outage.
            Err(error) if error.exit_code() == 5 => {
                eprintln!("gabion tail: {}", error.report());
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        is_missing = false;
        if !is_news(&entry, place) {
            pause = (pause * 2).min(PAUSE_MAX);
            continue;
        }
        pause = PAUSE_MIN;
        if let Some(next) = catch_up(context, tail, place).await? {
            place = next;
        }
    }
}

fn is_news(entry: &Entry, place: Place) -> bool {
    (entry.ino, entry.length) != (place.ino, place.at)
}

/// Shows what is new now; `None` if the file went, or changed on the way: the next question tells what it is then.
async fn catch_up(context: &Context, tail: &Tail, mut place: Place) -> Result<Option<Place>, Failure> {
    let path = &tail.path;
    let reader = match context.client.open(path).await {
        Ok(reader) => reader,
        Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::Conflict) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let entry = reader.entry();
    if entry.ino != place.ino {
        eprintln!("gabion tail: {path} was replaced; following the new file");
        place = Place { ino: entry.ino, at: 0 };
    }
    if entry.length < place.at {
        eprintln!("gabion tail: {path} became shorter");
        place.at = 0;
    }
    write_out(&reader, place.at).await?;
    place.at = entry.length;
    Ok(Some(place))
}

/// Writes the file from an offset on to standard output.
async fn write_out(reader: &FileReader, from: u64) -> Result<(), Failure> {
    let mut stdout = tokio::io::stdout();
    let mut stream = reader.stream_range(from, reader.entry().length - from);
    while let Some(bytes) = stream.next().await? {
        stdout.write_all(&bytes).await.map_err(Failure::stdout)?;
    }
    stdout.flush().await.map_err(Failure::stdout)
}

/// Where the last `lines` lines of a file begin. A last line need not end.
async fn last_lines(reader: &FileReader, lines: u64) -> Result<u64, Failure> {
    let length = reader.entry().length;
    if lines == 0 {
        return Ok(length);
    }
    let mut end = length;
    let mut left = lines;
    while end > 0 {
        let begin = end.saturating_sub(LOOK_BYTES);
        let bytes = reader.read_at(begin, end - begin).await?;
        if let Some(at) = line_begin(&bytes, end == length, &mut left) {
            return Ok(begin + at as u64);
        }
        end = begin;
    }
    Ok(0)
}

/// Where in `bytes` the line begins that is `left` lines from their end, if it does; else `left` counts those passed.
fn line_begin(bytes: &[u8], is_last: bool, left: &mut u64) -> Option<usize> {
    for (at, _) in bytes.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
        // The end of the last line begins none.
        if is_last && at + 1 == bytes.len() {
            continue;
        }
        *left -= 1;
        if *left == 0 {
            return Some(at + 1);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_counted_from_the_end_over_any_number_of_pieces() {
        let begin = |text: &str, lines, piece| {
            let (bytes, mut end, mut left) = (text.as_bytes(), text.len(), lines);
            while end > 0 {
                let begin = usize::saturating_sub(end, piece);
                if let Some(at) = line_begin(&bytes[begin..end], end == bytes.len(), &mut left) {
                    return begin + at;
                }
                end = begin;
            }
            0
        };
        for piece in [1, 2, 3, 100] {
            assert_eq!(begin("a\nbb\nccc\n", 1, piece), 5);
            assert_eq!(begin("a\nbb\nccc\n", 2, piece), 2);
            assert_eq!(begin("a\nbb\nccc\n", 3, piece), 0);
            assert_eq!(begin("a\nbb\nccc", 1, piece), 5, "a last line need not end");
            assert_eq!(begin("a\n\n\n", 2, piece), 2, "empty lines count");
            assert_eq!(begin("no end", 9, piece), 0);
        }
    }
}
