//! Decides what a disk's scrub reads next, and when. Pure: time is an argument, chunks are seen only as they are read.
//!
//! A *regular* pass lasts nine tenths of a period; the rest is for being late. Its cursor goes through the chunks in the
//! order of ids at an even pace and reaches the end when eight tenths are over; then it waits there and reads what comes,
//! until the next pass begins. New chunks have the highest ids, so the pass meets them at its end; a copy that arrives
//! below the cursor is met by the next pass, at most a period later. So no copy goes unread for longer than a period, if
//! the rate allowed is enough for the bytes there are.
//!
//! A pass that an operator *asked* for reads at the rate allowed, up to the chunk that was the last when it began, and a
//! regular pass begins after it.
//!
//! Invariants: a chunk that is there from the begin of a pass to its end is read once in it, and again only if the
//! process ended after reading and before saving; in any span of time no more is read than the rate allows for it, plus
//! one chunk.

use gabion_protocol::{ChunkId, StateTime};

use super::mark::{Kind, Last, Mark};

/// A regular pass lasts so many tenths of the period.
const PASS_TENTHS: u64 = 9;
/// Its cursor is at the end after so many tenths of the period.
const SPREAD_TENTHS: u64 = 8;
/// Between two saves of the cursor, while it moves.
const SAVE_MS: u64 = 5_000;
/// Longest wait: what is stored, and with it the pace, may change meanwhile.
const WAIT_MS_MAX: u64 = 60_000;
/// Longest time that reading gives way to foreground work before each [`STEP_BYTES`].
const PATIENCE_MS_MAX: u64 = 1_000;
/// Bytes read between two looks at foreground work.
pub(crate) const STEP_BYTES: u64 = 1 << 20;

/// How fast.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Milliseconds within which every copy is read.
    pub(crate) period_ms: u64,
    /// Bytes per second that are never exceeded.
    pub(crate) rate_max: u64,
}

/// What to do now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// Make the mark durable, then ask again.
    Save,
    /// Read the first sealed chunk after `after`, up to `until`; then [`Pass::read`], or [`Pass::at_end`].
    Read {
        after: Option<ChunkId>,
        until: Option<ChunkId>,
    },
    /// Ask again after so many milliseconds, or when an operator asks for a pass.
    Wait { ms: u64 },
}

/// A disk's scrub.
#[derive(Debug, Clone)]
pub(crate) struct Pass {
    limits: Limits,
    mark: Mark,
    /// Thousandths of bytes read ahead of this pass's pace.
    ahead: u64,
    /// Thousandths of bytes read ahead of the rate allowed, whatever the pass.
    debt: u64,
    /// Until when both are worked off.
    paid: Option<StateTime>,
    /// When the mark was saved last, in this run.
    saved: Option<StateTime>,
    /// The mark says something that must be durable before anything else happens.
    must_save: bool,
    dirty: bool,
    /// The end was seen, and nothing is looked for before then.
    look_at: Option<StateTime>,
}

impl Pass {
    /// Goes on where the disk's mark says.
    pub(crate) fn new(mark: Option<Mark>, limits: Limits) -> Self {
        Self {
            limits,
            mark: mark.unwrap_or_default(),
            ahead: 0,
            debt: 0,
            paid: None,
            saved: None,
            must_save: false,
            dirty: false,
            look_at: None,
        }
    }

    /// What is to be durable, and what there is to be told.
    pub(crate) fn mark(&self) -> &Mark {
        &self.mark
    }

    /// The mark, as it was given out, is durable.
    pub(crate) fn saved(&mut self, now: StateTime) {
        self.saved = Some(now);
        self.must_save = false;
        self.dirty = false;
    }

    /// An operator asks for a pass, perhaps again. `last` is the last chunk on the disk.
    pub(crate) fn ask(&mut self, request: u64, last: Option<ChunkId>, now: StateTime) {
        if request == 0 || request == self.mark.asked {
            return;
        }
        self.mark.asked = request;
        self.begin(Kind::Asked, now);
        self.mark.until = last;
        // A disk without chunks is read at once.
        if last.is_none() {
            self.complete(now);
        }
    }

