//! The planner with the real state machine and a simulated fleet: servers die, come back, fail and damage copies,
//! leaders change, and in the end every chunk that has a good copy left has as many as it wants.

use gabion_protocol::ids::{Generation, Ino};
use gabion_protocol::messages::master::{ConditionChange, Damage, UploadOptions};
use proptest::prelude::*;

use super::*;
use crate::plan::search::{Hints, Search, chunk_view};
use crate::state::tests::{Client, Machine, chain, options, path};
use crate::state::{ClientCommand, Command, Outcome, conditions, read, repair as copies};

const CHUNK: u64 = 10;
const POLICY: Policy = Policy {
    suspect: Duration::from_secs(2),
    urgent: Duration::from_secs(5),
    budget: Budget {
        source: 3 * COPY_BYTES_MIN,
        target: 2 * COPY_BYTES_MIN,
        cluster: 5 * COPY_BYTES_MIN,
    },
    moves: true,
};

fn server(number: u32) -> Server {
    Server {
        candidate: Candidate {
            server: ServerId(number),
            name: format!("c{number}"),
            rack: ["a", "b"][number as usize % 2].to_owned(),
            bytes_free: 1 << 40,
            streams: 0,
            health: Health::Alive,
            disks_ok: 1,
            retired: false,
            condition: Condition::InService,
        },
        health: Health::Alive,
        silent: Duration::ZERO,
        steady: Duration::from_secs(60),
        flapping: false,
    }
}

/// A server silent for so many seconds.
fn silent(number: u32, seconds: u64) -> Server {
    let mut server = server(number);
    server.silent = Duration::from_secs(seconds);
    server.health = match seconds {
        0..2 => Health::Alive,
        2..15 => Health::Suspect,
        _ => Health::Lost,
    };
    server.candidate.health = server.health;
    server
}

fn view(wanted: u8, replicas: &[(u32, ReplicaState)]) -> ChunkView {
    let mut number = 0;
    let replicas = replicas.iter().map(|(server, state)| {
        number += 1;
        Replica {
            server: ServerId(*server),
            number: ReplicaNumber(number),
            state: *state,
        }
    });
    ChunkView {
        id: ChunkId::from_bytes([1; 14]),
        chunk: Chunk {
            phase: Phase::Sealed,
            generation: Generation(1),
            length: CHUNK,
            crc: 0,
            references: 1,
            wanted,
            owner: Ino(2),
            replicas: replicas.collect(),
        },
        damaged: BTreeSet::new(),
        reported: BTreeSet::new(),
        leaving: BTreeSet::new(),
        moving: None,
    }
}

use ReplicaState::{Copying, Dropping, Live};

fn planned(servers: Vec<Server>, view: &ChunkView) -> Plan {
    let fleet = Fleet::new(servers, POLICY);
    plan(&fleet, std::slice::from_ref(view), &Progress::default(), 7)
}

#[test]
fn the_last_copy_waits_five_seconds_and_others_until_servers_are_lost() {
    let three = view(3, &[(1, Live), (2, Live), (3, Live)]);
    let two_gone = |seconds| {
        planned(
            vec![server(1), silent(2, seconds), silent(3, seconds), server(4)],
            &three,
        )
    };
    assert!(two_gone(6).is_empty());
    assert_eq!(two_gone(7).adds[0].targets, chain(&[4]), "one copy is left");
    let one_gone = |seconds| planned(vec![server(1), server(2), silent(3, seconds), server(4)], &three);
    assert!(one_gone(14).is_empty(), "two are left, and the third may come back");
    assert_eq!(one_gone(15).adds[0].targets, chain(&[4]));
    // No copy can be read: nothing can be copied, and nothing is dropped.
    let all_gone = planned(vec![silent(1, 60), silent(2, 60), silent(3, 60), server(4)], &three);
    assert!(all_gone.is_empty());
}

#[test]
fn what_was_written_short_is_topped_up_when_a_server_has_room() {
    let short = view(3, &[(1, Live), (2, Live)]);
    assert!(planned(vec![server(1), server(2)], &short).is_empty());
    let mut full = server(3);
    full.candidate.bytes_free = CHUNK - 1;
    assert!(planned(vec![server(1), server(2), full.clone()], &short).is_empty());
    full.candidate.bytes_free = CHUNK;
    assert_eq!(
        planned(vec![server(1), server(2), full], &short).adds[0].targets,
        chain(&[3])
    );
}

