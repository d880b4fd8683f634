//! Quotas: a directory never grows beyond one, by whichever way, and what writes under way hold comes back.

use std::cell::Cell;

use gabion_protocol::messages::master::{
    Change, CopyFiles, FileChange, QuotaChange, QuotaLimits, QuotaReport, Room, SpliceAt,
};

use super::*;
use crate::state::key::Kind;
use crate::state::key::meta::QuotasInUseKey;
use crate::state::rows::{Row, Rows, RowsError};

const CHUNK: u64 = SETTINGS.chunk_bytes;

fn set(at: &str, bytes: Option<u64>, entries: Option<u64>) -> ClientCommand {
    ClientCommand::SetQuota {
        path: path(at),
        change: QuotaChange::Set(QuotaLimits { bytes, entries }),
    }
}

fn clear(at: &str) -> ClientCommand {
    ClientCommand::SetQuota {
        path: path(at),
        change: QuotaChange::Clear,
    }
}

fn sized(at: &str, chunks: usize, room: Room) -> ClientCommand {
    ClientCommand::OpenSized {
        path: path(at),
        options: options(),
        placements: vec![chain(&[1, 2, 3]); chunks],
        room,
    }
}

fn whole(at: &str, length: u64) -> ClientCommand {
    sized(at, 1, Room::Whole { length })
}

fn copy(from: &str, to: &str) -> ClientCommand {
    ClientCommand::Copy(CopyFiles {
        sources: vec![path(from)],
        to: path(to),
        replace: true,
        parents: true,
        keep_time: false,
    })
}

fn truncate(file: Ino, length: u64) -> ClientCommand {
    ClientCommand::ChangeFile(FileChange {
        file,
        lease: None,
        what: Change::Truncate { length },
    })
}

/// What a directory has: bytes and entries used, and the same reserved.
fn uses(machine: &Machine, at: &str) -> [u64; 4] {
    let QuotaReport { own, .. } = read::quota(&machine.rows, &path(at)).unwrap();
    [own.bytes, own.entries, own.reserved_bytes, own.reserved_entries]
}

struct World {
    machine: Machine,
    client: Client,
}

impl World {
    fn new() -> Self {
        let machine = Machine::new();
        let client = Client::new(&machine, 1);
        let mut world = Self { machine, client };
        world.run(mkdir("/q"));
        world.run(mkdir("/q/in"));
        world.run(mkdir("/out"));
        world
    }

    #[track_caller]
    fn run(&mut self, op: ClientCommand) -> Outcome {
        let done = self.client.run(&mut self.machine, op);
        self.machine.check();
        done.unwrap()
    }

    /// Is refused because of this directory, and changes nothing.
    #[track_caller]
    fn full(&mut self, directory: &str, op: ClientCommand) {
        let session = |kind| matches!(kind, Some(Kind::Session | Kind::SessionDue | Kind::Reply));
        let state = |machine: &Machine| {
            let mut rows = machine.rows.0.clone();
            rows.retain(|key, _| !session(Kind::of(key)));
            rows
        };
        let before = state(&self.machine);
        match self.client.run(&mut self.machine, op) {
            Err(Refusal::QuotaExceeded {
                directory: told,
                limit,
                used,
                reserved,
                needed,
                ..
            }) => {
                assert_eq!(told, path(directory));
                assert!(used + reserved + needed > limit && needed > 0);
            }
            other => panic!("{other:?}"),
        }
        assert!(state(&self.machine) == before, "a refused command changes nothing");
    }

    #[track_caller]
    fn upload(&mut self, op: ClientCommand) -> Upload {
        match self.run(op) {
            Outcome::Upload {
                upload,
                generation,
                chunks,
                ..
            } => Upload {
                ino: upload,
                generation,
                chunks: chunks.into(),
                whole: Running::default(),
            },
            other => panic!("{other:?}"),
        }
    }

    /// A file of so many bytes.
    fn put(&mut self, at: &str, length: u64) -> Entry {
        let mut upload = self.upload(whole(at, length));
        let seals = vec![upload.seal(length, 1)];
        entry(Ok(self.run(upload.commit(seals))))
    }

