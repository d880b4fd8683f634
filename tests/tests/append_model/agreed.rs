//! What the masters agree on, and what an entry of their log does to it: `master::state`, cut down to one file that is
//! appended to. Sessions, splices and the rows of copies follow the code rule by rule.

use super::words::{Bug, CHUNKS, Chunk, GROUPS, Group, Number, SERVERS, Sequence, Server, WRITERS, Writer, records};

/// A client's command: put this chunk at the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Splice {
    pub(crate) writer: Writer,
    pub(crate) sequence: Sequence,
    pub(crate) chunk: Chunk,
    /// What is in it: stands for its length and CRC.
    pub(crate) group: Group,
    /// The servers that have it, a bit each.
    pub(crate) members: u8,
}

/// A command's stored outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Reply {
    /// The first record lies behind so many.
    At(u8),
    /// The chunk's stock is gone: nothing was done.
    Fenced,
    /// Nothing was done, and nothing will be.
    Refused,
    /// The session's window is past it.
    AnsweredBefore,
}

/// What a chunk is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Phase {
    Open,
    /// For ever: this is in it.
    Sealed(Group),
    /// Given up; tokens for it may still be valid.
    Garbage,
    /// Given up, and nobody may write it any more.
    Expired,
}

/// What the masters know of a copy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Row {
    None,
    Copying(Number),
    Live(Number),
    Dropping(Number),
}

/// A chunk's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ChunkRows {
    pub(crate) phase: Phase,
    pub(crate) copies: [Row; SERVERS],
}

/// The replies of one writer that are still kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Session {
    answered_below: Sequence,
    replies: Vec<(Sequence, Reply)>,
}

/// The state that the log's agreed entries have made.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Agreed {
    pub(crate) chunks: [ChunkRows; CHUNKS],
    /// The file: chunks in order.
    pub(crate) file: Vec<Chunk>,
    sessions: [Session; WRITERS],
}

impl Agreed {
    /// An empty file; every chunk is granted on the servers given, a bit each.
    pub(crate) fn new(granted: [u8; CHUNKS]) -> Self {
        let rows = |servers: u8| ChunkRows {
            phase: Phase::Open,
            copies: std::array::from_fn(|server| match servers & 1 << server {
                0 => Row::None,
                _ => Row::Copying(1),
            }),
        };
        let session = || Session {
            answered_below: 1,
            replies: Vec::new(),
        };
        Self {
            chunks: granted.map(rows),
            file: Vec::new(),
            sessions: std::array::from_fn(|_| session()),
        }
    }

    /// What a chunk of the file holds.
    pub(crate) fn content(&self, chunk: Chunk) -> Option<Group> {
        match self.chunks[chunk as usize].phase {
            Phase::Sealed(group) => Some(group),
            Phase::Open | Phase::Garbage | Phase::Expired => None,
        }
    }