#[test]
fn copies_lie_in_two_racks_if_there_are_two() {
    // Odd servers are in one rack, even ones in the other.
    let left = view(3, &[(1, Live), (3, Live)]);
    for extra in [2, 6] {
        let plan = planned(vec![server(1), server(3), server(5), server(7), server(extra)], &left);
        assert_eq!(plan.adds[0].targets, chain(&[extra]));
    }
}

#[test]
fn a_server_that_comes_back_ends_copies_in_progress_and_surplus_goes() {
    let running = view(3, &[(1, Live), (2, Live), (3, Live), (4, Copying)]);
    let plan = planned(vec![server(1), server(2), server(3), server(4)], &running);
    assert_eq!(plan.give_ups, [(running.id, ServerId(4), ReplicaNumber(4))]);
    let done = view(3, &[(1, Live), (2, Live), (3, Live), (4, Live)]);
    let mut fullest = server(4);
    fullest.candidate.bytes_free = 5;
    let servers = vec![server(1), server(2), server(3), fullest];
    assert_eq!(
        planned(servers.clone(), &done).drops[0].server,
        ServerId(4),
        "its disk is the fullest"
    );
    for away in 0..4 {
        let mut servers = servers.clone();
        servers[away] = silent(away as u32 + 1, 3);
        assert!(planned(servers.clone(), &done).is_empty(), "only three can be read");
        servers[away] = server(away as u32 + 1);
        servers[away].steady = Duration::from_secs(4);
        assert!(planned(servers, &done).is_empty(), "one has just come");
    }
    let mut crowded = view(3, &[(1, Live), (3, Live), (5, Live), (2, Live)]);
    let servers = || vec![server(1), server(2), server(3), server(5)];
    assert_ne!(
        planned(servers(), &crowded).drops[0].server,
        ServerId(2),
        "the only one in its rack"
    );
    crowded.damaged.insert(ServerId(2));
    crowded.reported.insert(ServerId(2));
    assert_eq!(
        planned(servers(), &crowded).drops[0].server,
        ServerId(2),
        "damaged ones first"
    );
}

#[test]
fn a_damaged_copy_goes_when_its_replacement_is_there() {
    let mut chunk = view(3, &[(1, Live), (2, Live), (3, Live)]);
    chunk.damaged.insert(ServerId(3));
    chunk.reported.insert(ServerId(3));
    let four = vec![server(1), server(2), server(3), server(4)];
    let plan = planned(four.clone(), &chunk);
    assert_eq!((plan.adds[0].targets.clone(), plan.drops.len()), (chain(&[4]), 0));
    let three = vec![server(1), server(2), server(3)];
    assert_eq!(
        planned(three, &chunk).drops[0].server,
        ServerId(3),
        "only its own place is left"
    );
    let busy = vec![server(1), server(2), server(3), silent(4, 5)];
    assert!(
        planned(busy, &chunk).is_empty(),
        "another server may be back in a moment"
    );
    chunk.chunk.replicas = view(3, &[(1, Live), (2, Live), (3, Live), (4, Copying)]).chunk.replicas;
    assert!(planned(four.clone(), &chunk).is_empty(), "not before the copy is made");
    chunk.chunk.replicas[3].state = Live;
    assert_eq!(planned(four, &chunk).drops[0].server, ServerId(3));
}

#[test]
fn a_dead_or_slow_target_is_replaced_and_one_that_failed_is_avoided() {
    let running = view(2, &[(1, Live), (2, Copying)]);
    let dead = planned(vec![server(1), silent(2, 8), server(3)], &running);
    assert_eq!(dead.give_ups, [(running.id, ServerId(2), ReplicaNumber(2))]);
    let fleet = Fleet::new(vec![server(1), server(2), server(3)], POLICY);
    let mut progress = Progress::default();
    progress.overdue.insert((running.id, ReplicaNumber(2)));
    assert_eq!(plan(&fleet, &[running], &progress, 1).give_ups.len(), 1);
    let left = view(2, &[(1, Live)]);
    progress.avoid.insert((left.id, ServerId(2)));
    for seed in 0..20 {
        let plan = plan(&fleet, std::slice::from_ref(&left), &progress, seed);
        assert_eq!(plan.adds[0].targets, chain(&[3]));
    }
    let dropping = view(2, &[(1, Live), (2, Dropping)]);
    assert!(
        planned(vec![server(1), server(2)], &dropping).is_empty(),
        "its place is taken until it is gone"
    );
}

