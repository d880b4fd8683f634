//! Whether some serial order explains a history: each operation takes effect at one moment between its beginning and its
//! end, and the answers are those that one client alone would have got in that order.
//!
//! The search is Wing and Gong's, with the memory that Lowe added to it: it takes one of the operations that may be next,
//! runs it in the model, and goes back if the answer was another one. What was tried is remembered by the operations that
//! are behind it and the tree they made. A question or refusal that fits now is taken at once, because nothing is lost by
//! that: it changes nothing and may be next.
//!
//! An operation whose answer nobody heard may have taken effect at any moment after its beginning, or never.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hasher as _};

use super::model::{Op, Told, Tree};

/// Configurations looked at before the search gives up. Histories of these tests take some thousands.
const BUDGET: usize = 5_000_000;

/// An operation of a history. Times are positions in the order of all beginnings and ends.
#[derive(Debug, Clone)]
pub(crate) struct Record {
    pub(crate) client: usize,
    pub(crate) op: Op,
    pub(crate) begin: u64,
    /// When and what it was told; `None` if it never was.
    pub(crate) told: Option<(u64, Told)>,
}

impl Record {
    fn end(&self) -> u64 {
        self.told.as_ref().map_or(u64::MAX, |(end, _)| *end)
    }
}

/// Why a history is not shown to be serial.
#[derive(Debug)]
pub(crate) enum Doubt {
    /// No order explains it: how far the best one came, and what could not follow.
    NotSerial(String),
    /// The search came to no end. That proves nothing, so it is a failure, too.
    OutOfBudget,
}

/// The operations that are not in the order yet, in the order of their beginnings, as a list from which any can be taken
/// and put back.
struct Left {
    next: Vec<usize>,
    before: Vec<usize>,
}

impl Left {
    /// The list's head comes after all records.
    fn new(count: usize) -> Self {
        Self {
            next: (1..=count).chain([0]).collect(),
            before: [count].into_iter().chain(0..count).collect(),
        }
    }

    fn take(&mut self, at: usize) {
        let (before, next) = (self.before[at], self.next[at]);
        self.next[before] = next;
        self.before[next] = before;
    }

    /// In the reverse order of taking.
    fn put_back(&mut self, at: usize) {
        let (before, next) = (self.before[at], self.next[at]);
        self.next[before] = at;
        self.before[next] = at;
    }

    fn iter(&self) -> impl Iterator<Item = usize> {
        let head = self.next.len() - 1;
        let first = Some(self.next[head]).filter(|at| *at != head);
        std::iter::successors(first, move |at| Some(self.next[*at]).filter(|next| *next != head))
    }
}

/// A step of the order found so far.
struct Step {
    /// The operation taken here; `None` before the first was tried.
    taken: Option<usize>,
    /// Others that may be taken here, the best last.
    others: Vec<usize>,
    /// The tree before.
    tree: Tree,
}

struct Search<'a> {
    history: &'a [Record],
    left: Left,
    /// Operations with an answer that are not in the order yet.
    open: usize,
    /// What stands for the operations in the order, whatever that is.
    mark: u64,
    seen: HashSet<(u64, u64)>,
    /// The longest order found, and the tree after it.
    best: (Vec<usize>, Tree),
}

/// Looks for a serial order.
///
/// # Errors
/// If there is none, or none was found in time.
pub(crate) fn explain(history: &[Record], initial: &Tree) -> Result<(), Doubt> {
    assert!(history.is_sorted_by_key(|record| record.begin), "by their beginnings");
    let mut search = Search {
        left: Left::new(history.len()),
        open: history.iter().filter(|record| record.told.is_some()).count(),
        mark: 0,
        seen: HashSet::new(),
        best: (Vec::new(), initial.clone()),
        history,
    };
    search.run(initial)
}