    fn grant(&mut self, upload: &Upload, chunks: usize) -> ClientCommand {
        ClientCommand::GrantChunks {
            upload: upload.ino,
            generation: upload.generation,
            placements: vec![chain(&[1, 2, 3]); chunks],
            abandoned: Vec::new(),
        }
    }
}

#[test]
fn whatever_grows_a_directory_stops_at_its_quota() {
    let mut w = World::new();
    let outside = w.put("/out/f", 60).ino;
    let inside = w.put("/q/in/f", 60).ino;
    w.run(mkdir("/out/d"));
    w.put("/out/d/f", 41);
    w.run(set("/q", Some(100), None));
    for op in [
        whole("/q/g", 41),
        whole("/q/in/deep/er/g", 41),
        copy("/out/f", "/q/g"),
        rename("/out/f", "/q/g", false),
        rename("/out/d", "/q/in/d", false),
        truncate(inside, 101),
    ] {
        w.full("/q", op);
    }
    w.run(discard("/q/in/f"));
    w.put("/q/g", 41);
    w.full("/q", restore("/q/in/f", None));
    w.run(truncate(outside, 200));
    // What stays the same or shrinks always may, and what fits.
    w.run(rename("/q/g", "/q/in/g", false));
    w.run(copy("/q/in/g", "/out/g"));
    w.run(copy("/q/in/g", "/q/h"));
    w.run(remove("/q/h", false));
    w.run(restore("/q/in/f", Some("/out/back")));
    assert_eq!(uses(&w.machine, "/q"), [41, 2, 0, 0]);
}

#[test]
fn a_splice_and_a_small_file_stop_at_the_quota() {
    let mut w = World::new();
    let file = w.put("/q/f", 60).ino;
    w.run(set("/q", Some(100), None));
    let stock = w.upload(ClientCommand::OpenStock {
        replicas: Some(3),
        placements: vec![chain(&[1, 2, 3]); 3],
    });
    let splice = |seal: Seal, at| {
        let (upload, generation) = (stock.ino, stock.generation);
        let what = Change::Splice {
            upload,
            generation,
            seals: vec![Seal { file_offset: 0, ..seal }],
            at,
        };
        ClientCommand::ChangeFile(FileChange {
            file,
            lease: None,
            what,
        })
    };
    let granted = stock.chunks.clone();
    let seal = |at: usize, length| Seal {
        chunk: granted[at].chunk,
        generation: granted[at].generation,
        file_offset: 0,
        length,
        crc: 1,
        members: chain(&[1, 2, 3]),
    };
    w.full("/q", splice(seal(0, 41), SpliceAt::End));
    w.run(splice(seal(0, 41), SpliceAt::Offset(10)));
    w.run(splice(seal(1, 40), SpliceAt::End));
    let small = |length| ClientCommand::PutFile {
        path: path("/q/small"),
        options: options(),
        stock: stock.ino,
        generation: stock.generation,
        seal: seal(2, length),
    };
    w.full("/q", small(1));
    w.run(truncate(file, 99));
    w.run(small(1));
    assert_eq!(uses(&w.machine, "/q"), [100, 3, 0, 0]);
}

#[test]
fn entries_count_too_and_directories_on_the_way() {
    let mut w = World::new();
    w.run(set("/q", None, Some(3)));
    w.run(mkdir("/q/a"));
    w.full("/q", whole("/q/b/c", 1));
    let held = w.upload(whole("/q/b", 1));
    assert_eq!(uses(&w.machine, "/q"), [0, 2, 1, 1]);
    w.full("/q", mkdir("/q/c"));
    w.full(
        "/q",
        ClientCommand::CreateFile {
            path: path("/q/c"),
            options: options(),
        },
    );
    w.run(held.abort());
    w.run(mkdir("/q/c"));
    w.full("/q", rename("/out", "/q/a/out", false));
}