#[test]
fn a_server_that_comes_and_goes_stops_no_repair() {
    let mut flapping = server(3);
    flapping.flapping = true;
    let servers = vec![server(1), server(2), flapping, server(4)];
    let chunk = view(3, &[(1, Live), (2, Live), (3, Live)]);
    assert_eq!(
        planned(servers.clone(), &chunk).adds[0].targets,
        chain(&[4]),
        "it is no copy to rely on"
    );
    let running = view(3, &[(1, Live), (2, Live), (3, Live), (4, Copying)]);
    assert!(
        planned(servers.clone(), &running).is_empty(),
        "the copy goes on while it is there"
    );
    let last = view(2, &[(3, Live)]);
    assert_eq!(planned(servers, &last).adds.len(), 1, "but it is a source");
}

#[test]
fn fewest_copies_first_and_budgets_hold_nobody_else_up() {
    let fleet = Fleet::new(vec![server(1), server(2), server(3), server(4)], POLICY);
    let mut chunks = Vec::new();
    for counter in 0..20u64 {
        let mut chunk = if counter % 4 == 3 {
            view(3, &[(1, Live)])
        } else {
            view(3, &[(1, Live), (2, Live)])
        };
        chunk.id.counter = counter;
        chunks.push(chunk);
    }
    let plan = plan(&fleet, &chunks, &Progress::default(), 3);
    assert_eq!(plan.adds[0].chunk.counter, 3);
    let copies: usize = plan.adds.iter().map(|add| add.targets.len()).sum();
    assert_eq!(copies, 5, "as many as fit the cluster's budget");
    let huge = ChunkView {
        chunk: Chunk {
            length: 1 << 30,
            ..chunks[0].chunk.clone()
        },
        ..chunks[0].clone()
    };
    assert_eq!(
        planned(vec![server(1), server(2), server(3)], &huge).adds.len(),
        1,
        "a large one is not locked out"
    );
}

#[test]
fn copies_on_a_failing_disk_are_made_anew_from_them_and_then_go() {
    let leaving = |mut view: ChunkView| {
        view.leaving.insert(ServerId(1));
        view
    };
    let fleet = || vec![server(1), server(2), server(3), server(4)];
    // The only copy is a source, and it stays until the other is there.
    let only = leaving(view(1, &[(1, Live)]));
    let plan = planned(fleet(), &only);
    assert_eq!(plan.adds[0].targets.len(), 1);
    assert_eq!(plan.sources.values().copied().collect::<Vec<_>>(), chain(&[1]));
    assert!(plan.drops.is_empty());
    let made = planned(
        fleet(),
        &leaving(view(3, &[(1, Live), (2, Live), (3, Live), (4, Copying)])),
    );
    assert!(made.is_empty(), "a copy under way is no copy: {made:?}");
    let made = planned(
        fleet(),
        &leaving(view(3, &[(1, Live), (2, Live), (3, Live), (4, Live)])),
    );
    assert_eq!(made.drops[0].server, ServerId(1));
    // Nobody can take another: what is there stays.
    let stuck = planned(
        fleet()[..3].to_vec(),
        &leaving(view(3, &[(1, Live), (2, Live), (3, Live)])),
    );
    assert!(stuck.is_empty(), "{stuck:?}");
}

#[test]
fn what_leaves_is_marked_by_copy_and_not_by_server() {
    let mut leaving = Leaving::new();
    let chunk = view(3, &[(1, Live), (2, Copying), (3, Live)]);
    let numbers = [(1, 1), (2, 2), (3, 7)].map(|(server, number)| (ServerId(server), ReplicaNumber(number)));
    leaving.insert(chunk.id, numbers.into_iter().collect());
    let marked = chunk.marked(&leaving).leaving;
    assert_eq!(
        marked,
        BTreeSet::from([ServerId(1)]),
        "not one being made, nor another copy there"
    );
}

