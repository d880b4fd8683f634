//! The planner with the real state machine, repair's planner and a simulated fleet whose beats lag behind: uneven servers
//! become even, leaders change and servers die meanwhile, and nothing is lost, doubled or moved for ever.

use std::time::Duration;

use gabion_protocol::messages::master::{Condition, Health, UploadOptions};
use proptest::prelude::*;

use super::flows::{Flows, Lately, Sums};
use super::sweep::Sweep;
use super::*;
use crate::plan::repair::{self as mending, Assigned, Budget, Progress, Server};
use crate::plan::search::{Hints, Search, chunk_view};
use crate::state::repair::MadeCopy;
use crate::state::tests::{Client, Machine, Upload, chain, options, path};
use crate::state::{ClientCommand, Command, Outcome, read, repair as copies};

const MIB: u64 = 1 << 20;
const BUDGET: u64 = 8 * MIB;
const THRESHOLD: u32 = 50_000;
/// Between beats, and between a leader's looks.
const BEAT: Duration = Duration::from_millis(500);

/// A server of the simulation.
#[derive(Debug, Clone)]
struct Disk {
    total: u64,
    /// Bytes that no chunk takes.
    other: u64,
    rack: &'static str,
    alive: bool,
    /// What it holds.
    held: BTreeMap<ChunkId, u64>,
    /// What its last beat said of the used bytes.
    told: u64,
}

impl Disk {
    fn used(&self) -> u64 {
        self.other + self.held.values().sum::<u64>()
    }
}

/// What a leader keeps in memory.
#[derive(Debug, Default)]
struct Leader {
    sweep: Sweep,
    drive: Drive,
    lately: Lately,
    search: Search,
    assigned: Assigned,
}

struct Sim {
    machine: Machine,
    client: Client,
    disks: BTreeMap<ServerId, Disk>,
    leader: Leader,
    now: Duration,
    heard: Duration,
    runs: bool,
    /// Moves begun in all.
    moves: usize,
}

/// One file: the server its chain begins with, copies, and the MiB of its chunks.
type File = (u32, u8, Vec<u64>);