#[test]
fn all_directories_above_must_have_room_and_the_tightest_is_told() {
    let mut w = World::new();
    w.run(set("/", Some(1000), None));
    w.run(set("/q", Some(100), None));
    w.run(set("/q/in", Some(200), Some(5)));
    w.full("/q", whole("/q/in/f", 101));
    w.put("/q/in/f", 90);
    w.full("/q", whole("/q/in/g", 2000));
    w.full("/", whole("/out/g", 911));
    let report = read::quota(&w.machine.rows, &path("/q/in")).unwrap();
    assert_eq!((report.path, report.own.depth), (path("/q/in"), 2));
    let left: Vec<_> = std::iter::once(&report.own)
        .chain(&report.above)
        .map(|usage| (usage.depth, usage.bytes_left()))
        .collect();
    assert_eq!(left, [(2, Some(110)), (1, Some(10)), (0, Some(910))]);
}

#[test]
fn a_known_length_is_held_from_the_beginning_and_comes_back() {
    let mut w = World::new();
    w.run(set("/q", Some(100), None));
    let a = w.upload(whole("/q/in/a", 70));
    assert_eq!(uses(&w.machine, "/q"), [0, 1, 70, 1]);
    assert_eq!(uses(&w.machine, "/q/in"), [0, 0, 70, 1]);
    w.full("/q", whole("/q/b", 31));
    let mut b = w.upload(whole("/q/b", 30));
    w.run(a.abort());
    let seals = vec![b.seal(30, 1)];
    w.run(b.commit(seals));
    assert_eq!(uses(&w.machine, "/q"), [30, 2, 0, 0]);
    // One whose client dies.
    w.upload(whole("/q/c", 70));
    w.full("/q", whole("/q/d", 1));
    w.machine.tick(SETTINGS.upload_lease_ms);
    w.machine.settle();
    w.machine.check();
    assert_eq!(uses(&w.machine, "/q"), [30, 2, 0, 0]);
    w.put("/q/d", 70);
    // Who writes more than he said is stopped when that is recorded.
    w.run(remove("/q/d", false));
    let mut liar = w.upload(whole("/q/e", 1));
    let seal = liar.seal(71, 1);
    w.full("/q", liar.seal_chunks(vec![seal]));
}

#[test]
fn an_unknown_length_is_held_chunk_by_chunk() {
    let mut w = World::new();
    w.run(set("/q", Some(2 * CHUNK + 10), None));
    let mut a = w.upload(sized("/q/a", 1, Room::Growing));
    assert_eq!(uses(&w.machine, "/q"), [0, 1, CHUNK, 1]);
    let seal = a.seal(50, 1);
    let op = a.seal_chunks(vec![seal]);
    w.run(op);
    assert_eq!(
        uses(&w.machine, "/q")[2],
        50,
        "what a chunk turned out not to need comes back"
    );
    let op = w.grant(&a, 1);
    w.run(op);
    assert_eq!(uses(&w.machine, "/q")[2], CHUNK + 50);
    // As much as is left.
    let b = w.upload(sized("/q/b", 1, Room::Growing));
    assert_eq!(uses(&w.machine, "/q")[2], 2 * CHUNK + 10);
    w.full("/q", sized("/q/c", 1, Room::Growing));
    let op = w.grant(&b, 1);
    w.full("/q", op);
    w.run(b.abort());
    w.run(sized("/q/c", 1, Room::Growing));
}

#[test]
fn a_replaced_file_makes_room_for_the_new_one() {
    let mut w = World::new();
    w.put("/q/f", 80);
    w.run(set("/q", Some(100), Some(2)));
    w.full("/q", whole("/q/f", 101));
    let mut upload = w.upload(whole("/q/f", 95));
    assert_eq!(uses(&w.machine, "/q"), [80, 2, 15, 0]);
    let seals = vec![upload.seal(95, 1)];
    w.run(upload.commit(seals));
    assert_eq!(uses(&w.machine, "/q"), [95, 2, 0, 0]);
}

