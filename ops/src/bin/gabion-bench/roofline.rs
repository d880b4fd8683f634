//! The byte movement alone, nothing of Gabion in it: what this machine allows.
//!
//! *Write*: a source file in page cache goes over loopback TCP through three relays; each stores what it receives with
//! `O_DIRECT`, while it receives and forwards, syncs it (`fdatasync`), and acknowledges when those after it have.
//! *Read*: `sendfile` from a stored file over loopback TCP into a local file (page cache, not synced).
//! Both can make one CRC pass per hop. Threads and blocking calls only.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, ensure};
use gabion_protocol::buffer::{Buffer, Pool};
use gabion_protocol::checksum;
use gabion_protocol::limits::PACKET_BYTES;

/// Buffers in flight within one relay.
const WINDOW: usize = 8;

/// Whether each hop makes a CRC pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crc {
    /// One pass per hop, per 64 KiB block.
    PerHop,
    /// None.
    Off,
}

impl Crc {
    fn pass(self, bytes: &[u8]) {
        if self == Self::PerHop {
            std::hint::black_box(checksum::block_crcs(bytes));
        }
    }
}

/// Pushes `source` through three relays that store it in `dir`. The files stay, for [`read`].
pub(crate) fn write(source: &Path, dir: &Path, stream: usize, crc: Crc) -> Result<()> {
    let pool = Pool::new(3 * WINDOW * 2 * PACKET_BYTES);
    let mut next = None;
    let mut relays = Vec::new();
    for hop in (0..3).rev() {
        let listener = TcpListener::bind("127.0.0.1:0").context("listening for a relay")?;
        let address = listener.local_addr()?;
        let (path, pool) = (stored(dir, stream, hop), pool.clone());
        relays.push(thread::spawn(move || relay(&listener, next, &path, &pool, crc)));
        next = Some(address);
    }
    let mut socket = TcpStream::connect(next.expect("three relays have a first"))?;
    let mut file = File::open(source)?;
    let mut buffer = pool.take(PACKET_BYTES);
    loop {
        let read = fill(&mut file, buffer.as_mut())?;
        if read == 0 {
            break;
        }
        crc.pass(&buffer.as_ref()[..read]);
        socket.write_all(&buffer.as_ref()[..read])?;
    }
    socket.shutdown(std::net::Shutdown::Write)?;
    acknowledged(&mut socket)?;
    for relay in relays {
        relay.join().expect("a relay thread does not panic")?;
    }
    Ok(())
}

/// Where hop `hop` of stream `stream` stores.
pub(crate) fn stored(dir: &Path, stream: usize, hop: usize) -> PathBuf {
    dir.join(format!("roofline-{stream}-{hop}"))
}

fn relay(listener: &TcpListener, next: Option<std::net::SocketAddr>, path: &Path, pool: &Pool, crc: Crc) -> Result<()> {
    let (mut from, _) = listener.accept()?;
    let mut to = next.map(TcpStream::connect).transpose()?;
    let (send, packets) = mpsc::sync_channel::<std::sync::Arc<(Buffer, usize)>>(WINDOW);
    let path = path.to_owned();
    let disk = thread::spawn(move || store(&path, &packets));
    loop {
        let mut buffer = pool.take(PACKET_BYTES);
        let read = fill(&mut from, buffer.as_mut())?;
        if read == 0 {
            break;
        }
        crc.pass(&buffer.as_ref()[..read]);
        let packet = std::sync::Arc::new((buffer, read));
        // A closed channel means the disk failed; its error comes out of the join below.
        if send.send(std::sync::Arc::clone(&packet)).is_err() {
            break;
        }
        if let Some(to) = &mut to {
            to.write_all(&packet.0.as_ref()[..read])?;
        }
    }
    drop(send);
    if let Some(to) = &mut to {
        to.shutdown(std::net::Shutdown::Write)?;
    }
    disk.join().expect("a disk thread does not panic")?;
    if let Some(to) = &mut to {
        acknowledged(to)?;
    }
    from.write_all(&[1])?;
    Ok(())
}

fn store(path: &Path, packets: &mpsc::Receiver<std::sync::Arc<(Buffer, usize)>>) -> Result<()> {
    const O_DIRECT: i32 = rustix::fs::OFlags::DIRECT.bits() as i32;
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    let file = options
        .clone()
        .custom_flags(O_DIRECT)
        .open(path)
        .or_else(|_| options.open(path))
        .with_context(|| format!("making {}", path.display()))?;
    let mut at = 0;
    for packet in packets {
        // The source is a whole number of packets, so each is aligned.
        file.write_all_at(&packet.0.as_ref()[..packet.1], at)?;
        at += packet.1 as u64;
    }
    file.sync_data()?;
    Ok(())
}

/// Sends hop 0's file of `stream` by `sendfile` into a fresh local file `to`.
pub(crate) fn read(dir: &Path, stream: usize, to: &Path, crc: Crc) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let path = stored(dir, stream, 0);
    let sender = thread::spawn(move || -> Result<()> {
        let (socket, _) = listener.accept()?;
        let file = File::open(&path)?;
        let (mut at, len) = (0, file.metadata()?.len());
        while at < len {
            let sent = rustix::fs::sendfile(&socket, &file, Some(&mut at), PACKET_BYTES)?;
            ensure!(sent > 0, "the stored file ended early");
        }
        Ok(())
    });
    let mut socket = TcpStream::connect(address)?;
    let mut file = File::create(to)?;
    let mut buffer = Pool::new(0).take(PACKET_BYTES);
    loop {
        let read = fill(&mut socket, buffer.as_mut())?;
        if read == 0 {
            break;
        }
        crc.pass(&buffer.as_ref()[..read]);
        file.write_all(&buffer.as_ref()[..read])?;
    }
    sender.join().expect("a sender thread does not panic")
}

/// Drops the page cache of a stored file, for a cold read.
pub(crate) fn make_cold(path: &Path) -> Result<()> {
    let file = File::open(path)?;
    file.sync_data()?;
    rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    Ok(())
}

fn fill(from: &mut impl Read, buffer: &mut [u8]) -> Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..])? {
            0 => break,
            read => filled += read,
        }
    }
    Ok(filled)
}

fn acknowledged(socket: &mut TcpStream) -> Result<()> {
    let mut byte = [0];
    socket
        .read_exact(&mut byte)
        .context("waiting for a relay's acknowledgement")
}
