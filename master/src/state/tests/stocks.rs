//! Chunks granted ahead for small files.

use super::*;
use crate::state::key::chunk::{ChunkKey, Phase};

struct Stock {
    ino: Ino,
    generation: UploadGeneration,
    chunks: Vec<GrantedChunk>,
}

fn open_stock(chunks: usize, replicas: u8) -> ClientCommand {
    ClientCommand::OpenStock {
        replicas: Some(replicas),
        placements: vec![chain(&[1, 2, 3]); chunks],
    }
}

fn stock(machine: &mut Machine, client: &mut Client, chunks: usize) -> Stock {
    match client.run(machine, open_stock(chunks, 3)).unwrap() {
        Outcome::Upload {
            upload,
            generation,
            chunks,
            replicas: 3,
            ..
        } => Stock {
            ino: upload,
            generation,
            chunks,
        },
        other => panic!("{other:?}"),
    }
}

impl Stock {
    fn seal(&self, chunk: usize) -> Seal {
        let granted = &self.chunks[chunk];
        Seal {
            chunk: granted.chunk,
            generation: granted.generation,
            file_offset: 0,
            length: 100,
            crc: 7,
            members: chain(&[1, 2, 3]),
        }
    }

    fn put(&self, at: &str, chunk: usize) -> ClientCommand {
        ClientCommand::PutFile {
            path: path(at),
            options: options(),
            stock: self.ino,
            generation: self.generation,
            seal: self.seal(chunk),
        }
    }
}

#[test]
fn each_chunk_belongs_to_the_inode_that_takes_it() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let stock = stock(&mut machine, &mut client, 3);
    for (n, chunk) in [(2, "/c"), (0, "/new/a"), (1, "/c")] {
        let file = entry(client.run(&mut machine, stock.put(chunk, n)));
        assert_eq!(
            file.ino,
            Ino(stock.ino.0 + n as u64 + 1),
            "as its chunkservers were told"
        );
        assert_eq!((file.length, file.crc, file.children), (100, 7, 1));
        let owner = key::require(&machine.rows, &ChunkKey(stock.chunks[n].chunk))
            .unwrap()
            .owner;
        assert_eq!(owner, file.ino);
        machine.check();
    }
    let again = client.refused(&mut machine, stock.put("/d", 0));
    assert_eq!(again, ErrorCode::Fenced, "with its last chunk the stock is gone");
    let abort = ClientCommand::AbortUpload {
        upload: stock.ino,
        generation: stock.generation,
    };
    assert_eq!(client.run(&mut machine, abort), Ok(Outcome::Done));
    machine.check();
}

#[test]
fn a_chunk_is_taken_once_by_its_owner_and_as_it_was_granted() {
    let mut machine = Machine::new();
    let (mut client, mut other) = (Client::new(&machine, 1), Client::new(&machine, 2));
    let (mine, foreign) = (stock(&mut machine, &mut client, 2), stock(&mut machine, &mut other, 1));
    entry(client.run(&mut machine, mine.put("/a", 0)));
    assert_eq!(
        client.refused(&mut machine, mine.put("/b", 0)),
        ErrorCode::InvalidArgument
    );
    assert_eq!(other.refused(&mut machine, mine.put("/b", 1)), ErrorCode::Fenced);
    let borrowed = ClientCommand::PutFile {
        path: path("/b"),
        options: options(),
        stock: mine.ino,
        generation: mine.generation,
        seal: foreign.seal(0),
    };
    assert_eq!(client.refused(&mut machine, borrowed), ErrorCode::InvalidArgument);
    let fewer = ClientCommand::PutFile {
        path: path("/b"),
        options: UploadOptions {
            replicas: Some(2),
            ..options()
        },
        stock: mine.ino,
        generation: mine.generation,
        seal: mine.seal(1),
    };
    assert_eq!(client.refused(&mut machine, fewer), ErrorCode::InvalidArgument);
    let short = Seal {
        members: chain(&[1]),
        ..mine.seal(1)
    };
    let unsafe_file = ClientCommand::PutFile {
        path: path("/b"),
        options: options(),
        stock: mine.ino,
        generation: mine.generation,
        seal: short,
    };
    assert_eq!(client.refused(&mut machine, unsafe_file), ErrorCode::TooFewServers);
    assert_eq!(
        client.refused(&mut machine, open_stock(17, 3)),
        ErrorCode::LimitExceeded
    );
    assert_eq!(
        client.refused(&mut machine, open_stock(1, 0)),
        ErrorCode::InvalidArgument
    );
    entry(client.run(&mut machine, mine.put("/b", 1)));
    machine.check();
}

#[test]
fn a_stock_is_no_upload_and_an_upload_no_stock() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let stock = stock(&mut machine, &mut client, 2);
    let (upload, generation) = (stock.ino, stock.generation);
    for command in [
        ClientCommand::SealChunks {
            upload,
            generation,
            seals: vec![stock.seal(0)],
        },
        ClientCommand::GrantChunks {
            upload,
            generation,
            placements: vec![chain(&[1, 2, 3])],
            abandoned: Vec::new(),
        },
        ClientCommand::Commit {
            upload,
            generation,
            seals: Vec::new(),
            length: 0,
            crc: 0,
        },
    ] {
        assert_eq!(client.refused(&mut machine, command), ErrorCode::Fenced);
    }
    let Outcome::Upload {
        upload: named, chunks, ..
    } = client.run(&mut machine, open("/f", 1)).unwrap()
    else {
        panic!("no upload");
    };
    let named = Stock {
        ino: named,
        generation,
        chunks,
    };
    assert_eq!(client.refused(&mut machine, named.put("/f", 0)), ErrorCode::Fenced);
    machine.check();
}

#[test]
fn a_stock_nobody_renews_is_given_back() {
    let mut machine = Machine::new();
    let mut client = Client::new(&machine, 1);
    let stock = stock(&mut machine, &mut client, 3);
    client.sequence += 1;
    let put = client.request(client.sequence, 1, stock.put("/a", 0));
    let answer = machine.apply(&put);
    assert_eq!(machine.apply(&put), answer, "a duplicate gets the first answer");
    machine.tick(SETTINGS.upload_lease_ms - 1);
    let renew = ClientCommand::Renew {
        uploads: vec![(stock.ino, stock.generation)],
    };
    client.run(&mut machine, renew).unwrap();
    machine.tick(SETTINGS.upload_lease_ms - 1);
    entry(client.run(&mut machine, stock.put("/b", 1)));
    machine.tick(SETTINGS.upload_lease_ms);
    machine.settle();
    assert_eq!(client.refused(&mut machine, stock.put("/c", 2)), ErrorCode::Fenced);
    let phase = |n: usize| {
        key::require(&machine.rows, &ChunkKey(stock.chunks[n].chunk))
            .unwrap()
            .phase
    };
    assert_eq!((phase(0), phase(1)), (Phase::Sealed, Phase::Sealed));
    assert!(matches!(phase(2), Phase::Garbage { .. }));
    machine.check();
}