#[test]
fn appended_bytes_are_held_and_overwritten_ones_only_counted() {
    let mut w = World::new();
    let file = w.put("/q/f", 60).ino;
    w.run(set("/q", Some(CHUNK + 60), None));
    let mut upload = w.upload(sized("/q/f", 1, Room::Appended));
    assert_eq!(uses(&w.machine, "/q"), [60, 2, CHUNK, 0]);
    let op = w.grant(&upload, 1);
    w.full("/q", op);
    let seals = vec![upload.seal(100, 1)];
    let what = Change::Splice {
        upload: upload.ino,
        generation: upload.generation,
        seals,
        at: SpliceAt::End,
    };
    let lease = None;
    w.run(ClientCommand::ChangeFile(FileChange { file, lease, what }));
    assert_eq!(uses(&w.machine, "/q"), [160, 2, 0, 0]);
    w.run(sized("/q/f", 1, Room::Overwritten));
    assert_eq!(uses(&w.machine, "/q"), [160, 2, 0, 0]);
}

#[test]
fn what_is_held_moves_with_its_directory() {
    let mut w = World::new();
    w.run(set("/q", Some(100), None));
    let mut upload = w.upload(whole("/q/in/f", 70));
    w.run(rename("/q/in", "/out/in", false));
    assert_eq!((uses(&w.machine, "/q")[2], uses(&w.machine, "/out")[2]), (0, 70));
    w.put("/q/g", 90);
    w.full("/q", rename("/out/in", "/q/in", false));
    // Its path leads into the quota all the same, where there is not enough room any more.
    let seals = vec![upload.seal(70, 1)];
    let op = upload.commit(seals);
    w.full("/q", op);
    w.run(upload.abort());
    assert_eq!(uses(&w.machine, "/out")[2], 0);
    w.run(rename("/out/in", "/q/in", false));
    // Into the trash with an upload on its way there, and back; and gone for good before it ends.
    let held = w.upload(whole("/q/in/h", 10));
    w.run(discard("/q/in"));
    assert_eq!(uses(&w.machine, "/q"), [90, 1, 0, 0]);
    w.run(restore("/q/in", None));
    assert_eq!(uses(&w.machine, "/q"), [90, 2, 10, 1]);
    w.run(remove("/q/in", true));
    w.machine.settle();
    w.run(held.abort());
    assert_eq!(uses(&w.machine, "/q"), [90, 1, 0, 0]);
}

#[test]
fn a_quota_below_what_is_used_stops_growth_and_removes_nothing() {
    let mut w = World::new();
    w.put("/q/f", 80);
    let mut held = w.upload(whole("/q/late", 10));
    w.run(set("/q", Some(50), Some(1)));
    assert_eq!(uses(&w.machine, "/q"), [80, 2, 0, 0]);
    w.full("/q", whole("/q/g", 1));
    w.full("/q", mkdir("/q/d"));
    let seals = vec![held.seal(10, 1)];
    let op = held.commit(seals);
    w.full("/q", op);
    w.run(rename("/q/f", "/q/in/f", false));
    w.run(remove("/q/in/f", false));
    w.run(set("/q", None, Some(2)));
    w.put("/q/g", 50);
    w.run(clear("/q"));
    w.put("/q/h", 500);
    assert!(key::get(&w.machine.rows, &QuotasInUseKey).unwrap().is_none());
    assert_eq!(
        w.client.refused(&mut w.machine, set("/q/g", Some(1), None)),
        ErrorCode::NotDirectory
    );
    assert_eq!(
        w.client.refused(&mut w.machine, set("/q", None, None)),
        ErrorCode::InvalidArgument
    );
}

#[test]
fn a_quota_goes_with_its_directory_and_comes_back_with_it() {
    let mut w = World::new();
    w.run(set("/q", Some(100), None));
    w.put("/q/f", 60);
    w.run(rename("/q", "/r", false));
    w.full("/r", whole("/r/g", 41));
    w.run(discard("/r"));
    w.run(mkdir("/r"));
    w.put("/r/g", 500);
    w.run(restore("/r", Some("/s")));
    w.full("/s", whole("/s/g", 41));
    w.run(remove("/s", true));
    w.machine.settle();
    w.machine.check();
    assert!(key::get(&w.machine.rows, &QuotasInUseKey).unwrap().is_none());
}

