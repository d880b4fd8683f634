//! The protocol of an append as it is in the code: what writers, chunkservers and masters do with what they hear.

use super::agreed::{Reply, Row, Splice};
use super::words::{
    Append, Bug, CHUNKS, Chunk, Copy, Group, Message, Number, Sequence, Server, ServerState, State, Step, Told, Writer,
};

impl Append {
    pub(crate) fn chain(&self, chunk: Chunk) -> &'static [Server] {
        self.grants[chunk as usize].chain
    }

    pub(crate) fn chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        0..self.grants.len() as u8
    }

    pub(crate) fn of_writer(&self, writer: Writer) -> impl Iterator<Item = Chunk> + '_ {
        self.chunks()
            .filter(move |chunk| self.grants[*chunk as usize].writer == writer)
    }

    /// The writer's next chunk.
    pub(crate) fn next_chunk(&self, state: &State, writer: Writer) -> Option<Chunk> {
        let taken = state.writers[writer as usize].taken;
        self.of_writer(writer).nth(taken as usize)
    }

    /// The writer pushes what it is to append down the next chain it has.
    pub(crate) fn push(&self, state: &mut State, writer: Writer) {
        let next = self.next_chunk(state, writer);
        let doing = &mut state.writers[writer as usize];
        doing.step = Step::Over;
        if doing.ended == self.appends[writer as usize] {
            return;
        }
        let group = writer * 2 + doing.ended;
        match next {
            None => state.told[group as usize] = Told::Failed,
            Some(chunk) => {
                doing.taken += 1;
                doing.step = Step::Putting(chunk);
                state.network.send(Message::Put { chunk, hop: 0, group });
            }
        }
    }

    pub(crate) fn receive(&self, last: &State, message: Message) -> Option<State> {
        match message {
            Message::Put { chunk, hop, group } => self.store(last, chunk, hop, group),
            Message::Stored { chunk, hop: 0 } => self.splice(last, chunk),
            Message::Stored { .. } => None,
            Message::Splice(splice) => self.propose(last, splice),
            Message::Answer {
                writer,
                sequence,
                reply,
            } => self.hear(last, writer, sequence, reply),
            Message::Drop {
                chunk,
                server,
                number,
                term,
            } => self.drop_copy(last, chunk, server, number, term),
            Message::Copy {
                chunk,
                server,
                number,
                term,
            } => self.copy(last, chunk, server, number, term),
            Message::Dropped { chunk, server, number } => {
                let row = last.agreed.chunks[chunk as usize].copies[server as usize];
                (row == Row::Dropping(number)).then(|| {
                    let mut next = last.clone();
                    next.agreed.settle(chunk, server, Row::None);
                    next
                })
            }
            Message::Copied { chunk, server, number } => {
                let row = last.agreed.chunks[chunk as usize].copies[server as usize];
                (row == Row::Copying(number)).then(|| {
                    let mut next = last.clone();
                    next.agreed.settle(chunk, server, Row::Live(number));
                    next
                })
            }
        }
    }

    /// A server is asked to store a chunk (`pipeline::small`, `Store::put_small`).
    fn store(&self, last: &State, chunk: Chunk, hop: u8, group: Group) -> Option<State> {
        let chain = self.chain(chunk);
        let (at, server) = (chunk as usize, chain[hop as usize]);
        let here = &last.servers[server as usize];
        let is_new = match here.copies[at] {
            None => true,
            // The same again is fine, another copy is not.
            Some(copy) if copy.number == 1 => false,
            Some(_) => return None,
        };
        // Refused, or under way; and asking again for what was answered adds nothing. That a token may have expired is
        // not looked at: nothing here rests on it.
        let answered = !is_new && last.network.has(&Message::Stored { chunk, hop });
        if here.dropped[at] || here.asked[at] || answered {
            return None;
        }
        let mut next = last.clone();
        let mut copy = Copy {
            number: 1,
            group: Some(group),
            synced: false,
        };
        if self.whole_puts {
            copy.synced = true;
            for server in chain {
                next.servers[*server as usize].copies[at] = Some(copy);
            }
            next.network.send(Message::Stored { chunk, hop });
            return Some(next);
        }
        let here = &mut next.servers[server as usize];
        if is_new {
            here.copies[at] = Some(copy);
        }
        here.asked[at] = true;
        if usize::from(hop) + 1 < chain.len() {
            let hop = hop + 1;
            next.network.send(Message::Put { chunk, hop, group });
        }
        Some(next)
    }

    pub(crate) fn may_acknowledge(&self, state: &State, chunk: Chunk, hop: u8) -> bool {
        let chain = self.chain(chunk);
        let here = &state.servers[chain[hop as usize] as usize];
        let synced = match here.copies[chunk as usize] {
            Some(copy) => copy.synced || self.bug == Some(Bug::AckBeforeSync),
            None => false,
        };
        let is_last = usize::from(hop) + 1 == chain.len();
        let below = is_last
            || self.bug == Some(Bug::HeadSpeaksForItself)
            || state.network.has(&Message::Stored { chunk, hop: hop + 1 });
        here.asked[chunk as usize] && synced && below
    }

    /// The head's answer came: the masters are told, with the servers that were pushed to.
    fn splice(&self, last: &State, chunk: Chunk) -> Option<State> {
        let writer = self.grants[chunk as usize].writer;
        let doing = last.writers[writer as usize];
        if doing.step != Step::Putting(chunk) {
            return None;
        }
        let splice = Splice {
            writer,
            sequence: doing.sequence + 1,
            chunk,
            group: writer * 2 + doing.ended,
            members: self.grants[chunk as usize].members(),
        };
        let mut next = last.clone();
        let doing = &mut next.writers[writer as usize];
        doing.sequence = splice.sequence;
        doing.step = Step::Splicing(splice);
        next.network.send(Message::Splice(splice));
        Some(next)
    }

    /// The leader logs a command. It may have done so before: the client asks whoever it takes for the leader, again
    /// and again.
    fn propose(&self, last: &State, splice: Splice) -> Option<State> {
        let is_known = last.pending.contains(&splice) || last.agreed.has_run(&splice);
        if is_known && last.left.duplicates == 0 {
            return None;
        }
        let mut next = last.clone();
        next.left.duplicates -= u8::from(is_known);
        next.pending.push(splice);
        if self.bug == Some(Bug::AnswerBeforeAgreed) {
            let mut foreseen = next.agreed.clone();
            let replies = next.pending.iter().map(|splice| foreseen.once(splice, None));
            if let Some(reply) = replies.last() {
                next.network.send(answer(&splice, reply));
            }
        }
        Some(next)
    }

    /// A writer hears what became of its command.
    fn hear(&self, last: &State, writer: Writer, sequence: Sequence, reply: Reply) -> Option<State> {
        let Step::Splicing(splice) = last.writers[writer as usize].step else {
            return None;
        };
        if splice.sequence != sequence {
            return None;
        }
        let mut next = last.clone();
        let told = match reply {
            Reply::At(offset) => Told::At(offset),
            // Nothing was done and the bytes are still here: again, as another command with another chunk.
            Reply::Fenced => {
                self.push(&mut next, writer);
                return Some(next);
            }
            Reply::Refused | Reply::AnsweredBefore => Told::Failed,
        };
        next.told[splice.group as usize] = told;
        next.writers[writer as usize].ended += 1;
        self.push(&mut next, writer);
        Some(next)
    }

    /// Whether a server obeys orders of a term; a higher one than ever is on its disk first (`Masters::accept`).
    fn accepts(here: &mut ServerState, term: u8) -> bool {
        let accepts = term >= here.term;
        here.term = here.term.max(term);
        accepts
    }

    /// A server is ordered to drop a copy (`disk::removal`).
    fn drop_copy(&self, last: &State, chunk: Chunk, server: Server, number: Number, term: u8) -> Option<State> {
        let mut next = last.clone();
        let here = &mut next.servers[server as usize];
        if !Self::accepts(here, term) {
            return None;
        }
        let at = chunk as usize;
        here.dropped[at] |= number == 1;
        let is_there = here.copies[at].is_some_and(|copy| copy.number == number);
        if is_there || (self.bug == Some(Bug::DropWithoutNumber)) {
            here.copies[at] = None;
            here.asked[at] = false;
        }
        // Also of a copy that was never here.
        next.network.send(Message::Dropped { chunk, server, number });
        (next != *last).then_some(next)
    }

    /// A server is ordered to make a copy: it verifies what a source gives (`repair::pull`).
    fn copy(&self, last: &State, chunk: Chunk, server: Server, number: Number, term: u8) -> Option<State> {
        let (at, group) = (chunk as usize, last.agreed.content(chunk)?);
        let given = |(source, number): (Server, Number)| {
            let copy = last.servers[source as usize].copies[at];
            copy.is_some_and(|copy| copy.number == number && copy.group == Some(group))
        };
        let ordered = last.agreed.chunks[at].copies[server as usize] == Row::Copying(number);
        let here = &last.servers[server as usize];
        if !ordered || here.copies[at].is_some() || !last.agreed.live(chunk).any(given) {
            return None;
        }
        let mut next = last.clone();
        let here = &mut next.servers[server as usize];
        if !Self::accepts(here, term) {
            return None;
        }
        here.copies[at] = Some(Copy {
            number,
            group: Some(group),
            synced: false,
        });
        Some(next)
    }

    /// What a leader tells a server of a row, again and again while it stands.
    pub(crate) fn order(&self, last: &State, chunk: Chunk, server: Server) -> Option<State> {
        let term = last.term;
        let order = match last.agreed.chunks[chunk as usize].copies[server as usize] {
            Row::Dropping(number) => Message::Drop {
                chunk,
                server,
                number,
                term,
            },
            Row::Copying(number) if last.agreed.content(chunk).is_some() => Message::Copy {
                chunk,
                server,
                number,
                term,
            },
            Row::None | Row::Copying(_) | Row::Live(_) => return None,
        };
        sends(last, order)
    }

    pub(crate) fn report(&self, last: &State, chunk: Chunk, server: Server) -> Option<State> {
        let copy = last.servers[server as usize].copies[chunk as usize]?;
        let is_done = copy.number > 1 && (copy.synced || self.bug == Some(Bug::CopyBeforeSync));
        let number = copy.number;
        is_done.then(|| sends(last, Message::Copied { chunk, server, number }))?
    }

    /// A reader takes the file's chunks from the copies that count, one server's if that has a good one.
    pub(crate) fn read(&self, last: &State, preferred: Server) -> State {
        let mut next = last.clone();
        next.left.reads -= 1;
        let mut passed = false;
        let read = |chunk: &Chunk| {
            let agreed = last.agreed.content(*chunk);
            let copies = || last.agreed.live(*chunk).map(|(server, _)| server);
            let first = copies().find(|server| *server == preferred);
            let given = |server: Server| last.servers[server as usize].copies[*chunk as usize].map(|copy| copy.group);
            let mut given = first.into_iter().chain(copies()).filter_map(given);
            if self.bug == Some(Bug::UnverifiedRead) {
                return given.next().flatten();
            }
            let is_right = |group: &Option<Group>| {
                passed |= *group != agreed;
                *group == agreed
            };
            given.find(is_right).flatten()
        };
        next.seen = last.agreed.file.iter().map(read).collect();
        next.rot_passed |= passed;
        next
    }

    pub(crate) fn crash(last: &State, server: Server, keeps: bool) -> State {
        let mut next = last.clone();
        next.left.crashes -= 1;
        let here = &mut next.servers[server as usize];
        for copy in &mut here.copies {
            match copy {
                Some(unsynced) if !unsynced.synced && keeps => unsynced.synced = true,
                Some(unsynced) if !unsynced.synced => {
                    *copy = None;
                    next.bytes_lost = true;
                }
                _ => {}
            }
        }
        here.asked = [false; CHUNKS];
        here.dropped = [false; CHUNKS];
        next
    }

    /// The next entry is agreed on.
    pub(crate) fn agree(&self, last: &State) -> State {
        let mut next = last.clone();
        let splice = next.pending.remove(0);
        let reply = next.agreed.once(&splice, self.bug);
        next.network.send(answer(&splice, reply));
        next
    }
}

fn answer(splice: &Splice, reply: Reply) -> Message {
    Message::Answer {
        writer: splice.writer,
        sequence: splice.sequence,
        reply,
    }
}

fn sends(last: &State, message: Message) -> Option<State> {
    if last.network.has(&message) {
        return None;
    }
    let mut next = last.clone();
    next.network.send(message);
    Some(next)
}
