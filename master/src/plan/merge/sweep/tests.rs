//! The walks with the real state machine: files become few extents, and rest then; nothing begins where it may not.

use std::collections::BTreeSet;

use gabion_protocol::messages::master::{Change, Condition, FileChange, Health, Seal, SpliceAt};

use super::*;
use crate::plan::repair::{Budget, Policy, Server};
use crate::state::merges::MergeStep;
use crate::state::tests::{Client, Machine, SETTINGS, remove};
use crate::state::{ClientCommand, Command, read};

const SERVERS: u32 = 4;
const PLENTY: u64 = 1 << 40;

struct Sim {
    machine: Machine,
    client: Client,
    sweep: Sweep,
    now: Duration,
    /// Free bytes of each server.
    free: u64,
    /// Servers that do not answer.
    silent: BTreeSet<u32>,
}

impl Sim {
    fn new() -> Self {
        let machine = Machine::new();
        let client = Client::new(&machine, 1);
        Self {
            machine,
            client,
            sweep: Sweep::default(),
            now: Duration::from_secs(1000),
            free: PLENTY,
            silent: BTreeSet::new(),
        }
    }

    fn fleet(&self) -> Fleet {
        let server = |number: u32| {
            let health = match self.silent.contains(&number) {
                true => Health::Lost,
                false => Health::Alive,
            };
            Server {
                candidate: Candidate {
                    server: ServerId(number),
                    name: format!("c{number}"),
                    rack: String::new(),
                    bytes_free: self.free,
                    streams: 0,
                    health,
                    disks_ok: 1,
                    retired: false,
                    condition: Condition::InService,
                },
                health,
                silent: Duration::ZERO,
                steady: Duration::from_secs(60),
                flapping: false,
            }
        };
        let budget = Budget {
            source: 1 << 30,
            target: 1 << 30,
            cluster: 1 << 30,
        };
        let policy = Policy {
            suspect: Duration::from_secs(2),
            urgent: Duration::from_secs(5),
            budget,
            moves: true,
        };
        Fleet::new((1..=SERVERS).map(server).collect(), policy)
    }

    /// Appends so many pieces.
    fn append(&mut self, file: Ino, pieces: usize, length: u64) {
        let mut left = pieces;
        while left > 0 {
            let count = left.min(16);
            let mut upload = self.client.open(&mut self.machine, "/upload", count);
            let what = Change::Splice {
                upload: upload.ino,
                generation: upload.generation,
                seals: (0..count).map(|crc| upload.seal(length, crc as u32)).collect(),
                at: SpliceAt::End,
            };
            let lease = None;
            let change = ClientCommand::ChangeFile(FileChange { file, lease, what });
            self.client.run(&mut self.machine, change).unwrap();
            self.client.run(&mut self.machine, upload.abort()).unwrap();
            left -= count;
        }
    }

    fn round(&mut self) -> Found {
        let fleet = self.fleet();
        let under_way = merges::under_way(&self.machine.rows).unwrap();
        let mut building = BTreeMap::new();
        for (id, _) in &under_way {
            for copy in read::chunk(&self.machine.rows, *id).unwrap().unwrap().replicas {
                *building.entry(copy.server).or_default() += 1;
            }
        }
        let scene = Scene {
            fleet: &fleet,
            under_way: &under_way,
            building,
            now: self.now,
            state_now: read::now(&self.machine.rows).unwrap(),
            seed: self.now.as_secs(),
        };
        self.sweep.round(&self.machine.rows, &scene).unwrap()
    }

    fn apply(&mut self, step: MergeStep) {
        self.machine.apply(&Command::Merge(step)).0.unwrap();
    }

    /// What a leader does in a second, with servers that are quick.
    fn second(&mut self) {
        self.now += Duration::from_secs(1);
        self.machine.tick(1000);
        let found = self.round();
        assert!(found.plans.len() <= MERGES_MAX);
        for (file, changed) in found.settled {
            self.apply(MergeStep::Settle { file, changed });
        }
        for plan in found.plans {
            self.apply(MergeStep::Begin(plan));
        }
        for (chunk, row) in merges::under_way(&self.machine.rows).unwrap() {
            let made = read::chunk(&self.machine.rows, chunk).unwrap().unwrap();
            let seal = Seal {
                chunk,
                generation: made.generation,
                file_offset: row.offset,
                length: row.length(),
                crc: row.crc().unwrap(),
                members: made.replicas.iter().map(|copy| copy.server).collect(),
            };
            self.apply(MergeStep::Exchange { seal });
        }
    }

    fn extents(&self, file: Ino) -> usize {
        merges::extents(&self.machine.rows, file, 0, 1 << 20).unwrap().len()
    }

    fn is_noted(&self) -> bool {
        !merges::fragmented(&self.machine.rows, None, 1).unwrap().is_empty()
    }
}