impl Sim {
    /// Files on the first `old` of so many servers.
    fn new(servers: &[(u64, &'static str)], old: u32, files: &[File]) -> Self {
        let mut machine = Machine::new();
        for number in 5..=servers.len() as u32 {
            machine.register(&format!("c{number}"), None, number as u8, 1).unwrap();
        }
        let client = Client::new(&machine, 1);
        let disk = |(number, (mib, rack)): (u32, &(u64, &'static str))| {
            let disk = Disk {
                total: mib * MIB,
                other: 0,
                rack,
                alive: true,
                held: BTreeMap::new(),
                told: 0,
            };
            (ServerId(number), disk)
        };
        let mut sim = Self {
            machine,
            client,
            disks: (1..).zip(servers).map(disk).collect(),
            leader: Leader::default(),
            now: Duration::from_secs(1000),
            heard: Duration::from_secs(999),
            runs: true,
            moves: 0,
        };
        for (at, (first, wanted, chunks)) in files.iter().enumerate() {
            sim.put(at, old, (*first, *wanted), chunks);
        }
        sim.beat();
        sim
    }

    fn put(&mut self, at: usize, old: u32, (first, wanted): (u32, u8), chunks: &[u64]) {
        let servers: Vec<u32> = (0..u32::from(wanted)).map(|n| 1 + (first + n) % old).collect();
        let open = ClientCommand::OpenUpload {
            path: path(&format!("/f{at}")),
            options: UploadOptions {
                replicas: Some(wanted),
                ..options()
            },
            placements: vec![chain(&servers); chunks.len()],
        };
        let opened = self.client.run(&mut self.machine, open).unwrap();
        let Outcome::Upload {
            upload,
            generation,
            chunks: granted,
            ..
        } = opened
        else {
            panic!("no upload");
        };
        let mut upload = Upload {
            ino: upload,
            generation,
            chunks: granted.into(),
            whole: gabion_protocol::checksum::Running::default(),
        };
        let mut seals = Vec::new();
        for mib in chunks {
            let seal = upload.seal(mib * MIB, 7);
            for server in &seal.members {
                let disk = self.disks.get_mut(server).unwrap();
                disk.held.insert(seal.chunk, mib * MIB);
            }
            seals.push(seal);
        }
        self.client.run(&mut self.machine, upload.commit(seals)).unwrap();
    }

    fn fleet(&self) -> Fleet {
        let server = |(id, disk): (&ServerId, &Disk)| {
            let health = if disk.alive { Health::Alive } else { Health::Lost };
            Server {
                candidate: Candidate {
                    server: *id,
                    name: format!("c{id}"),
                    rack: disk.rack.to_owned(),
                    bytes_free: disk.total.saturating_sub(disk.told),
                    streams: 0,
                    health,
                    disks_ok: 1,
                    retired: false,
                    condition: Condition::InService,
                },
                health,
                silent: Duration::from_secs(if disk.alive { 0 } else { 60 }),
                steady: Duration::from_secs(60),
                flapping: false,
            }
        };
        let policy = mending::Policy {
            suspect: Duration::from_secs(2),
            urgent: Duration::from_secs(5),
            budget: Budget {
                source: 2 * BUDGET,
                target: 2 * BUDGET,
                cluster: 100 * BUDGET,
            },
            moves: self.runs,
        };
        Fleet::new(self.disks.iter().map(server).collect(), policy)
    }

    fn levels(&self, fleet: &Fleet, sums: &Sums) -> Levels {
        let fill = |candidate: &Candidate| {
            let disk = &self.disks[&candidate.server];
            let aside = (!disk.alive).then_some("away");
            Fill::new(candidate.clone(), (disk.total, disk.told), sums, aside)
        };
        Levels::new(fleet.candidates().map(fill).collect())
    }

    /// Servers tell how full they are.
    fn beat(&mut self) {
        self.heard = self.now;
        for disk in self.disks.values_mut().filter(|disk| disk.alive) {
            disk.told = disk.used();
        }
    }

    fn views(&self) -> Vec<ChunkView> {
        let ids = read::chunks(&self.machine.rows, None, 10_000).unwrap();
        let view = |(id, _): &(ChunkId, _)| chunk_view(&self.machine.rows, *id).unwrap().unwrap();
        ids.iter().map(view).collect()
    }

    /// Good copies of each chunk.
    fn good(&self) -> BTreeMap<ChunkId, usize> {
        let count = |view: ChunkView| {
            let live = view
                .chunk
                .replicas
                .iter()
                .filter(|copy| copy.state == ReplicaState::Live);
            (view.id, live.filter(|copy| self.disks[&copy.server].alive).count())
        };
        self.views().into_iter().map(count).collect()
    }

    /// The racks that copies of each chunk are in.
    fn racks(&self) -> BTreeMap<ChunkId, usize> {
        let count = |view: ChunkView| {
            let copies = view.chunk.replicas.iter().map(|copy| self.disks[&copy.server].rack);
            (view.id, copies.collect::<BTreeSet<_>>().len())
        };
        self.views().into_iter().map(count).collect()
    }

    /// One look of a leader, repair's and balance's; whether anything was planned.
    fn round(&mut self) -> bool {
        self.now += BEAT;
        let fleet = self.fleet();
        let before = self.good();
        let repaired = self.mend(&fleet);
        let moved = self.runs && self.balance(&fleet);
        self.machine.check();
        let after = self.good();
        for view in self.views() {
            let (then, now) = (before[&view.id], after[&view.id]);
            assert!(
                now >= then.min(usize::from(view.chunk.wanted)),
                "{then} copies became {now}: {view:?}"
            );
        }
        repaired || moved
    }

    fn mend(&mut self, fleet: &Fleet) -> bool {
        let rows = &self.machine.rows;
        let chunks = self
            .leader
            .search
            .round(rows, fleet, &Hints::default(), self.now)
            .unwrap();
        let mut progress = Progress::default();
        progress.take_stock(fleet, &chunks, &mut self.leader.assigned);
        let plan = mending::plan(fleet, &chunks, &progress, self.now.as_millis() as u64);
        let planned = !plan.is_empty();
        let commands = [
            Command::CopiesGivenUp { copies: plan.give_ups },
            Command::AddCopies { plans: plan.adds },
            Command::DropCopies { drops: plan.drops },
        ];
        for command in commands {
            self.run(&command);
        }
        planned
    }

    #[track_caller]
    fn run(&mut self, command: &Command) {
        if let Outcome::Repaired { refused } = self.machine.apply(command).0.unwrap() {
            assert_eq!(refused, [], "nothing has changed in between: {command:?}");
        }
    }

    fn balance(&mut self, fleet: &Fleet) -> bool {
        let ids: Vec<ServerId> = self.disks.keys().copied().collect();
        let flows = Flows::read(&self.machine.rows, &ids).unwrap();
        let heard = self.heard;
        let sums = self.leader.lately.note(&flows, |_| Some(heard), self.now);
        let levels = self.levels(fleet, &sums);
        let Some(aim) = self.leader.drive.aim(&levels, THRESHOLD) else {
            return false;
        };
        let avoid = BTreeSet::new();
        let mut balancer = Balancer::new(fleet, levels, (aim, BUDGET), flows.busy, &avoid);
        let sweep = &mut self.leader.sweep;
        let (moves, more) = sweep.round(&self.machine.rows, &mut balancer, self.now).unwrap();
        self.moves += moves.len();
        let any = !moves.is_empty() || more;
        self.run(&Command::MoveCopies { moves });
        let busy = Flows::read(&self.machine.rows, &ids).unwrap().busy;
        let alone = |bytes: u64| bytes <= BUDGET;
        let most = busy.from.values().chain(busy.to.values()).copied();
        assert!(most.into_iter().all(alone), "over the budget: {busy:?}");
        any
    }

    /// Servers that live do what they are told; whether there was anything.
    fn work(&mut self) -> bool {
        let mut worked = false;
        let alive: Vec<ServerId> = self
            .disks
            .iter()
            .filter(|(_, disk)| disk.alive)
            .map(|(id, _)| *id)
            .collect();
        for server in alive {
            for key in copies::copying_on(&self.machine.rows, server, 1000).unwrap() {
                let chunk = read::chunk(&self.machine.rows, key.chunk).unwrap().unwrap();
                let made = vec![MadeCopy {
                    chunk: key.chunk,
                    number: key.number,
                    length: chunk.length,
                    crc: chunk.crc,
                }];
                self.disks
                    .get_mut(&server)
                    .unwrap()
                    .held
                    .insert(key.chunk, chunk.length);
                self.machine.apply(&Command::CopiesMade { server, made }).0.unwrap();
                worked = true;
            }
            let done = read::drop_orders(&self.machine.rows, server, 1000).unwrap();
            for (chunk, _) in &done {
                self.disks.get_mut(&server).unwrap().held.remove(chunk);
                worked = true;
            }
            self.machine
                .apply(&Command::ReplicasDropped { server, done })
                .0
                .unwrap();
        }
        worked
    }

    /// Until nothing happens any more; how many rounds that took.
    fn settle(&mut self) -> usize {
        let mut quiet = 0;
        for round in 0..2000 {
            let planned = self.round();
            let worked = self.work();
            self.beat();
            if planned || worked {
                quiet = 0;
            } else {
                quiet += 1;
                // Walks rest for a minute.
                self.now += Duration::from_secs(20);
                self.beat();
            }
            if quiet > 8 {
                return round;
            }
        }
        panic!("it never ends: {} moves", self.moves);
    }

    /// A move that the rules would allow, found by trying all of them.
    fn possible(&self) -> Option<(ChunkId, ServerId, ServerId)> {
        let alive = || self.disks.iter().filter(|(_, disk)| disk.alive);
        let used: u64 = alive().map(|(_, disk)| disk.used()).sum();
        let total: u64 = alive().map(|(_, disk)| disk.total).sum();
        let mean = used as f64 / total as f64;
        let fill = |disk: &Disk, more: i64| (disk.used() as i64 + more) as f64 / disk.total as f64;
        let aim = f64::from(THRESHOLD) / 2e6 + 2e-6;
        for view in self.views() {
            let length = view.chunk.length as i64;
            let holds = |server: &ServerId| view.chunk.replicas.iter().any(|copy| copy.server == *server);
            let racks = |gone: Option<ServerId>, new: Option<ServerId>| -> usize {
                let stays = view
                    .chunk
                    .replicas
                    .iter()
                    .map(|copy| copy.server)
                    .filter(|of| Some(*of) != gone);
                stays
                    .chain(new)
                    .map(|of| self.disks[&of].rack)
                    .collect::<BTreeSet<_>>()
                    .len()
            };
            for (from, source) in alive().filter(|(id, _)| holds(id)) {
                for (to, target) in alive().filter(|(id, _)| !holds(id)) {
                    let relieves = fill(source, 0) > mean + aim && fill(target, length) < mean + aim - 4e-6;
                    let fills = fill(target, 0) < mean - aim && fill(source, -length) > mean - aim + 4e-6;
                    let better = fill(target, length) <= fill(source, -length);
                    let whole = view.chunk.replicas.len() == usize::from(view.chunk.wanted)
                        && view.chunk.replicas.iter().all(|copy| self.disks[&copy.server].alive);
                    let room = target.total - target.used() >= view.chunk.length;
                    if whole
                        && (relieves || fills)
                        && better
                        && room
                        && racks(Some(*from), Some(*to)) >= racks(None, None)
                    {
                        return Some((view.id, *from, *to));
                    }
                }
            }
        }
        None
    }

    /// All that must hold when nothing happens any more.
    fn assert_settled(&self) {
        let levels = self.levels(&self.fleet(), &Sums::default());
        assert!(
            levels.are_within(THRESHOLD) || self.possible().is_none(),
            "{:?} would help: {:?}",
            self.possible(),
            levels.fills().map(Fill::ppm).collect::<Vec<_>>()
        );
        for view in self.views() {
            assert_eq!(view.moving, None, "{view:?}");
        }
        for (server, disk) in self.disks.iter().filter(|(_, disk)| disk.alive) {
            let rows: BTreeSet<ChunkId> = read::held(&self.machine.rows, *server, None, 10_000)
                .unwrap()
                .into_iter()
                .map(|(id, _)| id)
                .collect();
            assert_eq!(rows, disk.held.keys().copied().collect(), "disks and rows of c{server}");
        }
    }

    fn fills(&self) -> Vec<u32> {
        self.levels(&self.fleet(), &Sums::default())
            .fills()
            .map(Fill::ppm)
            .collect()
    }
}

fn files(count: u32, chunks: usize) -> Vec<File> {
    (0..count).map(|at| (at, 3, vec![1; chunks])).collect()
}

#[test]
fn an_empty_fourth_server_fills_up_and_then_nothing_moves() {
    let mut sim = Sim::new(&[(100, "r"); 4], 3, &files(10, 6));
    assert_eq!(sim.fills(), [600_000, 600_000, 600_000, 0]);
    let rounds = sim.settle();
    sim.assert_settled();
    let fills = sim.fills();
    assert!(
        fills.iter().all(|ppm| ppm.abs_diff(450_000) <= THRESHOLD / 2),
        "{fills:?}"
    );
    // Neither a copy more than needed, nor one at a time.
    assert!((40..=45).contains(&sim.moves), "{} moves", sim.moves);
    assert!(rounds < 60, "{rounds} rounds");
    // What is even stays, also when a little is written.
    let moves = sim.moves;
    sim.put(100, 3, (0, 3), &[1, 1]);
    sim.beat();
    sim.settle();
    assert_eq!(sim.moves, moves);
}

#[test]
fn large_and_small_servers_get_their_share() {
    let mut sim = Sim::new(
        &[(50, "a"), (100, "b"), (100, "a"), (200, "b"), (50, "a")],
        3,
        &files(8, 4),
    );
    sim.settle();
    sim.assert_settled();
    let fills = sim.fills();
    assert!(fills.iter().all(|ppm| ppm.abs_diff(192_000) <= THRESHOLD), "{fills:?}");
}

#[test]
fn three_servers_with_three_copies_are_left_alone_and_walks_rest() {
    let mut sim = Sim::new(&[(50, "r"), (100, "r"), (100, "r")], 3, &files(8, 4));
    sim.round();
    assert_eq!(sim.moves, 0);
    let fleet = sim.fleet();
    let balancer = |sim: &Sim| {
        Balancer::new(
            Box::leak(Box::new(fleet.clone())),
            sim.levels(&fleet, &Sums::default()),
            (THRESHOLD / 2, BUDGET),
            Busy::default(),
            Box::leak(Box::default()),
        )
    };
    let resting = |sim: &Sim, balancer: &Balancer<'_>| {
        let rests = |server: ServerId| sim.leader.sweep.is_resting(server, sim.now);
        balancer.next_source(rests).is_none()
    };
    let planner = balancer(&sim);
    assert!(resting(&sim, &planner), "nobody is walked again");
    sim.now += Duration::from_secs(61);
    let planner = balancer(&sim);
    assert!(!resting(&sim, &planner), "after a minute somebody is");
}

#[test]
fn a_move_never_brings_copies_together_in_one_rack() {
    // Two copies in two racks; the empty server is in the rack of the fuller one's partner.
    let files: Vec<File> = (0..30).map(|_| (0, 2, vec![1])).collect();
    let mut sim = Sim::new(&[(100, "a"), (100, "b"), (100, "b"), (100, "b")], 2, &files);
    sim.settle();
    sim.assert_settled();
    let held = |number: u32| sim.disks[&ServerId(number)].held.len();
    assert_eq!(held(1), 30, "the only server of its rack");
    assert!(held(2) <= 15 && held(3) >= 7 && held(4) >= 7);
}

#[test]
fn the_budget_bounds_what_is_under_way_and_holds_no_large_chunk_up() {
    let sim = Sim::new(&[(1000, "r"); 4], 3, &[(0, 3, vec![40; 6]), (1, 3, vec![1; 16])]);
    let fleet = sim.fleet();
    let avoid = BTreeSet::new();
    let levels = sim.levels(&fleet, &Sums::default());
    let mut balancer = Balancer::new(&fleet, levels, (1000, BUDGET), Busy::default(), &avoid);
    let (moves, more) = Sweep::default()
        .round(&sim.machine.rows, &mut balancer, sim.now)
        .unwrap();
    assert!(!more);
    assert_eq!(moves.len(), 1, "the target's budget is used up by one: {moves:?}");
}

#[derive(Debug, Clone)]
enum Event {
    Kill(u32),
    Back(u32),
    NewLeader,
    Stop,
    Start,
    Rounds(usize),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let event = prop_oneof![
        1 => (1u32..6).prop_map(Event::Kill),
        2 => (1u32..6).prop_map(Event::Back),
        2 => Just(Event::NewLeader),
        1 => Just(Event::Stop),
        2 => Just(Event::Start),
        6 => (1usize..6).prop_map(Event::Rounds),
    ];
    proptest::collection::vec(event, 0..16)
}

fn any_files() -> impl Strategy<Value = Vec<File>> {
    let file = (0u32..3, 1u8..4, proptest::collection::vec(1u64..9, 1..6));
    proptest::collection::vec(file, 1..14)
}

impl Sim {
    fn event(&mut self, event: &Event) {
        match event {
            Event::Kill(number) => self.set_alive(*number, false),
            Event::Back(number) => self.set_alive(*number, true),
            Event::NewLeader => self.leader = Leader::default(),
            Event::Stop => self.switch(false),
            Event::Start => self.switch(true),
            Event::Rounds(rounds) => {
                for _ in 0..*rounds {
                    self.round();
                    // A beat made before the work was done is what the next round sees.
                    self.beat();
                    self.work();
                }
            }
        }
    }

    fn set_alive(&mut self, number: u32, alive: bool) {
        if let Some(disk) = self.disks.get_mut(&ServerId(number)) {
            disk.alive = alive;
        }
    }

    fn switch(&mut self, runs: bool) {
        self.runs = runs;
        self.client
            .run(&mut self.machine, ClientCommand::SetBalance { runs })
            .unwrap();
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]
    #[test]
    fn servers_become_as_even_as_rules_allow_whatever_happens_meanwhile(
        sizes in proptest::collection::vec((1u64..4, prop::sample::select(vec!["a", "b", "c"])), 4..7),
        files in any_files(),
        events in events(),
    ) {
        let sizes: Vec<_> = sizes.into_iter().map(|(size, rack)| (size * 250, rack)).collect();
        let mut sim = Sim::new(&sizes, 3, &files);
        let racks = sim.racks();
        for event in &events {
            sim.event(event);
        }
        for number in 1..=6 {
            sim.set_alive(number, true);
        }
        sim.switch(true);
        let before = sim.moves;
        sim.settle();
        sim.assert_settled();
        let held: usize = sim.views().iter().map(|view| view.chunk.replicas.len()).sum();
        prop_assert!(sim.moves - before <= held, "{} moves of {held} copies", sim.moves - before);
        for view in sim.views() {
            let live = view.chunk.live();
            prop_assert_eq!(live, usize::from(view.chunk.wanted), "{:?}", view);
        }
        // Repair may have had to do with fewer.
        let nobody_died = !events.iter().any(|event| matches!(event, Event::Kill(_)));
        for (chunk, now) in sim.racks().into_iter().filter(|_| nobody_died) {
            prop_assert!(now >= racks[&chunk], "{} racks became {now}", racks[&chunk]);
        }
        // Nothing more comes, also under another leader.
        let moves = sim.moves;
        sim.leader = Leader::default();
        sim.settle();
        prop_assert_eq!(sim.moves, moves);
    }
}

#[test]
fn stopping_gives_up_what_is_under_way() {
    let mut sim = Sim::new(&[(100, "r"); 4], 3, &files(10, 6));
    sim.round();
    let begun = copies::copying(&sim.machine.rows, 100).unwrap();
    assert_eq!((begun.len(), sim.moves), (4, 4), "as many as the budget allows");
    sim.round();
    let still = copies::copying(&sim.machine.rows, 100).unwrap();
    assert_eq!((still, sim.moves), (begun, 4), "repair does not take them for needless");
    sim.switch(false);
    let moves = sim.moves;
    sim.round();
    assert!(copies::copying(&sim.machine.rows, 10).unwrap().is_empty(), "given up");
    sim.settle();
    assert_eq!(sim.moves, moves);
    sim.assert_held(3);
    sim.switch(true);
    sim.settle();
    sim.assert_settled();
}

impl Sim {
    fn assert_held(&self, copies: usize) {
        for view in self.views() {
            assert_eq!(
                (view.chunk.live(), view.chunk.replicas.len()),
                (copies, copies),
                "{view:?}"
            );
        }
    }
}

#[test]
fn no_target_becomes_fuller_than_its_source() {
    // The mean is 11 %: with the chunk of the first the second would be near it, and the first farther away than before.
    let mut sim = Sim::new(&[(50, "r"); 4], 3, &[(0, 1, vec![6])]);
    for (number, half_mib) in [(1, 4), (2, 1), (3, 14), (4, 14)] {
        sim.disks.get_mut(&ServerId(number)).unwrap().other = half_mib * MIB / 2;
    }
    sim.beat();
    sim.settle();
    assert_eq!(sim.moves, 0);
    sim.disks.get_mut(&ServerId(1)).unwrap().other = 7 * MIB;
    sim.beat();
    sim.settle();
    assert_eq!(sim.moves, 1, "now it helps");
}

#[test]
fn repair_takes_a_copy_that_was_to_be_moved() {
    let mut sim = Sim::new(&[(100, "r"); 5], 3, &[(0, 3, vec![2])]);
    sim.disks.get_mut(&ServerId(1)).unwrap().other = 80 * MIB;
    sim.beat();
    sim.round();
    let view = &sim.views()[0];
    let row = view.moving.expect("it moves off the first");
    assert_eq!(row.from, ServerId(1));
    // Another copy is lost: the one that comes is as good as any, and nothing else is added.
    sim.set_alive(2, false);
    sim.round();
    assert_eq!(copies::copying(&sim.machine.rows, 10).unwrap().len(), 1);
    sim.work();
    sim.round();
    let view = &sim.views()[0];
    let first = view
        .chunk
        .replicas
        .iter()
        .find(|copy| copy.server == ServerId(1))
        .unwrap();
    assert_eq!(first.state, ReplicaState::Live, "three are wanted and three are there");
}
