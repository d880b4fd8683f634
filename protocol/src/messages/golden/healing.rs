//! What repair, scrub and inventory say.

use super::*;

/// What repair says, after all that was frozen before it.
pub(super) fn repair() -> Vec<String> {
    use data::{Request, Response};
    use master::{ChunkTrouble, CopyOrder, CopySource, Order, OrderDone, Query};
    let (chunk, replica) = (chunk(), ReplicaNumber(2));
    let source = CopySource {
        access: access(),
        token: token(),
    };
    let copy = CopyOrder {
        chunk,
        generation: Generation(1),
        replica,
        length: 300,
        crc: 5,
        sources: vec![source],
    };
    let copied = OrderDone::Copied {
        chunk,
        replica,
        length: 300,
        crc: 5,
    };
    let failed = OrderDone::CopyFailed {
        chunk,
        replica,
        why: "w".into(),
    };
    let differs = OrderDone::SourceDiffers {
        chunk,
        server: ServerId(3),
        replica,
        what: "w".into(),
    };
    let mut queries = vec![Query::Repairs];
    for trouble in [ChunkTrouble::Under, ChunkTrouble::Damaged, ChunkTrouble::Missing] {
        let after = Some(chunk);
        queries.push(Query::Troubled { trouble, after });
    }
    let info = master::ChunkInfo {
        chunk,
        state: master::ChunkState::Sealed,
        generation: Generation(1),
        length: 300,
        crc: 5,
        references: 1,
        wanted: 3,
        replicas: vec![(ServerId(3), replica, master::ReplicaState::Copying)],
    };
    let troubled = master::TroubledChunk {
        info,
        reachable: vec![ServerId(4)],
        damaged: vec![(ServerId(3), "w".into())],
    };
    let page = master::Response::ChunkPage {
        chunks: vec![troubled],
        next: Some(chunk),
    };
    let described = Response::Described {
        owner: Ino(2),
        file_offset: 3,
        length: 300,
        crc: 5,
    };
    let mut all = lines("order", &[Order::Copy(copy)]);
    all.extend(lines("order done", &[copied, failed, differs]));
    all.extend(lines("query", &queries));
    all.extend(lines(
        "master response",
        &[page, master::Response::Repairs { copying: 7 }],
    ));
    all.extend(lines("data request", &[Request::Describe { token: token() }]));
    all.extend(lines("data response", &[described]));
    all
}

pub(super) fn scrub_requests() -> Vec<master::Request> {
    use master::{Admin, Beat, OrderDone, Request, ScrubReport};
    let incarnation = Incarnation([2; 16]);
    let intact = OrderDone::Intact {
        chunk: chunk(),
        replica: ReplicaNumber(2),
    };
    vec![
        Request::ScrubReport(ScrubReport {
            server: ServerId(3),
            incarnation,
            obeyed: 4,
            progress: scrub_progress(),
        }),
        Request::Admin(Admin::StartScrub {
            request: 5,
            servers: vec![ServerId(3)],
        }),
        Request::Admin(Admin::ScrubStatus),
        Request::Beat(Beat {
            server: ServerId(3),
            incarnation,
            epoch: Epoch::default(),
            load: load(),
            done: vec![intact],
            damaged: vec![],
        }),
    ]
}

pub(super) fn scrub_responses() -> Vec<master::Response> {
    use master::{Order, Response, ServerScrub};
    vec![
        Response::ScrubAnswer {
            epoch: Some(Epoch::default()),
            start: Some(5),
        },
        Response::ScrubStarted {
            begun: vec![ServerId(3)],
            waiting: vec![ServerId(4)],
        },
        Response::ScrubStatus(vec![ServerScrub {
            server: ServerId(3),
            name: "c3".into(),
            waiting: false,
            age_ms: Some(7),
            progress: scrub_progress(),
        }]),
        Response::BeatAnswer {
            epoch: None,
            now: StateTime(1),
            orders: vec![Order::Verify {
                chunk: chunk(),
                replica: ReplicaNumber(2),
            }],
            masters: vec![],
        },
    ]
}

