//! What there is in the model: who takes part, what travels, what each remembers, and what can happen.

use super::agreed::{Agreed, Reply, Splice};

pub(crate) const WRITERS: usize = 2;
pub(crate) const SERVERS: usize = 3;
/// Chunks of one model at most.
pub(crate) const CHUNKS: usize = 5;
/// Two appends of each writer.
pub(crate) const GROUPS: usize = 2 * WRITERS;

pub(crate) type Writer = u8;
pub(crate) type Server = u8;
pub(crate) type Chunk = u8;
/// The records of one append: gathered ones go through all of it in one piece.
pub(crate) type Group = u8;
/// Tells one copy of a chunk on a server from another one later.
pub(crate) type Number = u8;
pub(crate) type Sequence = u8;

/// Records of a group: the first writer's first append is of two writers in one process.
pub(crate) fn records(group: Group) -> u8 {
    if group == 0 { 2 } else { 1 }
}

/// A rule broken on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Bug {
    /// A server answers for bytes that a crash would take.
    AckBeforeSync,
    /// The head answers for itself alone.
    HeadSpeaksForItself,
    /// The masters count every copy they granted, not those the writer names.
    SetNotNamed,
    /// A command that comes again runs again.
    RepliesNotStored,
    /// The leader answers what no majority has.
    AnswerBeforeAgreed,
    /// A client that hears nothing sends its records as another command.
    AnotherCommandAfterSilence,
    /// An order to drop a copy drops whichever is there.
    DropWithoutNumber,
    /// A background copy is reported before it is synced.
    CopyBeforeSync,
    /// A reader takes what a server gives.
    UnverifiedRead,
}

/// A chunk that a writer is granted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Grant {
    pub(crate) writer: Writer,
    /// Servers it is pushed to, in order.
    pub(crate) chain: &'static [Server],
    /// Whether all servers have a row for it, so that those that failed the writer lately are left out of its chain.
    pub(crate) on_all: bool,
}

/// Faults that may still happen, and what else is bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Budget {
    /// Servers that crash and begin again at once.
    pub(crate) crashes: u8,
    /// Leaders that are replaced.
    pub(crate) elections: u8,
    /// Chains that a writer gives up, rightly or not.
    pub(crate) given_up: u8,
    /// Commands that a leader logs though it knows them already.
    pub(crate) duplicates: u8,
    /// Stocks that end before their writer.
    pub(crate) stocks_ended: u8,
    /// Copies that rot on their disks.
    pub(crate) rotten: u8,
    /// Copies made in the background.
    pub(crate) repairs: u8,
    /// Looks of a reader.
    pub(crate) reads: u8,
}

/// What is explored.
#[derive(Debug, Clone)]
pub(crate) struct Append {
    pub(crate) grants: Vec<Grant>,
    /// Appends of each writer, one after the other.
    pub(crate) appends: [u8; WRITERS],
    /// A chunk comes to lie on its whole chain in one step: where chains are not what is looked at.
    pub(crate) whole_puts: bool,
    pub(crate) budget: Budget,
    pub(crate) bug: Option<Bug>,
}

/// What travels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Message {
    /// To the chain's `hop`-th server: store this chunk.
    Put { chunk: Chunk, hop: u8, group: Group },
    /// From it: it is on the disks of this server and of all after it.
    Stored { chunk: Chunk, hop: u8 },
    /// To whoever leads.
    Splice(Splice),
    /// To a writer.
    Answer {
        writer: Writer,
        sequence: Sequence,
        reply: Reply,
    },
    /// To a server, from the leader of a term.
    Drop {
        chunk: Chunk,
        server: Server,
        number: Number,
        term: u8,
    },
    /// To whoever leads.
    Dropped {
        chunk: Chunk,
        server: Server,
        number: Number,
    },
    /// To a server, from the leader of a term.
    Copy {
        chunk: Chunk,
        server: Server,
        number: Number,
        term: u8,
    },
    /// To whoever leads.
    Copied {
        chunk: Chunk,
        server: Server,
        number: Number,
    },
}

impl Grant {
    /// The servers it is pushed to, a bit each.
    pub(crate) fn members(&self) -> u8 {
        self.chain.iter().fold(0, |members, server| members | 1 << server)
    }
}

/// All that was ever sent, in order of kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub(crate) struct Network(Vec<Message>);

impl Network {
    pub(crate) fn send(&mut self, message: Message) {
        if let Err(at) = self.0.binary_search(&message) {
            self.0.insert(at, message);
        }
    }

    pub(crate) fn has(&self, message: &Message) -> bool {
        self.0.binary_search(message).is_ok()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Message> {
        self.0.iter()
    }
}

/// What a writer does now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Putting(Chunk),
    Splicing(Splice),
    Over,
}

/// What a program was told of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Told {
    Nothing,
    At(u8),
    /// It is not there, and will not be.
    Failed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct WriterState {
    pub(crate) step: Step,
    /// Appends that have ended.
    pub(crate) ended: u8,
    /// Chunks taken.
    pub(crate) taken: u8,
    pub(crate) sequence: Sequence,
}

/// A copy on a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Copy {
    pub(crate) number: Number,
    /// What is in it; `None` if it has rotted.
    pub(crate) group: Option<Group>,
    pub(crate) synced: bool,
}

/// A chunkserver. What a crash takes: copies not synced, requests under way, and which drops it remembers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct ServerState {
    pub(crate) copies: [Option<Copy>; CHUNKS],
    /// Chunks it was asked to store and has not answered for.
    pub(crate) asked: [bool; CHUNKS],
    /// Chunks whose first copy it was ordered to drop.
    pub(crate) dropped: [bool; CHUNKS],
    /// The highest term whose orders it has obeyed: on disk.
    pub(crate) term: u8,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    pub(crate) writers: [WriterState; WRITERS],
    pub(crate) told: [Told; GROUPS],
    pub(crate) servers: [ServerState; SERVERS],
    pub(crate) agreed: Agreed,
    pub(crate) term: u8,
    /// The leader's entries that no majority has yet.
    pub(crate) pending: Vec<Splice>,
    /// Entries that an election lost, and kept.
    pub(crate) lost: u8,
    pub(crate) kept: u8,
    pub(crate) network: Network,
    /// What a reader saw last.
    pub(crate) seen: Vec<Option<Group>>,
    /// A reader has passed bytes that were not the chunk's.
    pub(crate) rot_passed: bool,
    /// A crash has taken bytes.
    pub(crate) bytes_lost: bool,
    pub(crate) left: Budget,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Receive(Message),
    /// One sync of the index, for all that was written.
    Sync(Server),
    /// A server says that a chunk is on disks from it on.
    Acknowledge {
        chunk: Chunk,
        hop: u8,
    },
    /// A majority has the next entry: it is applied and answered.
    Agree,
    /// A leader tells a server of a row.
    Order {
        chunk: Chunk,
        server: Server,
    },
    /// A server tells of a background copy.
    Report {
        chunk: Chunk,
        server: Server,
    },
    Read {
        preferred: Server,
    },
    GiveUp(Writer),
    /// A client loses patience with the masters.
    Silence(Writer),
    Crash {
        server: Server,
        keeps: bool,
    },
    /// Another leader, whose log has so many of the entries not agreed.
    Elect {
        kept: u8,
    },
    EndStock(Writer),
    Expire(Chunk),
    Repair {
        chunk: Chunk,
        server: Server,
    },
    Rot {
        chunk: Chunk,
        server: Server,
    },
}