#[test]
fn what_an_operator_asks_for_goes_first() {
    let fleet = Fleet::new(vec![server(1), server(2), server(3), server(4)], POLICY);
    let chunks: Vec<_> = (0..20u64)
        .map(|counter| {
            let mut chunk = view(3, &[(1, Live), (2, Live)]);
            chunk.id.counter = counter;
            chunk
        })
        .collect();
    let progress = Progress {
        asked: BTreeSet::from([chunks[19].id]),
        ..Progress::default()
    };
    assert_eq!(plan(&fleet, &chunks, &progress, 3).adds[0].chunk.counter, 19);
}

/// What servers are read from that were read from less before.
fn busier<'a>(now: &'a BTreeMap<ServerId, u64>, before: &'a BTreeMap<ServerId, u64>) -> impl Iterator<Item = u64> + 'a {
    let more = |(server, bytes): (&ServerId, &u64)| (before.get(server) < Some(bytes)).then_some(*bytes);
    now.iter().filter_map(more)
}

/// The whole: rows, a leader's search, servers that work or not.
struct Sim {
    machine: Machine,
    search: Search,
    assigned: Assigned,
    /// How long each server has been silent, in seconds.
    silent: BTreeMap<u32, u64>,
    now: Duration,
    seed: u64,
}

#[derive(Debug, Clone)]
enum Event {
    Kill(u32),
    Back(u32),
    Damage(usize, usize),
    /// A target reports that it cannot.
    Fail(usize),
    NewLeader,
    Pass(u64),
    Condition(u32, ConditionChange),
}

fn events(servers: u32) -> impl Strategy<Value = Vec<Event>> {
    let server = move || 1..=servers;
    let event = prop_oneof![
        2 => server().prop_map(Event::Kill),
        2 => server().prop_map(Event::Back),
        1 => (0usize..20, 0usize..3).prop_map(|(chunk, copy)| Event::Damage(chunk, copy)),
        1 => (0usize..4).prop_map(Event::Fail),
        1 => Just(Event::NewLeader),
        4 => (1u64..20).prop_map(Event::Pass),
        1 => server().prop_map(|server| Event::Condition(server, ConditionChange::Drain)),
        1 => server().prop_map(|server| Event::Condition(server, ConditionChange::Maintain { for_ms: 1000 })),
        1 => server().prop_map(|server| Event::Condition(server, ConditionChange::Serve)),
    ];
    proptest::collection::vec(event, 0..25)
}

impl Sim {
    fn new(servers: u32, files: &[(u8, bool)]) -> Self {
        let mut machine = Machine::new();
        for number in 5..=servers {
            machine.register(&format!("c{number}"), None, number as u8, 1).unwrap();
        }
        let mut client = Client::new(&machine, 1);
        for (at, (wanted, short)) in files.iter().enumerate() {
            let open = ClientCommand::OpenUpload {
                path: path(&format!("/f{at}")),
                options: UploadOptions {
                    replicas: Some(*wanted),
                    ..options()
                },
                placements: vec![chain(&[1 + at as u32 % 3, 4, 1 + (at as u32 + 1) % 3])],
            };
            let Outcome::Upload {
                upload,
                generation,
                chunks,
                ..
            } = client.run(&mut machine, open).unwrap()
            else {
                panic!("no upload");
            };
            let mut upload = crate::state::tests::Upload {
                ino: upload,
                generation,
                chunks: chunks.into(),
                whole: gabion_protocol::checksum::Running::default(),
            };
            let mut seal = upload.seal(CHUNK, at as u32);
            if *short && seal.members.len() > 2 {
                seal.members.pop();
            }
            client.run(&mut machine, upload.commit(vec![seal])).unwrap();
        }
        Self {
            machine,
            search: Search::default(),
            assigned: Assigned::new(),
            silent: (1..=servers).map(|number| (number, 0)).collect(),
            now: Duration::from_secs(1000),
            seed: 0,
        }
    }

