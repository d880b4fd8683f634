//! What repair and scrub say.

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
