//! Patterns for names: `*` and `?` stand for any characters, `[a-z]` for one of a set, `[!a]` for one of no set, `\` takes
//! the next as it is. No character of a pattern matches a slash: patterns are of names, not of paths.

use gabion_client::terminal::{Failure, Tally};
use gabion_protocol::{ErrorCode, FsPath};

use crate::context::Context;

/// Entries asked for at once.
const PAGE: u32 = 1000;

/// Whether a text is more than the name it spells.
pub(crate) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?', '[', '\\'])
}

/// Whether a whole name matches. Takes time proportional to the lengths' product at most.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut at, mut seen) = (0, 0);
    // Where to go on when what follows the last star does not fit here.
    let mut star: Option<(usize, usize)> = None;
    while seen < name.len() {
        if pattern.get(at) == Some(&'*') {
            star = Some((at + 1, seen));
            at += 1;
            continue;
        }
        if let Some(next) = step(&pattern, at, name[seen]) {
            (at, seen) = (next, seen + 1);
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            (at, seen) = (after, from + 1);
        } else {
            return false;
        }
    }
    pattern[at..].iter().all(|c| *c == '*')
}

/// Where the pattern goes on if its element at `at` matches a character.
fn step(pattern: &[char], at: usize, c: char) -> Option<usize> {
    match pattern.get(at)? {
        '?' => Some(at + 1),
        '\\' => (pattern.get(at + 1).unwrap_or(&'\\') == &c).then_some((at + 2).min(pattern.len())),
        '[' => match set(pattern, at + 1, c) {
            Some((true, end)) => Some(end),
            Some((false, _)) => None,
            // A bracket that is never closed is itself.
            None => (c == '[').then_some(at + 1),
        },
        other => (*other == c).then_some(at + 1),
    }
}

/// Whether the set that begins at `at` holds a character, and where it ends; `None` if it does not end.
fn set(pattern: &[char], at: usize, c: char) -> Option<(bool, usize)> {
    let negated = matches!(pattern.get(at), Some('!' | '^'));
    let first = at + usize::from(negated);
    let mut at = first;
    let mut is_in = false;
    loop {
        let low = *pattern.get(at)?;
        if low == ']' && at > first {
            return Some((is_in != negated, at + 1));
        }
        let high = match (pattern.get(at + 1), pattern.get(at + 2)) {
            (Some('-'), Some(high)) if *high != ']' => {
                at += 2;
                *high
            }
            _ => low,
        };
        is_in |= (low..=high).contains(&c);
        at += 1;
    }
}

/// What the arguments stand for: of each that is a pattern and not the path of something itself, all paths that match,
/// in name order. One that matches nothing is a failure.
pub(crate) async fn expand(context: &Context, paths: &[FsPath], tally: &mut Tally) -> Vec<FsPath> {
    let mut all = Vec::new();
    for path in paths {
        if tally.is_hopeless() {
            tally.skipped();
            continue;
        }
        match expand_one(context, path).await {
            Ok(mut found) => all.append(&mut found),
            Err(failure) => tally.failed(path.as_str(), failure),
        }
    }
    all
}

/// What one argument stands for.
pub(crate) async fn expand_one(context: &Context, path: &FsPath) -> Result<Vec<FsPath>, Failure> {
    if !is_pattern(path.as_str()) || context.find_or_nothing(path).await?.is_some() {
        return Ok(vec![path.clone()]);
    }
    let mut found = vec![FsPath::root()];
    for (depth, name) in path.names().enumerate() {
        let is_last = depth + 1 == path.names().count();
        let mut next = Vec::new();
        for directory in &found {
            if is_pattern(name) {
                children(context, directory, name, is_last, &mut next).await?;
            } else {
                let path = directory.join(name).map_err(gabion_client::Error::from)?;
                if context.find_or_nothing(&path).await?.is_some() {
                    next.push(path);
                }
            }
        }
        found = next;
    }
    if found.is_empty() {
        return Err(Failure::code(
            ErrorCode::NotFound,
            format!("nothing matches {path}"),
            "see what is there: gabion list",
        ));
    }
    Ok(found)
}

/// Adds what matches in a directory: all at the end of a path, directories before it. As in a shell, a name that begins
/// with a dot must be asked for with one.
async fn children(
    context: &Context,
    directory: &FsPath,
    pattern: &str,
    is_last: bool,
    found: &mut Vec<FsPath>,
) -> Result<(), Failure> {
    let mut after: Option<String> = None;
    loop {
        let page = match context.client.list(directory, after.as_deref(), PAGE).await {
            Ok(page) => page,
            // It was removed or replaced since its name was read, or is a link to no directory.
            Err(error)
                if matches!(
                    error.code(),
                    ErrorCode::NotFound | ErrorCode::NotDirectory | ErrorCode::LimitExceeded
                ) =>
            {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        for entry in &page.entries {
            let hidden = entry.name.starts_with('.') && !pattern.starts_with('.');
            if !hidden && (is_last || !entry.is_file()) && matches(pattern, &entry.name) {
                found.push(directory.join(&entry.name).map_err(gabion_client::Error::from)?);
            }
        }
        after = page.entries.last().map(|entry| entry.name.clone());
        if !page.more || after.is_none() {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns_match_as_in_a_shell() {
        for (pattern, yes, no) in [
            ("*", &["", "a", "a.b"][..], &[][..]),
            ("a*b*c", &["abc", "aXbYc", "abcbc"], &["ab", "abcd", "bc"]),
            ("?", &["a", "ü"], &["", "ab"]),
            ("[a-c]x", &["ax", "cx"], &["dx", "x", "a"]),
            ("[!a-c]x", &["dx"], &["ax", "x"]),
            ("[]a]", &["]", "a"], &["b"]),
            ("[a-]", &["a", "-"], &["b"]),
            ("[ab", &["[ab"], &["a", "b"]),
            ("\\*", &["*"], &["a", "\\*"]),
            ("a\\", &["a\\"], &["a"]),
            ("*.txt", &["a.txt", ".txt"], &["a.txt2", "txt"]),
        ] {
            for name in yes {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
        // A pattern made to take for ever does not.
        assert!(!matches(&"*a".repeat(100), &("a".repeat(250) + "b")));
    }

    /// The definition, without a thought for time.
    fn naive(pattern: &[char], name: &[char]) -> bool {
        match (pattern.split_first(), name.split_first()) {
            (None, None) => true,
            (Some(('*', rest)), _) => {
                naive(rest, name) || name.split_first().is_some_and(|(_, name)| naive(pattern, name))
            }
            (Some((p, pattern)), Some((c, name))) if *p == '?' || p == c => naive(pattern, name),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn stars_match_as_defined(pattern in "[ab?*]{0,8}", name in "[ab]{0,8}") {
            let (p, n): (Vec<_>, Vec<_>) = (pattern.chars().collect(), name.chars().collect());
            prop_assert_eq!(matches(&pattern, &name), naive(&p, &n));
        }

        #[test]
        fn any_pattern_gives_an_answer(pattern in ".{0,20}", name in ".{0,20}") {
            let _ = matches(&pattern, &name);
        }
    }
}