/// A file of more pieces than one look sees, and a small one beside it: in the end neither has much left to merge, and
/// nobody looks at them any more.
#[test]
fn files_of_any_length_come_to_rest_in_few_extents() {
    let mut sim = Sim::new();
    let long = sim.client.put(&mut sim.machine, "/long", 0).ino;
    let short = sim.client.put(&mut sim.machine, "/short", 0).ino;
    sim.append(long, 3 * PAGE, 1000);
    sim.append(short, 9, 1000);
    let mut seconds = 0;
    while sim.is_noted() {
        sim.second();
        seconds += 1;
        assert!(
            seconds < 200,
            "{} and {} extents",
            sim.extents(long),
            sim.extents(short)
        );
    }
    assert!(sim.extents(long) < 20, "{} extents are left", sim.extents(long));
    assert_eq!(sim.extents(short), 1);
    sim.machine.check();
    assert_eq!(sim.round(), Found::default());
}

/// One that is changed all the time is merged when it has very many extents, not piece by piece, and is not done with.
#[test]
fn a_file_that_grows_is_merged_in_long_runs_only() {
    let mut sim = Sim::new();
    let file = sim.client.put(&mut sim.machine, "/log", 0).ino;
    let mut seconds = 0;
    while seconds < 60 {
        sim.append(file, 100, 100);
        sim.second();
        assert!(sim.is_noted());
        seconds += 1;
        if seconds * 100 < PAGE {
            assert_eq!(sim.extents(file), seconds * 100, "its writer is alone");
        }
    }
    let left = sim.extents(file);
    assert!(left < PAGE + 200, "{left} extents are left");
    let merged = merges::extents(&sim.machine.rows, file, 0, 10_000).unwrap();
    let shortest = merged
        .iter()
        .map(|(_, of)| of.length)
        .filter(|length| *length > 100)
        .min();
    assert!(shortest >= Some(100 * BUSY_RUN_MIN as u64), "{shortest:?}");
    for _ in 0..20 {
        sim.second();
    }
    assert!(!sim.is_noted() && sim.extents(file) < 20);
    sim.machine.check();
}

#[test]
fn nothing_begins_without_room_or_without_copies_and_all_does_later() {
    let mut sim = Sim::new();
    let file = sim.client.put(&mut sim.machine, "/f", 0).ino;
    sim.append(file, 100, 1000);
    let quiet = |sim: &mut Sim| {
        for _ in 0..30 {
            sim.second();
            assert_eq!((sim.extents(file), sim.is_noted()), (100, true));
        }
    };
    sim.free = ROOM_LEFT + 99_999;
    quiet(&mut sim);
    sim.free = PLENTY;
    // Pieces lie on 1, 2 and 3; two servers are no place for three copies either.
    sim.silent = BTreeSet::from([1, 2]);
    quiet(&mut sim);
    sim.silent = BTreeSet::from([4, 1]);
    quiet(&mut sim);
    sim.silent.clear();
    for _ in 0..30 {
        sim.second();
    }
    assert_eq!((sim.extents(file), sim.is_noted()), (1, false));
}

#[test]
fn few_are_under_way_at_one_time_and_files_that_are_gone_are_forgotten() {
    let mut sim = Sim::new();
    let mut files = Vec::new();
    for at in 0..30 {
        let file = sim.client.put(&mut sim.machine, &format!("/f{at}"), 0).ino;
        sim.append(file, 20, 1000);
        files.push(file);
    }
    sim.machine.tick(QUIET_MS);
    let found = sim.round();
    let mut copies: BTreeMap<ServerId, usize> = BTreeMap::new();
    for plan in &found.plans {
        assert_eq!(plan.targets.len(), usize::from(SETTINGS.replicas));
        for target in &plan.targets {
            *copies.entry(*target).or_default() += 1;
        }
    }
    assert!(!found.plans.is_empty() && copies.values().all(|count| *count <= MERGES_PER_SERVER_MAX));
    for plan in found.plans {
        sim.apply(MergeStep::Begin(plan));
    }
    let merged: Vec<Ino> = merges::under_way(&sim.machine.rows)
        .unwrap()
        .into_iter()
        .map(|(_, row)| row.file)
        .collect();
    let again = sim.round();
    assert!(again.plans.iter().all(|plan| !merged.contains(&plan.file)), "{again:?}");
    // One in the trash stays as it is.
    let put = ClientCommand::MoveToTrash {
        path: crate::state::tests::path("/f29"),
        recursive: false,
    };
    sim.client.run(&mut sim.machine, put).unwrap();
    let settled = sim.round().settled;
    assert!(settled.iter().any(|(file, _)| *file == files[29]), "{settled:?}");
    sim.client.run(&mut sim.machine, remove("/f28", false)).unwrap();
    sim.machine.check();
    sim.sweep.avoid(files[5], sim.now);
    let avoiding = sim.round();
    assert!(avoiding.plans.iter().all(|plan| plan.file != files[5]));
}