    fn fleet(&self) -> Fleet {
        let conditions = conditions::all(&self.machine.rows).unwrap();
        let server = |(number, seconds): (&u32, &u64)| {
            let mut server = silent(*number, *seconds);
            let condition = conditions.get(&ServerId(*number)).copied();
            server.candidate.condition = condition.map(Into::into).unwrap_or_default();
            server
        };
        Fleet::new(self.silent.iter().map(server).collect(), POLICY)
    }

    fn chunks(&self) -> Vec<ChunkView> {
        let ids = read::chunks(&self.machine.rows, None, 1000).unwrap();
        ids.iter()
            .map(|(id, _)| chunk_view(&self.machine.rows, *id).unwrap().unwrap())
            .collect()
    }

    /// Good copies of each chunk that can be read, as far as the leader can know.
    fn good(&self) -> BTreeMap<ChunkId, usize> {
        let up = |server: ServerId| self.silent[&server.0] < 2;
        let count = |view: ChunkView| {
            let live = view.chunk.replicas.iter().filter(|copy| copy.state == Live);
            (
                view.id,
                live.filter(|copy| up(copy.server) && !view.reported.contains(&copy.server))
                    .count(),
            )
        };
        self.chunks().into_iter().map(count).collect()
    }

    /// What is under way, in all rows.
    fn progress(&mut self) -> Progress {
        let mut progress = Progress::default();
        let lengths = progress.take_stock(&self.fleet(), &self.chunks(), &mut self.assigned);
        assert_eq!(lengths.len(), copies::copying(&self.machine.rows, 1000).unwrap().len());
        progress
    }

    /// One round of a leader; whether it planned anything. Checks what no plan may do.
    fn round(&mut self) -> bool {
        self.now += Duration::from_millis(500);
        self.seed += 1;
        let fleet = self.fleet();
        let chunks = self
            .search
            .round(&self.machine.rows, &fleet, &Hints::default(), self.now)
            .unwrap();
        let progress = self.progress();
        let plan = plan(&fleet, &chunks, &progress, self.seed);
        let before = self.good();
        let before_sources = progress.sources.clone();
        let Plan {
            adds,
            sources,
            give_ups,
            drops,
        } = plan.clone();
        self.assigned.extend(sources);
        for (command, what) in [
            (Command::AddCopies { plans: adds }, "add"),
            (Command::DropCopies { drops }, "drop"),
        ] {
            let Outcome::Repaired { refused } = self.machine.apply(&command).0.unwrap() else {
                panic!("{what}");
            };
            assert_eq!(refused, [], "nothing has changed in between: {what}");
        }
        self.machine
            .apply(&Command::CopiesGivenUp { copies: give_ups })
            .0
            .unwrap();
        self.machine.check();
        for view in self.chunks() {
            let (then, now) = (before[&view.id], self.good()[&view.id]);
            assert!(
                now >= then.min(usize::from(view.chunk.wanted)),
                "{then} good copies became {now}: {plan:?}"
            );
        }
        let progress = self.progress();
        // A source that died has left its copies to others, which may be more than they would have got.
        let over = |bytes: &u64| *bytes > POLICY.budget.source;
        assert!(
            plan.adds.is_empty() || !busier(&progress.sources, &before_sources).any(|bytes| over(&bytes)),
            "{progress:?}"
        );
        assert!(progress.cluster <= POLICY.budget.cluster, "{progress:?}");
        assert!(
            progress.targets.values().all(|bytes| *bytes <= POLICY.budget.target),
            "{progress:?}"
        );
        // A new leader that sees the same rows repairs nothing twice.
        let again = Search::default()
            .round(&self.machine.rows, &fleet, &Hints::default(), self.now)
            .unwrap();
        let again = super::plan(&fleet, &again, &progress, 99);
        for add in &again.adds {
            let planned_now = plan
                .adds
                .iter()
                .any(|one| one.chunk == add.chunk && one.targets.len() >= add.targets.len());
            let view = chunk_view(&self.machine.rows, add.chunk).unwrap().unwrap();
            let seen = fleet.assess(&view, &BTreeSet::new());
            assert!(!planned_now || seen.missing > 0, "planned twice: {add:?}");
        }
        !plan.is_empty()
    }