    /// The groups in the file with the offset of each.
    pub(crate) fn groups(&self) -> impl Iterator<Item = (Option<Group>, u8)> + '_ {
        let mut end = 0;
        self.file.iter().map(move |chunk| {
            let content = self.content(*chunk);
            let begin = end;
            end += content.map_or(0, records);
            (content, begin)
        })
    }

    /// Whether the command's outcome is stored or was, so that it has run.
    pub(crate) fn has_run(&self, splice: &Splice) -> bool {
        let session = &self.sessions[splice.writer as usize];
        splice.sequence < session.answered_below || session.replies.iter().any(|(known, _)| *known == splice.sequence)
    }

    /// Whether the session's window is past the command.
    pub(crate) fn is_past(&self, splice: &Splice) -> bool {
        splice.sequence < self.sessions[splice.writer as usize].answered_below
    }

    /// Runs a command once (`sessions::once`): the reply is stored with the effect.
    pub(crate) fn once(&mut self, splice: &Splice, bug: Option<Bug>) -> Reply {
        let session = &self.sessions[splice.writer as usize];
        if bug != Some(Bug::RepliesNotStored) {
            if splice.sequence < session.answered_below {
                return Reply::AnsweredBefore;
            }
            if let Some((_, reply)) = session.replies.iter().find(|(known, _)| *known == splice.sequence) {
                return *reply;
            }
        }
        let reply = self.splice(splice, bug);
        let session = &mut self.sessions[splice.writer as usize];
        // A writer has one command under way: all before it are answered, and it says so.
        session.answered_below = session.answered_below.max(splice.sequence);
        let below = session.answered_below;
        session.replies.retain(|(known, _)| *known >= below);
        session.replies.push((splice.sequence, reply));
        reply
    }

    /// Seals a chunk with the set that is named and puts it at the end (`changes::splice`, `chunks::seal`).
    fn splice(&mut self, splice: &Splice, bug: Option<Bug>) -> Reply {
        let rows = &mut self.chunks[splice.chunk as usize];
        match rows.phase {
            Phase::Open => {}
            Phase::Garbage | Phase::Expired => return Reply::Fenced,
            Phase::Sealed(_) => return Reply::Refused,
        }
        if splice.members.count_ones() < 2 {
            return Reply::Refused;
        }
        rows.phase = Phase::Sealed(splice.group);
        for (server, row) in rows.copies.iter_mut().enumerate() {
            if let Row::Copying(number) = *row {
                let is_member = splice.members & 1 << server != 0 || bug == Some(Bug::SetNotNamed);
                *row = if is_member {
                    Row::Live(number)
                } else {
                    Row::Dropping(number)
                };
            }
        }
        let offset = self.groups().map(|(content, _)| content.map_or(0, records)).sum();
        self.file.push(splice.chunk);
        Reply::At(offset)
    }

    /// Gives chunks up that are still open (`uploads::end`); false if there are none.
    pub(crate) fn end_stock(&mut self, chunks: impl Iterator<Item = Chunk>) -> bool {
        let mut any = false;
        for chunk in chunks {
            let rows = &mut self.chunks[chunk as usize];
            if rows.phase == Phase::Open {
                rows.phase = Phase::Garbage;
                any = true;
            }
        }
        any
    }

    /// The last token for a chunk that was given up has expired (`chunks::drop_garbage`).
    pub(crate) fn expire(&mut self, chunk: Chunk) {
        let rows = &mut self.chunks[chunk as usize];
        rows.phase = Phase::Expired;
        for row in &mut rows.copies {
            if let Row::Copying(number) = *row {
                *row = Row::Dropping(number);
            }
        }
    }

    /// Whether a chunk lacks a copy that this server could have.
    pub(crate) fn wants_copy(&self, chunk: Chunk, server: Server) -> bool {
        let rows = &self.chunks[chunk as usize];
        matches!(rows.phase, Phase::Sealed(_)) && rows.copies[server as usize] == Row::None
    }

    /// Writes what has become of a copy: planned (`repair::add`), made (`repair::made`) or dropped (`chunks::dropped`).
    pub(crate) fn settle(&mut self, chunk: Chunk, server: Server, row: Row) {
        self.chunks[chunk as usize].copies[server as usize] = row;
    }

    /// The servers whose copies count, with their numbers.
    pub(crate) fn live(&self, chunk: Chunk) -> impl Iterator<Item = (Server, Number)> + '_ {
        let copies = self.chunks[chunk as usize].copies.iter();
        (0..).zip(copies).filter_map(|(server, row)| match row {
            Row::Live(number) => Some((server, *number)),
            Row::None | Row::Copying(_) | Row::Dropping(_) => None,
        })
    }

    /// How often each group is in the file.
    pub(crate) fn occurrences(&self) -> [u8; GROUPS] {
        let mut count = [0; GROUPS];
        for (content, _) in self.groups() {
            if let Some(group) = content {
                count[group as usize] += 1;
            }
        }
        count
    }
}
