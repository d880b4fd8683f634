//! Snapshots: each shows a whole tree whose totals equal a walk, and history holds what they see and nothing else.

use gabion_protocol::ids::Ino;

use super::content::Walked;
use super::{Loaded, PAGE_ROWS, Report};
use crate::state::key::dentry::{Dentry, DentryKey};
use crate::state::key::extent::ExtentKey;
use crate::state::key::inode::{Body, InodeKey};
use crate::state::key::meta::Pin;
use crate::state::key::total::{Total, TotalKey};
use crate::state::key::{self, Moment};
use crate::state::past::{self, Reach};
use crate::state::preserve;
use crate::state::rows::{Rows, RowsError};

/// Of which moment.
type At = Option<Moment>;

impl Loaded {
    pub(super) fn check_snapshots(&self, rows: &dyn Rows, report: &mut Report) -> Result<(), RowsError> {
        let mut named: Vec<(Moment, Ino)> = self.snapshots.values().copied().collect();
        named.extend(self.tree_copies.values().map(|copy| (copy.pin.moment, copy.pin.root)));
        named.sort_unstable();
        let pinned: Vec<(Moment, Ino)> = self.pins.iter().map(|pin| (pin.moment, pin.root)).collect();
        if named != pinned {
            report.find(format!("snapshots are {named:?}, those that are kept are {pinned:?}"));
        }
        let mut reach = Reach::new(rows);
        for (row, past) in &self.history {
            if past.since >= row.until {
                report.find(format!("history row {row:02x?} ends before it begins"));
            }
            let is_seen = preserve::is_seen(&mut reach, &self.pins, &row.key, past.since, Some(row.until))?;
            if !is_seen && !self.is_pruning {
                report.find(format!("no snapshot sees history row {row:02x?}"));
            }
        }
        for pin in &self.pins {
            self.check_snapshot(rows, pin, report)?;
        }
        Ok(())
    }

    /// Walks a snapshot.
    fn check_snapshot(&self, rows: &dyn Rows, pin: &Pin, report: &mut Report) -> Result<(), RowsError> {
        let at = Some(pin.moment);
        // Directories in the order they are found: each is summed up after those below it.
        let mut found = vec![(pin.root, None)];
        let mut sums: Vec<Total> = Vec::new();
        let mut next = 0;
        while let Some((directory, _)) = found.get(next).copied() {
            let mut sum = Total::default();
            for (row, dentry) in entries(rows, directory, at)? {
                let Some(inode) = past::get(rows, &InodeKey(dentry.ino), at)? else {
                    report.find(format!("a snapshot shows {row:?}, whose inode it does not"));
                    continue;
                };
                if inode.parent.ino != directory || inode.parent.name != row.name {
                    report.find(format!(
                        "a snapshot shows {row:?}, whose inode hangs elsewhere: {inode:?}"
                    ));
                }
                match &inode.body {
                    Body::Directory => {
                        sum.directories += 1;
                        found.push((dentry.ino, Some(next)));
                    }
                    Body::File(content) => {
                        sum.files += 1;
                        sum.bytes += content.length;
                        let walked = self.walk_file(rows, dentry.ino, at, content.length, report)?;
                        if !walked.is(content) {
                            report.find(format!("a snapshot shows {row:?} as {content:?}, its extents differ"));
                        }
                    }
                    Body::Link { target } => {
                        sum.files += 1;
                        sum.bytes += target.len() as u64;
                    }
                    Body::Upload(_) => report.find(format!("a snapshot shows {row:?}, an upload")),
                }
            }
            sums.push(sum);
            next += 1;
        }
        for index in (0..found.len()).rev() {
            let (directory, above) = found[index];
            let sum = sums[index];
            if let Some(above) = above {
                sums[above].files += sum.files;
                sums[above].directories += sum.directories;
                sums[above].bytes += sum.bytes;
            }
            let told = past::get(rows, &TotalKey(directory), at)?.unwrap_or_default();
            if (told.files, told.directories, told.bytes) != (sum.files, sum.directories, sum.bytes) {
                report.find(format!(
                    "a snapshot's total of {directory} is {told:?}, a walk finds {sum:?}"
                ));
            }
        }
        Ok(())
    }

    fn walk_file(
        &self,
        rows: &dyn Rows,
        ino: Ino,
        at: At,
        length: u64,
        report: &mut Report,
    ) -> Result<Walked, RowsError> {
        let prefix = ExtentKey::prefix(ino);
        let end = key::prefix_end(&prefix);
        let (mut walked, mut from) = (Walked::default(), prefix);
        loop {
            let page = past::scan::<ExtentKey>(rows, &from, &end, PAGE_ROWS, at)?;
            for (row, extent) in &page {
                walked.take(row.offset, extent);
                self.check_extent(ino, row.offset, extent, report);
            }
            match page.last() {
                Some((last, _)) if page.len() == PAGE_ROWS => from = [key::Key::encode(last).as_slice(), &[0]].concat(),
                _ => break,
            }
        }
        walked.reach(length);
        Ok(walked)
    }
}

type Entry = (DentryKey, Dentry);

fn entries(rows: &dyn Rows, directory: Ino, at: At) -> Result<Vec<Entry>, RowsError> {
    let prefix = DentryKey::prefix(directory);
    let end = key::prefix_end(&prefix);
    let (mut all, mut from) = (Vec::new(), prefix);
    loop {
        let mut page = past::scan::<DentryKey>(rows, &from, &end, PAGE_ROWS, at)?;
        let is_last = page.len() < PAGE_ROWS;
        all.append(&mut page);
        match all.last() {
            Some((row, _)) if !is_last => from = [key::Key::encode(row).as_slice(), &[0]].concat(),
            _ => return Ok(all),
        }
    }
}
