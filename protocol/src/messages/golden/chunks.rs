//! What chunkservers are asked and answer, and what goes through a write stream.

use super::*;

fn write_spec() -> data::WriteSpec {
    data::WriteSpec {
        chunk: chunk(),
        generation: Generation(1),
        chain: vec![data::Hop {
            server: ServerId(3),
            address: "h".into(),
            token: token(),
        }],
        owner: Ino(2),
        file_offset: 3,
        bytes_max: 4,
    }
}

pub(super) fn data_requests() -> Vec<data::Request> {
    use data::Request;
    vec![
        Request::OpenWrite(write_spec()),
        Request::PutSmall {
            spec: write_spec(),
            crcs: vec![1],
        },
        Request::Read {
            token: token(),
            offset: 1,
            length: 2,
        },
        Request::Verify { token: token() },
        Request::Probe,
    ]
}

pub(super) fn data_responses() -> Vec<data::Response> {
    use data::{Response, Verdict};
    let verdicts = [
        Verdict::Good { length: 1, crc: 2 },
        Verdict::Missing,
        Verdict::Unsealed { length: 1 },
        Verdict::Damaged {
            offset: 1,
            what: "w".into(),
        },
        Verdict::Unreadable { what: "w".into() },
    ];
    let mut all = vec![
        Response::Opened { window_bytes: 1 },
        Response::Sealed { length: 1, crc: 2 },
        Response::Blocks {
            offset: 0,
            crcs: vec![1],
            chunk_length: 2,
            chunk_crc: 3,
        },
        Response::Alive,
    ];
    all.extend(verdicts.into_iter().map(Response::Verified));
    all
}

pub(super) fn to_server() -> Vec<data::ToServer> {
    use data::ToServer;
    vec![
        ToServer::Packet {
            offset: 0,
            crcs: vec![1],
        },
        ToServer::Seal { length: 1, crc: 2 },
        ToServer::Abort,
    ]
}

pub(super) fn from_server() -> Vec<data::FromServer> {
    use data::FromServer;
    vec![
        FromServer::Ack { stored: vec![1, 2] },
        FromServer::Sealed { length: 1, crc: 2 },
        FromServer::Failed {
            hop: 1,
            error: WireError::new(ErrorCode::NoSpace, "m"),
        },
    ]
}
