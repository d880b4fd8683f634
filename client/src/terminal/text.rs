//! Numbers, times and names as people read them.

use std::borrow::Cow;
use std::time::Duration;

const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Bytes in the unit that suits them: `512 B`, `1.2 GiB`, `64 MiB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    let mut value = bytes as f64;
    let mut unit = 0;
    // 1023.6 KiB would be shown as 1024 KiB: the next unit says it better.
    while value >= 1023.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let decimals = usize::from(unit > 0 && value < 9.95);
    format!("{value:.decimals$} {}", UNITS[unit])
}

/// Bytes for a table: in a fitting unit, or exact.
#[must_use]
pub fn size_or_bytes(bytes: u64, exact: bool) -> String {
    if exact { bytes.to_string() } else { size(bytes) }
}

/// Bytes per second: `300 MiB/s`.
#[must_use]
pub fn rate(bytes: u64, took: Duration) -> String {
    let seconds = took.as_secs_f64().max(1e-3);
    format!("{}/s", size((bytes as f64 / seconds) as u64))
}

/// A span of time: `35 ms`, `4.1 s`, `2 min 5 s`, `3 h 2 min`.
#[must_use]
pub fn span(took: Duration) -> String {
    let seconds = took.as_secs();
    match seconds {
        0 => format!("{} ms", took.as_millis()),
        1..60 => format!("{:.1} s", (took.as_secs_f64() * 10.0).floor() / 10.0),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// `1 file`, `3 files`, `2 directories`: for nouns whose plural is regular.
#[must_use]
pub fn count(number: u64, noun: &str) -> String {
    if number == 1 {
        return format!("1 {noun}");
    }
    match noun.strip_suffix('y') {
        Some(stem) => format!("{number} {stem}ies"),
        None => format!("{number} {noun}s"),
    }
}

/// A time in RFC 3339, in UTC: `2026-11-22T13:04:06.5Z`.
#[must_use]
pub fn rfc3339(millis_since_1970: i64) -> String {
    match jiff::Timestamp::from_millisecond(millis_since_1970) {
        Ok(time) => time.to_string(),
        // A time no calendar holds can only come from a peer; it is still data, and shown as the bound it passed.
        Err(_) if millis_since_1970 < 0 => jiff::Timestamp::MIN.to_string(),
        Err(_) => jiff::Timestamp::MAX.to_string(),
    }
}

/// A time for a table, in UTC to the second: `2026-11-22 13:04:06`.
#[must_use]
pub fn table_time(millis_since_1970: i64) -> String {
    let mut text = rfc3339(millis_since_1970);
    if let Some(end) = text.find(['.', 'Z']) {
        text.truncate(end);
    }
    text.replacen('T', " ", 1)
}

/// The name in a server's label `c1 127.0.0.1:7201`; a label without an address is all there is.
#[must_use]
pub fn server_name(label: &str) -> &str {
    match label.split_once(' ') {
        Some((name, address)) if address.contains(':') => name,
        _ => label,
    }
}

/// Permission bits as `ls` shows them: `rwxr-xr-x`.
#[must_use]
pub fn mode(bits: u32) -> String {
    (0..9)
        .rev()
        .map(|bit| {
            if bits & (1 << bit) == 0 {
                '-'
            } else {
                ['x', 'w', 'r'][bit % 3]
            }
        })
        .collect()
}

/// A name as it may be shown on a terminal: control characters and those that turn the direction of text are
/// written as escapes, because names come from whoever stored the file.
#[must_use]
pub fn printable(name: &str) -> Cow<'_, str> {
    if !name.chars().any(is_treacherous) {
        return Cow::Borrowed(name);
    }
    let mut shown = String::with_capacity(name.len() + 8);
    for c in name.chars() {
        if is_treacherous(c) {
            shown.extend(c.escape_default());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

fn is_treacherous(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sizes_read_well() {
        let cases = [
            (0, "0 B"),
            (1, "1 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (65_536, "64 KiB"),
            (1_048_575, "1.0 MiB"),
            (64 << 20, "64 MiB"),
            (1_288_490_189, "1.2 GiB"),
            (10 << 30, "10 GiB"),
            (u64::MAX, "16 EiB"),
        ];
        for (bytes, text) in cases {
            assert_eq!(size(bytes), text);
        }
        assert_eq!(size_or_bytes(2048, true), "2048");
        assert_eq!(rate(300 << 20, Duration::from_secs(1)), "300 MiB/s");
        assert_eq!(rate(5, Duration::ZERO), "4.9 KiB/s");
    }

    #[test]
    fn spans_counts_and_modes_read_well() {
        for (millis, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (4_199, "4.1 s"),
            (59_999, "59.9 s"),
            (125_000, "2 min 5 s"),
            (10_925_000, "3 h 2 min"),
        ] {
            assert_eq!(span(Duration::from_millis(millis)), text);
        }
        assert_eq!(count(1, "file"), "1 file");
        assert_eq!(count(0, "file"), "0 files");
        assert_eq!(count(2, "directory"), "2 directories");
        assert_eq!(server_name("c1 [::1]:7201"), "c1");
        assert_eq!(server_name("chunkserver 3"), "chunkserver 3");
        assert_eq!(mode(0o644), "rw-r--r--");
        assert_eq!(mode(0o755), "rwxr-xr-x");
    }

    #[test]
    fn times_are_utc() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(1_500), "1970-01-01T00:00:01.5Z");
        assert_eq!(table_time(1_500), "1970-01-01 00:00:01");
        assert_eq!(table_time(-1), "1969-12-31 23:59:59");
    }

    #[test]
    fn names_cannot_command_the_terminal() {
        assert_eq!(printable("größe.txt"), "größe.txt");
        assert_eq!(printable("a\u{1b}[2Jb\n"), "a\\u{1b}[2Jb\\n");
        assert_eq!(printable("a\u{202e}gpj.exe"), "a\\u{202e}gpj.exe");
    }

    proptest! {
        #[test]
        fn any_number_and_name_can_be_shown(bytes: u64, millis: i64, name: String) {
            prop_assert!(size(bytes).len() <= 8);
            prop_assert!(!rfc3339(millis).is_empty() && !table_time(millis).is_empty());
            prop_assert!(!printable(&name).chars().any(char::is_control));
        }
    }
}
