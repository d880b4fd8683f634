//! Proxies that do what networks do.
//!
//! [`Proxies`] stand before masters and lose answers on purpose: the request arrives and is carried out, its answer is
//! not heard. They read the frames they forward, so they know which command an answer is for. [`flip_bits`] and
//! [`far_away`] know nothing of frames: the one damages what passes, the other lets it take its time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures_util::{SinkExt, StreamExt};
use gabion_protocol::frame::{Frame, FrameCodec, FrameLimits, Kind};
use gabion_protocol::ids::RequestId;
use gabion_protocol::messages::master::{Op, Request, Response};
use gabion_protocol::messages::{Answer, decode};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::codec::{FramedRead, FramedWrite};

/// How an answer is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Loss {
    /// The connection breaks in its place.
    Cut,
    /// It never comes; the connection stays.
    Silence,
}

#[derive(Debug, Default)]
struct Journal {
    /// Lose the answer to the next command whose debug text begins so, that was carried out.
    plan: Option<(String, Loss)>,
    /// How often each command was sent.
    sent: BTreeMap<RequestId, u32>,
    /// Commands whose answer was lost.
    lost: Vec<(RequestId, Op)>,
}

/// Shared by the proxies of all masters of a cluster: a retry may go to another one.
#[derive(Debug, Clone, Default)]
pub struct Proxies {
    journal: Arc<Mutex<Journal>>,
}

impl Proxies {
    /// Forwards what comes to `listen` to `target`, from now until `runtime` ends.
    ///
    /// # Panics
    /// If it cannot listen there.
    pub fn add(&self, runtime: &Runtime, listen: &str, target: &str) {
        let listener = runtime
            .block_on(TcpListener::bind(listen))
            .unwrap_or_else(|error| panic!("{listen}: {error}"));
        let (journal, target) = (Arc::clone(&self.journal), target.to_owned());
        runtime.spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (journal, target) = (Arc::clone(&journal), target.clone());
                tokio::spawn(async move {
                    // A master that is down looks as it would without the proxy: the connection closes.
                    if let Ok(server) = TcpStream::connect(&target).await {
                        forward(client, server, journal).await;
                    }
                });
            }
        });
    }

    /// Loses the answer to the next successful command of this kind (`Mkdir`, `Commit`…).
    pub fn lose_next(&self, kind: &str, loss: Loss) {
        self.journal.lock().plan = Some((kind.to_owned(), loss));
    }

    /// The commands whose answer was lost, and how often each was sent.
    #[must_use]
    pub fn lost(&self) -> Vec<(Op, u32)> {
        let journal = self.journal.lock();
        let times = |request| journal.sent.get(request).copied().unwrap_or(0);
        journal
            .lost
            .iter()
            .map(|(request, op)| (op.clone(), times(request)))
            .collect()
    }
}

/// The word before a variant's fields.
fn kind_of(op: &Op) -> String {
    let text = format!("{op:?}");
    text.split([' ', '{', '(']).next().unwrap_or_default().to_owned()
}

async fn forward(client: TcpStream, server: TcpStream, journal: Arc<Mutex<Journal>>) {
    let codec = || FrameCodec::new(FrameLimits::FULL);
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = server.into_split();
    let commands = Arc::new(Mutex::new(BTreeMap::new()));
    let up = {
        let (commands, journal) = (Arc::clone(&commands), Arc::clone(&journal));
        let (mut from, mut to) = (
            FramedRead::new(client_read, codec()),
            FramedWrite::new(server_write, codec()),
        );
        async move {
            while let Some(Ok(frame)) = from.next().await {
                note_command(&frame, &commands, &journal);
                if to.send(frame).await.is_err() {
                    return;
                }
            }
        }
    };
    let down = async move {
        let (mut from, mut to) = (
            FramedRead::new(server_read, codec()),
            FramedWrite::new(client_write, codec()),
        );
        while let Some(Ok(frame)) = from.next().await {
            match loss_of(&frame, &commands, &journal) {
                Some(Loss::Cut) => return,
                Some(Loss::Silence) => {}
                None if to.send(frame).await.is_err() => return,
                None => {}
            }
        }
    };
    // Whichever side ends first ends both: the sockets close when the futures are dropped.
    tokio::select! {
        () = up => {}
        () = down => {}
    }
}

type Commands = Mutex<BTreeMap<u64, (RequestId, Op)>>;