fn scrub_progress() -> master::ScrubProgress {
    master::ScrubProgress {
        started: Some(StateTime(1)),
        asked: true,
        running: true,
        bytes_done: 2,
        bytes_total: 3,
        chunks_done: 4,
        damaged: 5,
        gave_way: 6,
        last: Some(master::ScrubPass {
            started: StateTime(7),
            ended: StateTime(8),
            bytes: 9,
            chunks: 10,
            damaged: 11,
        }),
    }
}

fn page() -> master::BucketPage {
    master::BucketPage {
        ask: ask(),
        quiet_ms: 5000,
        copies: vec![(chunk(), ReplicaNumber(2))],
        more: true,
    }
}

fn ask() -> master::BucketAsk {
    master::BucketAsk {
        bucket: 1023,
        after: Some(chunk()),
        number: 4,
    }
}

fn inventory_report(digests: usize) -> master::InventoryReport {
    master::InventoryReport {
        server: ServerId(3),
        incarnation: Incarnation([2; 16]),
        copies: 1_000_000,
        highest: Some(chunk()),
        highest_number: ReplicaNumber(5),
        refused: 1,
        complete: true,
        first: 960,
        digests: vec![[0xfe; 8]; digests],
        listed: None,
    }
}

pub(super) fn inventory_requests() -> Vec<master::Request> {
    use master::{Admin, Request};
    let mut listed = inventory_report(1);
    listed.listed = Some(page());
    vec![
        Request::Inventory(Box::new(listed)),
        Request::Admin(Admin::InventoryStatus),
        Request::Admin(Admin::AcceptUnknown { server: ServerId(3) }),
    ]
}

pub(super) fn inventory_responses() -> Vec<master::Response> {
    use master::{Response, ServerInventory};
    vec![
        Response::InventoryAnswer {
            epoch: Some(Epoch::default()),
            list: Some(ask()),
        },
        Response::Inventories(vec![ServerInventory {
            server: ServerId(3),
            name: "c3".into(),
            age_ms: Some(7),
            copies: 300,
            complete: true,
            refused: 1,
            heard: 2,
            differing: 3,
            compared: 4,
            missing: 5,
            unknown: 6,
            stopped: false,
            forgotten: 7,
        }]),
    ]
}

pub(super) fn disk_requests() -> Vec<master::Request> {
    use master::{Admin, DiskReport, Request};
    let chunk = chunk();
    let report = DiskReport {
        server: ServerId(3),
        incarnation: Incarnation([2; 16]),
        disks: disks(),
        leaving: vec![(chunk, ReplicaNumber(2))],
    };
    vec![
        Request::Disks(Box::new(report)),
        Request::Admin(Admin::DiskStatus),
        Request::Admin(Admin::InspectChunk { chunk }),
        Request::Admin(Admin::RepairChunk { chunk }),
    ]
}

fn disks() -> Vec<master::DiskInfo> {
    use master::DiskState::{Failing, Full, OutOfService, Serving};
    let disk = |state| master::DiskInfo {
        disk: Some([4; 16]),
        directory: "/d".into(),
        state,
        why: "w".into(),
        bytes_total: 300,
        bytes_free: 5,
        copies: None,
    };
    [Serving, Full, Failing, OutOfService].map(disk).to_vec()
}

pub(super) fn disk_responses() -> Vec<master::Response> {
    use master::CopyCounts::{Copying, Damaged, Dropping, Expected, Gone, Leaving, Present};
    use master::{ChunkReport, CopyReport, Response, ServerDisks};
    let copy = |counts| CopyReport {
        server: ServerId(3),
        name: "c3".into(),
        health: master::Health::Suspect,
        counts,
        said: Some(("w".into(), true)),
    };
    let info = master::ChunkInfo {
        chunk: chunk(),
        state: master::ChunkState::Sealed,
        generation: Generation(1),
        length: 300,
        crc: 5,
        references: 1,
        wanted: 3,
        replicas: vec![(ServerId(3), ReplicaNumber(2), master::ReplicaState::Live)],
    };
    let report = ChunkReport {
        info,
        owner: Ino(2),
        owner_path: Some("/p".into()),
        copies: [Present, Expected, Leaving, Gone, Damaged, Copying, Dropping]
            .map(copy)
            .to_vec(),
    };
    let server = ServerDisks {
        server: ServerId(3),
        name: "c3".into(),
        age_ms: Some(7),
        disks: disks(),
    };
    vec![Response::Disks(vec![server]), Response::ChunkReport(Box::new(report))]
}

