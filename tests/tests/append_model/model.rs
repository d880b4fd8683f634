//! The protocol as stateright explores it: which steps a state allows, and where each leads.
//!
//! Messages never leave the network: each may arrive at any time, again and again, or never. So delay, reordering,
//! duplicates and loss need no actions of their own; a message that would change nothing is no step.

use stateright::{Model, Property};

use super::agreed::{Agreed, Phase, Row};
use super::properties;
use super::words::{
    Action, Append, Bug, CHUNKS, GROUPS, Message, Network, SERVERS, ServerState, State, Step, Told, WRITERS,
    WriterState,
};

impl Append {
    /// What breaks, within the budget; and what masters do in the background.
    fn faults(&self, state: &State, actions: &mut Vec<Action>) {
        let left = state.left;
        for writer in 0..WRITERS as u8 {
            let doing = &state.writers[writer as usize];
            let has_more = self.next_chunk(state, writer).is_some();
            match doing.step {
                Step::Putting(_) if has_more && left.given_up > 0 => actions.push(Action::GiveUp(writer)),
                Step::Splicing(_) if has_more && self.bug == Some(Bug::AnotherCommandAfterSilence) => {
                    actions.push(Action::Silence(writer));
                }
                _ => {}
            }
            if left.stocks_ended > 0 {
                actions.push(Action::EndStock(writer));
            }
        }
        for server in 0..SERVERS as u8 {
            let here = &state.servers[server as usize];
            let unsynced = here.copies.iter().flatten().any(|copy| !copy.synced);
            if left.crashes > 0 {
                if unsynced {
                    actions.push(Action::Crash { server, keeps: true });
                }
                if unsynced || here.asked.contains(&true) || here.dropped.contains(&true) {
                    actions.push(Action::Crash { server, keeps: false });
                }
            }
            for chunk in self.chunks() {
                let counts = state.agreed.live(chunk).any(|(live, _)| live == server);
                if left.rotten > 0 && counts {
                    actions.push(Action::Rot { chunk, server });
                }
                if left.repairs > 0 && state.agreed.wants_copy(chunk, server) {
                    actions.push(Action::Repair { chunk, server });
                }
            }
        }
        if left.elections > 0 {
            for kept in 0..=state.pending.len() as u8 {
                actions.push(Action::Elect { kept });
            }
        }
        for chunk in self.chunks() {
            if state.agreed.chunks[chunk as usize].phase == Phase::Garbage {
                actions.push(Action::Expire(chunk));
            }
        }
    }
}

impl Model for Append {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut granted = [0; CHUNKS];
        for (servers, grant) in granted.iter_mut().zip(&self.grants) {
            *servers = if grant.on_all {
                (1 << SERVERS) - 1
            } else {
                grant.members()
            };
        }
        let writer = WriterState {
            step: Step::Over,
            ended: 0,
            taken: 0,
            sequence: 0,
        };
        let mut state = State {
            writers: [writer; WRITERS],
            told: [Told::Nothing; GROUPS],
            servers: [ServerState::default(); SERVERS],
            agreed: Agreed::new(granted),
            term: 1,
            pending: Vec::new(),
            lost: 0,
            kept: 0,
            network: Network::default(),
            seen: Vec::new(),
            rot_passed: false,
            bytes_lost: false,
            left: self.budget,
        };
        (0..WRITERS as u8).for_each(|writer| self.push(&mut state, writer));
        vec![state]
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        actions.extend(state.network.iter().copied().map(Action::Receive));
        for server in 0..SERVERS as u8 {
            let copies = &state.servers[server as usize].copies;
            if copies.iter().flatten().any(|copy| !copy.synced) {
                actions.push(Action::Sync(server));
            }
            for chunk in self.chunks() {
                actions.push(Action::Order { chunk, server });
                actions.push(Action::Report { chunk, server });
            }
            if state.left.reads > 0 {
                actions.push(Action::Read { preferred: server });
            }
        }
        for chunk in self.chunks() {
            for hop in 0..self.chain(chunk).len() as u8 {
                if self.may_acknowledge(state, chunk, hop) {
                    actions.push(Action::Acknowledge { chunk, hop });
                }
            }
        }
        if !state.pending.is_empty() {
            actions.push(Action::Agree);
        }
        self.faults(state, actions);
        // The checker's random walks take every step that is offered for one that leads somewhere.
        actions.retain(|action| self.next_state(state, *action).is_some());
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let changed = |change: &dyn Fn(&mut State)| {
            let mut next = last.clone();
            change(&mut next);
            Some(next)
        };
        match action {
            Action::Receive(message) => self.receive(last, message),
            Action::Sync(server) => changed(&|next| {
                let copies = &mut next.servers[server as usize].copies;
                copies.iter_mut().flatten().for_each(|copy| copy.synced = true);
            }),
            Action::Acknowledge { chunk, hop } => changed(&|next| {
                let server = self.chain(chunk)[hop as usize];
                next.servers[server as usize].asked[chunk as usize] = false;
                next.network.send(Message::Stored { chunk, hop });
            }),
            Action::Agree => Some(self.agree(last)),
            Action::Order { chunk, server } => self.order(last, chunk, server),
            Action::Report { chunk, server } => self.report(last, chunk, server),
            Action::Read { preferred } => Some(self.read(last, preferred)),
            Action::GiveUp(writer) => changed(&|next| {
                next.left.given_up -= 1;
                self.push(next, writer);
            }),
            Action::Silence(writer) => changed(&|next| self.push(next, writer)),
            Action::Crash { server, keeps } => Some(Self::crash(last, server, keeps)),
            Action::Elect { kept } => changed(&|next| {
                next.left.elections -= 1;
                next.term += 1;
                next.kept = kept;
                next.lost = next.pending.len() as u8 - kept;
                next.pending.truncate(kept.into());
            }),
            Action::EndStock(writer) => {
                let mut next = last.clone();
                next.left.stocks_ended -= 1;
                // The stock that its next chunks are from is another one.
                let taken = last.writers[writer as usize].taken;
                let granted = self.of_writer(writer).take(taken.into());
                next.agreed.end_stock(granted).then_some(next)
            }
            Action::Expire(chunk) => changed(&|next| next.agreed.expire(chunk)),
            Action::Repair { chunk, server } => changed(&|next| {
                next.left.repairs -= 1;
                next.agreed.settle(chunk, server, Row::Copying(2));
            }),
            Action::Rot { chunk, server } => changed(&|next| {
                next.left.rotten -= 1;
                if let Some(copy) = &mut next.servers[server as usize].copies[chunk as usize] {
                    copy.group = None;
                }
            }),
        }
    }
}