    /// Servers that live carry out what they are told: copies that have a source, drops.
    fn work(&mut self) -> bool {
        let mut worked = false;
        for (number, seconds) in self.silent.clone() {
            if seconds > 0 {
                continue;
            }
            let server = ServerId(number);
            for key in copies::copying_on(&self.machine.rows, server, 100).unwrap() {
                let view = chunk_view(&self.machine.rows, key.chunk).unwrap().unwrap();
                if self.fleet().sources(&view).is_empty() {
                    continue;
                }
                let made = vec![copies::MadeCopy {
                    chunk: key.chunk,
                    number: key.number,
                    length: view.chunk.length,
                    crc: view.chunk.crc,
                }];
                self.machine.apply(&Command::CopiesMade { server, made }).0.unwrap();
                worked = true;
            }
            let done = read::drop_orders(&self.machine.rows, server, 100).unwrap();
            worked |= !done.is_empty();
            self.machine
                .apply(&Command::ReplicasDropped { server, done })
                .0
                .unwrap();
        }
        worked
    }

    fn damage(&mut self, chunk: usize, copy: usize) {
        let chunks = self.chunks();
        let view = &chunks[chunk % chunks.len()];
        let live: Vec<_> = view.chunk.replicas.iter().filter(|copy| copy.state == Live).collect();
        let copy = live[copy % live.len()];
        // One good copy stays, or there is nothing to converge to.
        if live.iter().filter(|of| !view.damaged.contains(&of.server)).count() < 2 {
            return;
        }
        let found = vec![Damage {
            chunk: view.id,
            replica: copy.number,
            what: "x".to_owned(),
        }];
        let server = copy.server;
        self.machine.apply(&Command::DamageFound { server, found }).0.unwrap();
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Kill(server) => drop(self.silent.insert(*server, 1)),
            Event::Back(server) => drop(self.silent.insert(*server, 0)),
            Event::Damage(chunk, copy) => self.damage(*chunk, *copy),
            Event::Fail(at) => {
                let copying = copies::copying(&self.machine.rows, 100).unwrap();
                if let Some(key) = copying.get(*at) {
                    let copies = vec![(key.chunk, key.server, key.number)];
                    self.machine.apply(&Command::CopiesGivenUp { copies }).0.unwrap();
                }
            }
            Event::Condition(server, change) => self.condition(*server, *change),
            Event::NewLeader => (self.search, self.assigned) = (Search::default(), Assigned::new()),
            Event::Pass(seconds) => {
                self.now += Duration::from_secs(*seconds);
                for silent in self.silent.values_mut().filter(|silent| **silent > 0) {
                    *silent += seconds;
                }
            }
        }
    }

    fn condition(&mut self, server: u32, change: ConditionChange) {
        let mut client = Client::new(&self.machine, 1000 + self.seed);
        let server = ServerId(server);
        client
            .run(&mut self.machine, ClientCommand::SetCondition { server, change })
            .unwrap();
    }

    /// Lets rounds pass until nothing happens any more; panics if that never comes.
    fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..400 {
            // Walks rest for a minute.
            self.now += Duration::from_secs(20);
            let planned = self.round();
            let worked = self.work();
            quiet = if planned || worked { 0 } else { quiet + 1 };
            if quiet > 5 {
                return;
            }
        }
        panic!("repair never ends: {:?}", self.chunks());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]
    #[test]
    fn every_chunk_is_whole_in_the_end(
        servers in 4u32..8,
        files in proptest::collection::vec((1u8..4, any::<bool>()), 1..12),
        (events, work) in (events(4), proptest::collection::vec(any::<bool>(), 25)),
        gone in proptest::option::of(1u32..5),
        drained in proptest::option::of(1u32..5),
    ) {
        let mut sim = Sim::new(servers, &files);
        for (event, work) in events.iter().zip(work) {
            sim.event(event);
            sim.round();
            if work {
                sim.work();
            }
            sim.machine.check();
        }
        // One server never comes back, the others do.
        for (number, silent) in &mut sim.silent {
            *silent = if Some(*number) == gone { 1000 } else { 0 };
        }
        for server in 1..=4 {
            let end = if Some(server) == drained { ConditionChange::Drain } else { ConditionChange::Serve };
            sim.seed += 1;
            sim.condition(server, end);
        }
        sim.settle();
        let up = sim.silent.iter().filter(|(number, silent)| **silent == 0 && Some(**number) != drained).count();
        let fleet = sim.fleet();
        for view in sim.chunks() {
            if fleet.sources(&view).is_empty() {
                continue;
            }
            let seen = fleet.assess(&view, &BTreeSet::new());
            let good = seen.present.len();
            // With a single good copy no damaged one makes room; that needs a server more.
            let is_in_service = |number: u32| sim.silent[&number] == 0 && Some(number) != drained;
            let holds = |number: u32| view.chunk.replicas.iter().any(|copy| copy.server.0 == number);
            if good < 2 && (1..=servers).all(|number| !is_in_service(number) || holds(number)) {
                continue;
            }
            let is_left = up >= usize::from(view.chunk.wanted) && !seen.leaving.is_empty();
            prop_assert!(!is_left, "a drained server keeps a copy: {:?}", view);
            prop_assert_eq!(good, up.min(usize::from(view.chunk.wanted)), "{:?}", view);
            let copying = view.chunk.replicas.iter().any(|copy| copy.state == Copying);
            // A damaged copy goes when its replacement is there; on a drained server it makes room for none.
            let short = good < usize::from(view.chunk.wanted);
            let may_stay = |server: u32| Some(server) == gone || (Some(server) == drained && short);
            prop_assert!(!copying && view.damaged.iter().all(|server| may_stay(server.0)), "{:?}", view);
        }
    }
}