    /// What to do now, with so many bytes stored on the disk.
    pub(crate) fn next(&mut self, now: StateTime, stored: u64) -> Step {
        match self.mark.started {
            None => self.begin(Kind::Regular, now),
            // State time goes back only if masters were restored.
            Some(started) if started > now => self.mark.started = Some(now),
            Some(started) => {
                let over = now.0 - started.0 >= self.limits.period_ms / 10 * PASS_TENTHS;
                if over && self.mark.kind == Kind::Regular && self.mark.ended {
                    self.begin(Kind::Regular, now);
                }
            }
        }
        let since_saved = self.saved.map_or(0, |saved| now.0.saturating_sub(saved.0));
        if self.must_save || self.dirty && since_saved >= SAVE_MS {
            return Step::Save;
        }
        self.saved.get_or_insert(now);
        let rate = self.rate(now, stored);
        self.pay(rate, now);
        if self.ahead > 0 || self.debt > 0 {
            let most = self.ahead.div_ceil(rate).max(self.debt.div_ceil(self.limits.rate_max));
            return self.wait(most);
        }
        if let Some(at) = self.look_at.filter(|at| *at > now) {
            return self.wait(at.0 - now.0);
        }
        Step::Read {
            after: self.mark.after,
            until: self.mark.until,
        }
    }

    /// `chunk` was looked at: so many bytes of it were read, 0 if it is not to be read.
    pub(crate) fn read(&mut self, chunk: ChunkId, bytes: u64, damaged: bool) {
        self.mark.after = Some(chunk);
        self.mark.bytes = self.mark.bytes.saturating_add(bytes);
        self.mark.chunks += u64::from(bytes > 0 || damaged);
        self.mark.damaged += u64::from(damaged);
        let thousandths = bytes.saturating_mul(1000);
        self.ahead = self.ahead.saturating_add(thousandths);
        self.debt = self.debt.saturating_add(thousandths);
        self.dirty = true;
        self.look_at = None;
    }

    /// There is no chunk after the cursor.
    pub(crate) fn at_end(&mut self, now: StateTime) {
        if self.mark.kind == Kind::Asked || !self.mark.ended {
            self.complete(now);
        }
        let pause = (self.limits.period_ms / 100).clamp(100, WAIT_MS_MAX);
        self.look_at = Some(now.plus(pause));
    }

    /// How long reading gives way to foreground work before the next [`STEP_BYTES`]: not at all a matter of the pace as
    /// long as the pass is in time, but a disk that is never idle is scrubbed, too.
    pub(crate) fn patience_ms(&self, now: StateTime, stored: u64) -> u64 {
        match self.mark.kind {
            Kind::Asked => PATIENCE_MS_MAX,
            Kind::Regular => (STEP_BYTES * 1000 / self.rate(now, stored)).min(PATIENCE_MS_MAX),
        }
    }

    fn begin(&mut self, kind: Kind, now: StateTime) {
        self.mark = Mark {
            kind,
            started: Some(now),
            asked: self.mark.asked,
            last: self.mark.last,
            ..Mark::default()
        };
        self.ahead = 0;
        self.look_at = None;
        self.must_save = true;
    }

    fn complete(&mut self, now: StateTime) {
        let Mark {
            started,
            bytes,
            chunks,
            damaged,
            ..
        } = self.mark;
        self.mark.last = Some(Last {
            started: started.unwrap_or(now),
            ended: now,
            bytes,
            chunks,
            damaged,
        });
        self.mark.ended = true;
        self.must_save = true;
        if self.mark.kind == Kind::Asked {
            self.begin(Kind::Regular, now);
        }
    }

    /// Bytes per second, at least 1.
    fn rate(&self, now: StateTime, stored: u64) -> u64 {
        if self.mark.kind == Kind::Asked {
            return self.limits.rate_max;
        }
        let spread = self.limits.period_ms / 10 * SPREAD_TENTHS;
        let began = self.mark.started.unwrap_or(now);
        let left = (began.0.saturating_add(spread)).saturating_sub(now.0);
        if left == 0 {
            return self.limits.rate_max;
        }
        let over = |bytes: u64, ms: u64| u64::try_from(u128::from(bytes) * 1000 / u128::from(ms)).unwrap_or(u64::MAX);
        // What is left is not known exactly: chunks already read may have gone since. The even pace is the least.
        let even = over(stored, spread.max(1));
        let needed = over(stored.saturating_sub(self.mark.bytes), left);
        even.max(needed).clamp(1, self.limits.rate_max)
    }

    fn pay(&mut self, rate: u64, now: StateTime) {
        let since = self.paid.map_or(0, |paid| now.0.saturating_sub(paid.0));
        self.ahead = self.ahead.saturating_sub(rate.saturating_mul(since));
        self.debt = self.debt.saturating_sub(self.limits.rate_max.saturating_mul(since));
        self.paid = Some(now);
    }

    /// Waits, but not beyond the next save.
    fn wait(&self, ms: u64) -> Step {
        let longest = if self.dirty { SAVE_MS } else { WAIT_MS_MAX };
        Step::Wait {
            ms: ms.clamp(1, longest),
        }
    }
}

#[cfg(test)]
mod tests;
