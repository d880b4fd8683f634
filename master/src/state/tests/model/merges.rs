//! Merges in the model: a run of a file's bytes lies in another chunk, and nothing else is different.

use super::*;
use crate::state::key::merge::Merge;
use crate::state::merges::{self, MergePlan, MergeStep};

#[derive(Debug, Clone)]
pub(super) enum Step {
    /// Of so many extents from one on.
    Begin {
        path: FsPath,
        from: usize,
        extents: usize,
    },
    /// With a copy missing, or with other bytes, if it lies.
    Exchange {
        back: usize,
        lie: Option<bool>,
    },
    GiveUp {
        back: usize,
    },
    Settle,
}

pub(super) fn any_step() -> impl Strategy<Value = Step> {
    step_at(any_path())
}

/// A step with files at some of these paths.
pub(super) fn step_at(paths: impl Strategy<Value = FsPath>) -> impl Strategy<Value = Step> {
    let lie = prop_oneof![8 => Just(None), 2 => any::<bool>().prop_map(Some)];
    prop_oneof![
        4 => (paths, 0usize..3, 1usize..5).prop_map(|(path, from, extents)| Step::Begin { path, from, extents }),
        5 => (0usize..3, lie).prop_map(|(back, lie)| Step::Exchange { back, lie }),
        1 => (0usize..3).prop_map(|back| Step::GiveUp { back }),
        1 => Just(Step::Settle),
    ]
}

impl Model {
    pub(super) fn merge_step(&mut self, step: Step) {
        match step {
            Step::Begin { path, from, extents } => self.begin_merge(&path, from, extents),
            Step::Exchange { back, lie } => self.exchange(back, lie),
            Step::GiveUp { back } => {
                if let Some((chunk, _)) = self.merging(back) {
                    self.merge(MergeStep::GiveUp { chunk }).unwrap();
                }
            }
            Step::Settle => {
                for (file, row) in merges::fragmented(&self.machine.rows, None, 1).unwrap() {
                    let changed = row.changed;
                    self.merge(MergeStep::Settle { file, changed }).unwrap();
                }
            }
        }
    }

    fn merge(&mut self, step: MergeStep) -> Result<Outcome, Refusal> {
        self.machine.apply(&Command::Merge(step)).0
    }

    fn merging(&self, back: usize) -> Option<(ChunkId, Merge)> {
        let mut all = merges::under_way(&self.machine.rows).unwrap();
        let at = all.len().checked_sub(back + 1)?;
        Some(all.swap_remove(at))
    }

    fn begin_merge(&mut self, path: &FsPath, from: usize, count: usize) {
        if self.changeable(path).is_none() {
            return;
        }
        let file = self.ino(path);
        let extents = merges::extents(&self.machine.rows, file, 0, 100).unwrap();
        let Some(run) = extents.get(from..from + count) else {
            return;
        };
        let (first, (last, end)) = (run[0].0, run[count - 1]);
        let plan = MergePlan {
            file,
            from: first,
            to: last + end.length,
            targets: chain(&[1, 2, 3, 4]),
        };
        let has_gap = run.windows(2).any(|two| two[0].0 + two[0].1.length != two[1].0);
        let is_full = merges::under_way(&self.machine.rows).unwrap().len() == gabion_protocol::limits::MERGES_MAX;
        let begun = self.merge(MergeStep::Begin(plan));
        assert_eq!(begun.is_ok(), count > 1 && !has_gap && !is_full, "{run:?}: {begun:?}");
    }

    fn exchange(&mut self, back: usize, lie: Option<bool>) {
        let Some((chunk, row)) = self.merging(back) else {
            return;
        };
        let made = read::chunk(&self.machine.rows, chunk).unwrap().unwrap();
        self.crc = self.crc.wrapping_mul(31).wrapping_add(17);
        let mut seal = Seal {
            chunk,
            generation: made.generation,
            file_offset: row.offset,
            length: row.length(),
            crc: row.crc().unwrap_or(self.crc),
            members: made.replicas.iter().map(|copy| copy.server).collect(),
        };
        match lie {
            Some(true) => drop(seal.members.pop()),
            Some(false) => seal.length += 1,
            None => {}
        }
        let at = self.file_of(row.file);
        let merged = at.as_ref().and_then(|(_, file)| file.merged(chunk, &row, made.wanted));
        let before = self.machine.rows.clone();
        let done = self.merge(MergeStep::Exchange { seal });
        assert_eq!(done.is_ok(), lie.is_none() && merged.is_some(), "{row:?}: {done:?}");
        match (done, at, merged) {
            (Ok(_), Some((path, _)), Some(file)) => {
                self.tree.insert(path, Node::File { file: Rc::new(file) });
            }
            _ => assert_eq!(self.machine.rows, before),
        }
    }

    /// The file with a number, and where it is.
    fn file_of(&self, ino: Ino) -> Option<(FsPath, Rc<File>)> {
        self.tree.iter().find_map(|(path, node)| match node {
            Node::File { file } if self.ino(path) == ino => Some((path.clone(), Rc::clone(file))),
            Node::File { .. } | Node::Directory | Node::Link { .. } => None,
        })
    }

    /// What a leader does with merges whose files are gone.
    pub(super) fn clear_merges(&mut self) {
        while let Some((chunk, _)) = self.merging(0) {
            self.merge(MergeStep::GiveUp { chunk }).unwrap();
        }
    }
}