impl Search<'_> {
    fn run(&mut self, initial: &Tree) -> Result<(), Doubt> {
        let mut steps = vec![self.step(initial.clone())];
        while self.open > 0 {
            let Some(step) = steps.last_mut() else {
                return Err(Doubt::NotSerial(self.describe()));
            };
            if let Some(taken) = step.taken.take() {
                self.undo(taken);
            }
            let Some(at) = step.others.pop() else {
                steps.pop();
                continue;
            };
            let after = self.fits(at, &step.tree).expect("only what fits is kept");
            step.taken = Some(at);
            self.go_on(at);
            if !self.seen.insert((self.mark, hash(&after))) {
                continue;
            }
            if self.seen.len() > BUDGET {
                return Err(Doubt::OutOfBudget);
            }
            if steps.len() > self.best.0.len() {
                let taken = steps.iter().filter_map(|step| step.taken);
                self.best = (taken.collect(), after.clone());
            }
            steps.push(self.step(after));
        }
        Ok(())
    }

    /// What may come next.
    fn step(&self, tree: Tree) -> Step {
        let mut others = Vec::new();
        let mut first_end = u64::MAX;
        for at in self.left.iter() {
            let record = &self.history[at];
            if record.begin > first_end {
                break;
            }
            first_end = first_end.min(record.end());
            others.push(at);
        }
        // It must not begin after another has ended.
        others.retain(|at| self.history[*at].begin < first_end);
        others.retain(|at| self.fits(*at, &tree).is_some());
        let changes_nothing = |at: &&usize| {
            let record = &self.history[**at];
            record.told.is_some() && tree.run(&record.op).1.is_none()
        };
        if let Some(at) = others.iter().find(changes_nothing).copied() {
            others = vec![at];
        }
        // Those that ended first are the likeliest to be next, those that were never answered the least likely.
        others.sort_by_key(|at| std::cmp::Reverse(self.history[*at].end()));
        Step {
            taken: None,
            others,
            tree,
        }
    }

    /// The tree after an operation, if its answer is the one that was given. One without an answer is worth a try only
    /// if it changes something.
    fn fits(&self, at: usize, tree: &Tree) -> Option<Tree> {
        let record = &self.history[at];
        let (told, after) = tree.run(&record.op);
        match &record.told {
            Some((_, expected)) if *expected == told || (*expected == Told::Done && !is_refused(&told)) => {
                Some(after.unwrap_or_else(|| tree.clone()))
            }
            Some(_) => None,
            None => after,
        }
    }

    fn go_on(&mut self, at: usize) {
        self.left.take(at);
        self.open -= usize::from(self.history[at].told.is_some());
        self.mark ^= hash(&at);
    }

    fn undo(&mut self, at: usize) {
        self.left.put_back(at);
        self.open += usize::from(self.history[at].told.is_some());
        self.mark ^= hash(&at);
    }

    fn describe(&self) -> String {
        let (order, tree) = &self.best;
        let taken: HashSet<usize> = order.iter().copied().collect();
        let show = |at: usize| {
            let record = &self.history[at];
            let (op, client, begin) = (&record.op, record.client, record.begin);
            match &record.told {
                Some((end, told)) => format!("  client {client}, {begin} to {end}: {op:?}: {told:?}"),
                None => format!("  client {client}, from {begin} on: {op:?}: never answered"),
            }
        };
        let last = order.iter().rev().take(12).rev().map(|at| show(*at));
        let next = (0..self.history.len()).filter(|at| !taken.contains(at)).take(12);
        let next = next.map(|at| format!("{}\n    alone: {:?}", show(at), tree.run(&self.history[at].op).0));
        format!(
            "{} of {} operations are explained, the last of them\n{}\nthen the names are {tree:?}\nand none of these can follow\n{}",
            order.len(),
            self.history.len(),
            last.collect::<Vec<_>>().join("\n"),
            next.collect::<Vec<_>>().join("\n"),
        )
    }
}

fn is_refused(told: &Told) -> bool {
    matches!(told, Told::Refused(_))
}

fn hash(what: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