pub(super) fn drained_requests() -> Vec<master::Request> {
    use master::{Admin, Request};
    vec![Request::Admin(Admin::DrainDisk {
        server: ServerId(3),
        disk: [4; 16],
        drain: true,
        force: false,
    })]
}

pub(super) fn drained_responses() -> Vec<master::Response> {
    use master::{DiskOrder, DiskState, Response, ServerDisks};
    let order = DiskOrder {
        disk: [4; 16],
        drain: true,
    };
    let mut disk = disks().remove(0);
    disk.state = DiskState::Draining;
    let server = ServerDisks {
        server: ServerId(3),
        name: "c3".into(),
        age_ms: Some(7),
        disks: vec![disk],
    };
    let epoch = Epoch {
        term: 5,
        leader: MasterId(1),
    };
    let orders = vec![order];
    vec![Response::DiskAnswer { epoch, orders }, Response::Disks(vec![server])]
}

/// A steady beat and the report after it, with the numbers of a server of a million copies: what an idle server sends
/// twice a second.
#[test]
fn a_steady_beat_is_small() {
    use crate::inventory::{Bucket, Digests};
    let mut digests = Digests::default();
    let mut highest = chunk();
    for counter in 0..1_000_000 {
        highest.counter = 3 * counter;
        digests.add(highest, ReplicaNumber(9 * counter));
    }
    let beat = master::Request::Beat(master::Beat {
        server: ServerId(300),
        incarnation: Incarnation([2; 16]),
        epoch: Epoch {
            term: 1000,
            leader: MasterId(3),
        },
        load: master::Load {
            bytes_total: 64 << 40,
            bytes_free: 32 << 40,
            chunks: 1_000_000,
            streams: 100,
            disks_failed: 0,
            disks_ok: 12,
        },
        done: vec![],
        damaged: vec![],
    });
    let told: Vec<_> = Bucket::all().map(|bucket| digests.of(bucket).to_be_bytes()).collect();
    assert!(told.iter().all(|digest| *digest != [0; 8]), "every bucket has copies");
    for (at, digests) in told.chunks(crate::limits::INVENTORY_DIGESTS).enumerate() {
        let report = master::InventoryReport {
            first: (at * crate::limits::INVENTORY_DIGESTS) as u16,
            digests: digests.to_vec(),
            highest: Some(highest),
            ..inventory_report(0)
        };
        let report = master::Request::Inventory(Box::new(report));
        let bytes = encode(&beat).len() + encode(&report).len() + 2 * crate::frame::HEADER_BYTES;
        println!(
            "beat {} B, report {} B, with their frames {bytes} B",
            encode(&beat).len(),
            encode(&report).len()
        );
        assert!(bytes < 1024, "{bytes} bytes");
    }
}

/// The largest page fits a message.
#[test]
fn a_page_of_a_bucket_fits_a_message() {
    let mut report = inventory_report(crate::limits::INVENTORY_DIGESTS);
    let last = ChunkId {
        volume: VolumeId(u16::MAX),
        timeline: Timeline(u32::MAX),
        counter: u64::MAX,
    };
    let mut page = page();
    page.copies = vec![(last, ReplicaNumber(u64::MAX)); crate::limits::INVENTORY_PAGE];
    report.listed = Some(page);
    assert!(encode(&master::Request::Inventory(Box::new(report))).len() <= crate::limits::MESSAGE_BYTES_MAX);
}