fn note_command(frame: &Frame, commands: &Commands, journal: &Mutex<Journal>) {
    if frame.kind != Kind::MasterRequest {
        return;
    }
    if let Ok(Request::Command { request, op, .. }) = decode(&frame.message) {
        *journal.lock().sent.entry(request).or_default() += 1;
        commands.lock().insert(frame.stream, (request, op));
    }
}

/// How this answer is to be lost, if it is one.
fn loss_of(frame: &Frame, commands: &Commands, journal: &Mutex<Journal>) -> Option<Loss> {
    if frame.kind != Kind::MasterResponse {
        return None;
    }
    let (request, op) = commands.lock().remove(&frame.stream)?;
    let Ok(Ok(_)) = decode::<Answer<Response>>(&frame.message) else {
        return None;
    };
    let mut journal = journal.lock();
    let (kind, loss) = journal.plan.clone()?;
    if kind_of(&op) != kind {
        return None;
    }
    journal.plan = None;
    journal.lost.push((request, op));
    Some(loss)
}

/// Forwards what comes to `listen` to `target`, and flips one bit in every `every` bytes of each direction of each
/// connection. Gives the count of bits flipped so far.
///
/// # Panics
/// If it cannot listen there.
pub fn flip_bits(runtime: &Runtime, listen: &str, target: &str, every: u64) -> Arc<AtomicU64> {
    let listener = runtime
        .block_on(TcpListener::bind(listen))
        .unwrap_or_else(|error| panic!("{listen}: {error}"));
    let (flipped, target) = (Arc::new(AtomicU64::new(0)), target.to_owned());
    let counter = Arc::clone(&flipped);
    runtime.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (counter, target) = (Arc::clone(&counter), target.clone());
            tokio::spawn(async move {
                // A server that is down looks as it would without the proxy: the connection closes.
                let Ok(server) = TcpStream::connect(&target).await else {
                    return;
                };
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::select! {
                    () = damage(client_read, server_write, every, &counter) => {}
                    () = damage(server_read, client_write, every, &counter) => {}
                }
            });
        }
    });
    flipped
}

async fn damage(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, every: u64, flipped: &AtomicU64) {
    let (mut buffer, mut passed) = (vec![0; 64 << 10], 0);
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let bytes = &mut buffer[..read];
        let next = (passed / every + 1) * every;
        if next < passed + read as u64 {
            bytes[(next - passed) as usize] ^= 4;
            flipped.fetch_add(1, Ordering::Relaxed);
        }
        passed += read as u64;
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

/// Forwards what comes to `listen` to `target`, each piece so long after it came, as over a long way.
///
/// # Panics
/// If it cannot listen there.
pub fn far_away(runtime: &Runtime, listen: &str, target: &str, way: Duration) {
    let listener = runtime
        .block_on(TcpListener::bind(listen))
        .unwrap_or_else(|error| panic!("{listen}: {error}"));
    let target = target.to_owned();
    runtime.spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let target = target.clone();
            tokio::spawn(async move {
                // A server that is down looks as it would without the proxy: the connection closes.
                let Ok(server) = TcpStream::connect(&target).await else {
                    return;
                };
                // What waits here must not wait for more.
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (client_read, client_write) = client.into_split();
                let (server_read, server_write) = server.into_split();
                tokio::select! {
                    () = travel(client_read, server_write, way) => {}
                    () = travel(server_read, client_write, way) => {}
                }
            });
        }
    });
}

/// Pieces on their way in one direction of a connection.
const ON_THEIR_WAY: usize = 1024;

async fn travel(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: Duration) {
    let (leave, mut arrive) = mpsc::channel::<(Instant, Vec<u8>)>(ON_THEIR_WAY);
    let leaving = async move {
        let mut buffer = vec![0; 64 << 10];
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            if leave
                .send((Instant::now() + way, buffer[..read].to_vec()))
                .await
                .is_err()
            {
                return;
            }
        }
    };
    let arriving = async move {
        while let Some((due, bytes)) = arrive.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(leaving, arriving);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_the_variants_name() {
        let path = crate::cluster::fs_path("/a");
        let op = Op::Remove { path, recursive: false };
        assert_eq!(kind_of(&op), "Remove");
        assert_eq!(kind_of(&Op::Renew { uploads: Vec::new() }), "Renew");
    }
}
