//! All that lies below a directory, in name order, each directory before what it holds.
//!
//! Memory is bounded by depth, not by the number of files: one page per directory on the way down. What changes
//! during the walk may be seen or not. Symbolic links are shown, and none is followed but the root.

use std::collections::VecDeque;

use gabion_protocol::messages::master::Entry;
use gabion_protocol::{ErrorCode, FsPath, WireError};

use crate::{Client, Error};

/// Entries asked for at once.
const PAGE: u32 = 500;

/// A walk over a tree; see [`Client::walk`].
#[derive(Debug)]
pub struct Walk {
    client: Client,
    open: Vec<Directory>,
    /// Levels below the root that are shown.
    deepest: usize,
}

/// A directory on the way down.
#[derive(Debug)]
struct Directory {
    path: FsPath,
    page: VecDeque<Entry>,
    /// Last name of the pages so far.
    after: Option<String>,
    more: bool,
}

impl Walk {
    /// A walk over what `directory` holds, itself not included.
    #[must_use]
    pub fn new(client: Client, directory: FsPath) -> Self {
        Self::to_depth(client, directory, usize::MAX)
    }

    /// The same, of so many levels; nothing of none.
    #[must_use]
    pub fn to_depth(client: Client, directory: FsPath, deepest: usize) -> Self {
        let root = (deepest > 0).then(|| Directory::new(directory));
        Self {
            client,
            open: root.into_iter().collect(),
            deepest,
        }
    }

    /// The next file or directory; `None` at the end. After an error the walk may go on: what the failed directory
    /// still held is left out.
    pub async fn next(&mut self) -> Option<Result<(FsPath, Entry), Error>> {
        loop {
            let directory = self.open.last_mut()?;
            if let Some(entry) = directory.page.pop_front() {
                return Some(self.enter(entry));
            }
            if !directory.more {
                self.open.pop();
                continue;
            }
            let (path, after) = (directory.path.clone(), directory.after.clone());
            match self.client.list(&path, after.as_deref(), PAGE).await {
                Ok(page) => directory.take(page.entries, page.more),
                Err(error) => {
                    self.open.pop();
                    return Some(Err(error));
                }
            }
        }
    }

    fn enter(&mut self, entry: Entry) -> Result<(FsPath, Entry), Error> {
        let Some(directory) = self.open.last() else {
            return Err(Error::new(
                ErrorCode::Internal,
                "a walk found an entry outside of any directory",
            ));
        };
        let path = directory.path.join(&entry.name).map_err(|why| {
            WireError::new(
                ErrorCode::InvalidPath,
                format!(
                    "{} holds the name {:?}, which cannot be part of a path: {why}",
                    directory.path, entry.name
                ),
            )
        })?;
        if entry.is_directory() && self.open.len() < self.deepest {
            self.open.push(Directory::new(path.clone()));
        }
        Ok((path, entry))
    }
}

impl Directory {
    fn new(path: FsPath) -> Self {
        Self {
            path,
            page: VecDeque::new(),
            after: None,
            more: true,
        }
    }

    fn take(&mut self, entries: Vec<Entry>, more: bool) {
        // A page without entries is the end, whatever it says of more: a walk must not go on for ever.
        self.more = more && !entries.is_empty();
        if let Some(last) = entries.last() {
            self.after = Some(last.name.clone());
        }
        self.page = entries.into();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_page_ends_a_directory() {
        let mut directory = Directory::new(FsPath::root());
        directory.take(Vec::new(), true);
        assert!(!directory.more && directory.after.is_none());
    }
}