#[test]
fn nothing_is_walked_while_all_is_well() {
    let mut sim = Sim::new(4, &[(3, false); 4]);
    let fleet = sim.fleet();
    let chunks = sim
        .search
        .round(&sim.machine.rows, &fleet, &Hints::default(), sim.now)
        .unwrap();
    assert!(chunks.is_empty() && !sim.search.is_walking());
    sim.silent.insert(4, 100);
    let chunks = sim
        .search
        .round(&sim.machine.rows, &sim.fleet(), &Hints::default(), sim.now)
        .unwrap();
    assert_eq!(chunks.len(), 4, "what lay on the lost server");
    assert!(!sim.search.is_walking(), "the walk is over and rests");
}

#[test]
fn maintenance_holds_repair_back_and_a_drained_server_is_emptied_last_copy_or_not() {
    let until = gabion_protocol::ids::StateTime(9);
    let with = |mut server: Server, condition| {
        server.candidate.condition = condition;
        server
    };
    let maintained = |number, seconds| with(silent(number, seconds), Condition::Maintenance { until });
    let three = view(3, &[(1, Live), (2, Live), (3, Live)]);
    let away = vec![server(1), maintained(2, 600), maintained(3, 600), server(4)];
    assert!(planned(away, &three).is_empty(), "two of three are to come back");
    let died = vec![server(1), maintained(2, 600), silent(3, 600), server(4)];
    assert_eq!(planned(died, &three).adds[0].targets, chain(&[4]), "one really died");
    // Who may be switched off at any time is nothing to drop another copy for.
    let four = view(3, &[(1, Live), (2, Live), (3, Live), (4, Live)]);
    let near = vec![server(1), maintained(2, 0), server(3), server(4)];
    assert!(planned(near, &four).is_empty());

    let drained = |number| with(server(number), Condition::Draining);
    let servers = || vec![drained(1), server(2), server(3), server(4)];
    assert_eq!(planned(servers(), &three).adds[0].targets, chain(&[4]));
    assert_eq!(planned(servers(), &four).drops[0].server, ServerId(1), "it goes first");
    assert!(
        planned(vec![drained(1), server(2), server(3)], &three).is_empty(),
        "nobody else has room"
    );
    let only = view(1, &[(1, Live)]);
    let plan = planned(vec![drained(1), server(2)], &only);
    assert_eq!(
        plan.adds[0].targets,
        chain(&[2]),
        "the last copy is copied, not dropped"
    );
    assert!(plan.drops.is_empty());
}