#[test]
fn a_resumed_upload_holds_room_while_somebody_writes_it() {
    let mut w = World::new();
    w.run(set("/q", Some(100), None));
    let resume = |length| ClientCommand::ResumeSized {
        path: path("/q/f"),
        options: options(),
        owner: gabion_protocol::keys::Identity {
            role: gabion_protocol::keys::Role::Client,
            id: "ann".to_owned(),
        },
        keep_ms: 60_000,
        length,
    };
    w.full("/q", resume(101));
    w.run(resume(70));
    assert_eq!(uses(&w.machine, "/q")[2], 70);
    w.machine.tick(SETTINGS.upload_lease_ms);
    w.machine.settle();
    assert_eq!(uses(&w.machine, "/q")[2], 0, "nobody writes it");
    w.put("/q/g", 40);
    w.full("/q", resume(70));
    w.run(remove("/q/g", false));
    w.run(resume(70));
    assert_eq!(uses(&w.machine, "/q")[2], 70);
}

#[test]
fn snapshots_neither_count_nor_break_quotas() {
    let mut w = World::new();
    w.run(set("/q", Some(100), None));
    w.put("/q/f", 60);
    w.run(ClientCommand::CreateSnapshot {
        path: path("/q"),
        name: "s".to_owned(),
    });
    w.run(remove("/q/f", false));
    w.put("/q/g", 100);
    w.full("/q", copy("/q/.snapshot/s/f", "/q/f"));
    w.run(remove("/q/g", false));
    w.run(copy("/q/.snapshot/s/f", "/q/f"));
    let held = w.upload(whole("/q/h", 40));
    w.full("/q", whole("/q/i", 1));
    w.run(held.abort());
    assert_eq!(uses(&w.machine, "/q"), [60, 2, 0, 0]);
}

/// Rows below a command, and how often it looks at those of quotas.
struct Counted<'a> {
    rows: &'a MemoryRows,
    in_use: Cell<usize>,
    others: Cell<usize>,
}

impl Rows for Counted<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, RowsError> {
        if key == QuotasInUseKey.encode() {
            self.in_use.set(self.in_use.get() + 1);
        } else if matches!(Kind::of(key), Some(Kind::Quota | Kind::Reservation)) {
            self.others.set(self.others.get() + 1);
        }
        self.rows.get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Row>, RowsError> {
        self.rows.scan(from, to, limit)
    }
}

/// Where there are no quotas a command looks at one row, which is not there, a few times at most.
#[test]
fn without_quotas_a_command_reads_none_of_their_rows() {
    let mut w = World::new();
    let mut upload = w.upload(whole("/q/in/f", 10));
    let seals = vec![upload.seal(10, 1)];
    for op in [
        mkdir("/q/e"),
        rename("/q/in", "/g", false),
        whole("/q/g", 70),
        w.grant(&upload, 1),
        upload.commit(seals),
        upload.abort(),
    ] {
        let rows = Counted {
            rows: &w.machine.rows,
            in_use: Cell::new(0),
            others: Cell::new(0),
        };
        let mut batch = Batch::new(&rows);
        let at = LogAt {
            index: w.machine.index + 1,
            term: 1,
            leader: MasterId(1),
        };
        let reply = apply(&mut batch, at, &w.client.command(op.clone())).unwrap();
        assert!(reply.0.is_ok(), "{reply:?}");
        assert!(
            (1..=4).contains(&rows.in_use.get()),
            "{op:?} looks {} times",
            rows.in_use.get()
        );
        assert_eq!(rows.others.get(), 0, "{op:?}");
    }
}

/// Nor is anything written for them.
#[test]
fn without_quotas_there_is_no_row_of_them() {
    let mut w = World::new();
    w.upload(whole("/q/a", 70));
    w.upload(sized("/q/b", 1, Room::Growing));
    w.put("/q/c", 10);
    let of_quotas = |key: &&Vec<u8>| matches!(Kind::of(key), Some(Kind::Quota | Kind::Reservation));
    assert_eq!(w.machine.rows.0.keys().filter(of_quotas).count(), 0);
    assert_eq!(uses(&w.machine, "/q"), [10, 2, 0, 0]);
    // Nor by uploads that no quota concerns.
    w.run(set("/out", Some(100), None));
    w.upload(whole("/q/d", 70));
    assert_eq!(uses(&w.machine, "/q")[2], 0);
}
