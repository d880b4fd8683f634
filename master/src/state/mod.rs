//! The masters' state machine: what the cluster has decided, as rows, and how each logged command changes them.
//!
//! Pure, total and deterministic: no clock, no randomness, no IO but through [`rows::Rows`], no order that is not a
//! key's. Bad requests become [`Refusal`]s; time, randomness and placement come inside the [`Command`]. An error of
//! the rows below stops the process, because skipping an entry would make masters differ.
//!
//! Start reading at [`apply`]; then [`key`] (what there is), [`command`] and [`reply`] (what is logged and answered).
//!
//! | file | rules of |
//! |---|---|
//! | `sessions` | exactly once |
//! | `names`, `totals` | directories, names, subtotals |
//! | `links` | symbolic links, and where paths lead |
//! | `uploads` | files on their way, until they appear |
//! | `stocks` | chunks for small files to come |
//! | `copies`, `tree_copies` | files and directories made of others by reference |
//! | `changes` | files that change: append, overwrite, truncate |
//! | [`merges`] | large chunks in the place of small ones |
//! | `write_leases` | who may change a file |
//! | `quotas` | how much a directory may hold, and room for what is being written |
//! | `replicas` | how many copies a file's chunks shall have |
//! | `chunks` | allocation, seals, references, copies, garbage |
//! | `snapshots` | what a directory held at a moment |
//! | `preserve`, `past` | what snapshots see is kept, and read |
//! | `kept` | the trash: removals that can be undone |
//! | [`balance`] | copies that move from full servers to emptier ones |
//! | [`repair`] | background copies of sealed chunks, and which copies may be dropped |
//! | `trash` | taking unlinked trees apart |
//! | [`inventory`] | copies that servers hold and no row names |
//! | `clock` | state time and what is due |
//! | `servers` | chunkservers, their copies, damage |
//! | [`conditions`] | chunkservers that are drained, left alone for a while, or removed |
//! | [`read`] | queries |
//! | [`check`] | the invariants, executed |
//!
//! Invariants, checked by [`check`] after every test program:
//! * a refused command changes nothing (it works in its own batch, dropped on refusal), its stored reply apart;
//! * a chunk's `references` is the number of extents that name it, those in history too; at zero it is Garbage, unless
//!   it is open;
//! * a copy's row exists from before its file is made until its file is known to be gone;
//! * copies of Garbage stay until the last token for it has expired;
//! * a snapshot shows what its directory held when it was made; history holds what snapshots see, and nothing else
//!   but what is being pruned;
//! * every inode but the root, uploads, copies under way and trash hangs under exactly one name; totals equal a walk;
//! * a directory with a quota grows up to it, what writes under way have reserved counted in.

mod attributes;
pub mod balance;
mod changes;
pub mod check;
mod chunks;
mod clock;
pub mod command;
pub mod conditions;
mod copies;
pub mod inventory;
mod kept;
pub mod key;
mod links;
pub mod merges;
mod names;
mod past;
mod preserve;
mod quotas;
pub mod read;
mod refusal;
pub mod repair;
mod replicas;
pub mod reply;
mod resumable;
pub mod rows;
mod servers;
mod sessions;
mod snapshots;
mod stocks;
mod totals;
mod trash;
mod tree_copies;
mod tx;
mod uploads;
mod write_leases;

pub use command::{Bootstrap, ClientCommand, ClientRequest, Command, CommandError, LEVEL_KNOWN};
pub use key::meta::Settings;
pub use reply::{GrantedChunk, Outcome, Refusal, Reply};

use gabion_protocol::ids::{Ino, MasterId};
use gabion_protocol::limits;
use gabion_protocol::messages::master::Room;

use key::Key;
use key::inode::{Body, Inode, InodeKey, Parent};
use key::meta::{Clock, ClockKey, Cluster, ClusterKey, Counters, CountersKey, Level, LevelKey};
use key::total::{Total, TotalKey};
use rows::{Batch, RowsError};
use tx::{Stop, Tx, World};

/// The feature level a cluster begins with; the same in every release, as it is part of the first command's outcome.
const LEVEL_FIRST: u32 = 1;
/// Chunks an upload may have open at one time: bounds its inode row.
pub const OPEN_CHUNKS_MAX: usize = 4 * limits::GRANT_CHUNKS_MAX;
/// Rows of one sort a tick works on: keeps one log entry a matter of a few milliseconds, which all others wait for.
pub const TICK_ROWS_MAX: usize = 200;
/// Bytes of a damage report that are kept.
pub const DAMAGE_TEXT_BYTES_MAX: usize = 200;

/// Where in the log a command stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogAt {
    /// Log index.
    pub index: u64,
    /// Term of the leader that proposed it.
    pub term: u64,
    /// The leader that proposed it.
    pub leader: MasterId,
}

/// The state machine as the Raft adaptor drives it.
#[derive(Debug, Clone, Copy, Default)]
pub struct StateMachine;

impl StateMachine {
    /// Applies a logged command's bytes: the encoded [`Reply`], and whether every master hashes its state now.
    ///
    /// # Errors
    /// [`RowsError`] if the rows below fail, are damaged, or are of a newer release; the process must stop.
    pub fn apply_bytes(&self, batch: &mut Batch<'_>, at: LogAt, command: &[u8]) -> Result<(Vec<u8>, bool), RowsError> {
        let (reply, mark_hash) = match Command::decode(command) {
            Ok(command) => {
                let reply = apply(batch, at, &command)?;
                let mark_hash = matches!(reply, Reply(Ok(Outcome::Marked { .. })));
                (reply, mark_hash)
            }
            Err(_) => (Reply(Err(undecodable(batch, at)?)), false),
        };
        Ok((reply.encode(), mark_hash))
    }
}

/// Bytes that are no command are refused alike by every master whose level knows all commands there are; below
/// that level others might know them, and going on would make masters differ.
fn undecodable(batch: &Batch<'_>, at: LogAt) -> Result<Refusal, RowsError> {
    if let Some(world) = World::load(batch, at)? {
        known(world.level)?;
    }
    Ok(Refusal::Malformed)
}

/// Applies one logged command.
///
/// # Errors
/// [`RowsError`] if the rows below fail, are damaged, or are of a newer release; the process must stop.
pub fn apply(batch: &mut Batch<'_>, at: LogAt, command: &Command) -> Result<Reply, RowsError> {
    let Some(world) = World::load(batch, at)? else {
        return Ok(match command {
            Command::Bootstrap(bootstrap) => begin(batch, at, bootstrap),
            Command::Client(_)
            | Command::Tick { .. }
            | Command::RegisterServer { .. }
            | Command::ReplicasDropped { .. }
            | Command::DamageFound { .. }
            | Command::DamageCleared { .. }
            | Command::MarkHash
            | Command::SetLevel { .. }
            | Command::BeginTrash { .. }
            | Command::AddCopies { .. }
            | Command::CopiesMade { .. }
            | Command::CopiesGivenUp { .. }
            | Command::DropCopies { .. }
            | Command::DamageSuspected { .. }
            | Command::UnknownFound { .. }
            | Command::UnknownAccepted { .. }
            | Command::DamageDoubted { .. }
            | Command::TailLost { .. }
            | Command::MoveCopies { .. }
            | Command::Merge(_) => Reply(Err(Refusal::NotReady)),
        });
    };
    known(world.level)?;
    if command.needs_level() > world.level {
        return Ok(Reply(Err(Refusal::Level {
            needs: command.needs_level(),
            level: world.level,
        })));
    }
    match command {
        Command::Client(request) => sessions::once(batch, world, request),
        Command::Bootstrap(again) => run(batch, world, |tx| begun(tx, again)),
        Command::Tick { advance_ms } => run(batch, world, |tx| Ok(clock::tick(tx, *advance_ms)?)),
        Command::RegisterServer { name, registration } => {
            run(batch, world, |tx| servers::register(tx, name, registration))
        }
        Command::ReplicasDropped { server, done } => run(batch, world, |tx| servers::dropped(tx, *server, done)),
        Command::DamageFound { server, found } => run(batch, world, |tx| servers::damage_found(tx, *server, found)),
        Command::DamageCleared { server, intact } => {
            run(batch, world, |tx| servers::damage_cleared(tx, *server, intact))
        }
        Command::MarkHash => Ok(Reply(Ok(Outcome::Marked { index: at.index }))),
        Command::SetLevel { level } => run(batch, world, |tx| set_level(tx, *level)),
        Command::BeginTrash { keep_ms } => run(batch, world, |tx| Ok(kept::begin(tx, *keep_ms)?)),
        Command::AddCopies { plans } => run(batch, world, |tx| repair::add(tx, plans)),
        Command::CopiesMade { server, made } => run(batch, world, |tx| repair::made(tx, *server, made)),
        Command::CopiesGivenUp { copies } => run(batch, world, |tx| repair::give_up(tx, copies)),
        Command::DropCopies { drops } => run(batch, world, |tx| repair::drop_surplus(tx, drops)),
        Command::DamageSuspected { found } => run(batch, world, |tx| servers::damage_suspected(tx, found)),
        Command::UnknownFound {
            server,
            held,
            keep_ms,
            copies,
        } => run(batch, world, |tx| {
            inventory::found(tx, *server, *held, *keep_ms, copies)
        }),
        Command::UnknownAccepted { server } => run(batch, world, |tx| Ok(inventory::accept(tx, *server)?)),
        Command::DamageDoubted { server, copies } => run(batch, world, |tx| inventory::doubted(tx, *server, copies)),
        Command::TailLost { highest, number } => {
            run(batch, world, |tx| Ok(inventory::tail_lost(tx, *highest, *number)?))
        }
        Command::MoveCopies { moves } => run(batch, world, |tx| balance::begin(tx, moves)),
        Command::Merge(step) => run(batch, world, |tx| merges::run(tx, step)),
    }
}

/// Runs `work` in a batch of its own, which counts only if it ends well.
fn run<'a>(
    batch: &mut Batch<'a>,
    world: World,
    work: impl FnOnce(&mut Tx<'_>) -> Result<Outcome, Stop>,
) -> Result<Reply, RowsError> {
    let mut tx = Tx::new(world, &*batch);
    match work(&mut tx) {
        Ok(outcome) => {
            preserve::preserve(&mut tx)?;
            let changes = tx.into_changes();
            batch.absorb(changes);
            Ok(Reply(Ok(outcome)))
        }
        Err(Stop::Refused(refusal)) => Ok(Reply(Err(refusal))),
        Err(Stop::Rows(error)) => Err(error),
    }
}

/// A repeated first command: harmless if it is of the same cluster.
fn begun(tx: &Tx<'_>, again: &Bootstrap) -> Result<Outcome, Stop> {
    if again.cluster == tx.world.cluster.cluster {
        Ok(Outcome::Done)
    } else {
        Err(Refusal::Bootstrapped.into())
    }
}

fn client(tx: &mut Tx<'_>, request: &ClientRequest) -> Result<Outcome, Stop> {
    snapshots::check_written(&request.op)?;
    let outcome = carry_out(tx, request)?;
    quotas::check(tx)?;
    Ok(outcome)
}

fn carry_out(tx: &mut Tx<'_>, request: &ClientRequest) -> Result<Outcome, Stop> {
    let session = request.request.session;
    match &request.op {
        ClientCommand::Mkdir { path, parents, mode } => names::mkdir(tx, path, *parents, *mode, request.wall_ms),
        ClientCommand::OpenUpload {
            path,
            options,
            placements,
        } => uploads::open(tx, session, path, options, placements, Room::Growing),
        ClientCommand::GrantChunks {
            upload,
            generation,
            placements,
            abandoned,
        } => uploads::grant(
            tx,
            uploads::Owner::new(session, *upload, *generation),
            placements,
            abandoned,
        ),
        ClientCommand::SealChunks {
            upload,
            generation,
            seals,
        } => uploads::seal(tx, uploads::Owner::new(session, *upload, *generation), seals),
        ClientCommand::Commit {
            upload,
            generation,
            seals,
            length,
            crc,
        } => {
            let whole = uploads::Whole {
                length: *length,
                crc: *crc,
                wall_ms: request.wall_ms,
            };
            uploads::commit(tx, uploads::Owner::new(session, *upload, *generation), seals, whole)
        }
        ClientCommand::AbortUpload { upload, generation } => {
            uploads::abort(tx, uploads::Owner::new(session, *upload, *generation))
        }
        ClientCommand::Renew { uploads } => uploads::renew(tx, session, uploads),
        ClientCommand::Rename { from, to, replace } => names::rename(tx, from, to, *replace),
        ClientCommand::Remove { path, recursive } => names::remove(tx, path, *recursive),
        ClientCommand::ReportDamage {
            chunk,
            server,
            replica,
            what,
        } => Ok(servers::report_damage(tx, *chunk, *server, *replica, what)?),
        ClientCommand::CreateFile { path, options } => uploads::create_empty(tx, path, options, request.wall_ms),
        ClientCommand::OpenStock { replicas, placements } => stocks::open(tx, session, *replicas, placements),
        ClientCommand::PutFile {
            path,
            options,
            stock,
            generation,
            seal,
        } => {
            let owner = uploads::Owner::new(session, *stock, *generation);
            stocks::put_file(tx, owner, path, options, seal, request.wall_ms)
        }
        ClientCommand::MoveToTrash { path, recursive } => kept::put(tx, path, *recursive, request.wall_ms),
        ClientCommand::Restore { what, to } => kept::restore(tx, what, to.as_ref()),
        ClientCommand::EmptyTrash { entries } => kept::empty(tx, entries),
        ClientCommand::SetAttributes {
            path,
            mode,
            modified_ms,
        } => names::set_attributes(tx, path, *mode, *modified_ms),
        ClientCommand::Copy(copy) => copies::copy(tx, copy, request.wall_ms),
        ClientCommand::CopyExtents {
            upload,
            generation,
            source,
            offset,
            version,
        } => {
            let owner = uploads::Owner::new(session, *upload, *generation);
            copies::add_part(tx, owner, source, *offset, *version)
        }
        ClientCommand::ResumeUpload {
            path,
            options,
            owner,
            keep_ms,
        } => {
            let terms = resumable::terms(owner, *keep_ms);
            resumable::open(tx, session, path, options, terms, Room::Growing)
        }
        ClientCommand::ChangeAttributes { path, change } => attributes::change(tx, path, change),
        ClientCommand::ChangeFile(change) => changes::run(tx, session, change, request.wall_ms),
        ClientCommand::SetCondition { server, change } => conditions::set(tx, *server, *change),
        ClientCommand::SetBalance { runs } => Ok(balance::set(tx, *runs)),
        ClientCommand::CreateSnapshot { path, name } => snapshots::create(tx, path, name, request.wall_ms),
        ClientCommand::RemoveSnapshot { path, name } => snapshots::remove(tx, path, name),
        ClientCommand::OpenSized {
            path,
            options,
            placements,
            room,
        } => uploads::open(tx, session, path, options, placements, *room),
        ClientCommand::ResumeSized {
            path,
            options,
            owner,
            keep_ms,
            length,
        } => {
            let (terms, room) = (resumable::terms(owner, *keep_ms), Room::Whole { length: *length });
            resumable::open(tx, session, path, options, terms, room)
        }
        ClientCommand::SetQuota { path, change } => quotas::set(tx, path, *change),
        ClientCommand::CopyTree(step) => tree_copies::run(tx, session, step, request.wall_ms),
        ClientCommand::Link(change) => links::change(tx, change, request.wall_ms),
    }
}

/// Writes the first rows.
fn begin(batch: &mut Batch<'_>, at: LogAt, bootstrap: &Bootstrap) -> Reply {
    let Bootstrap {
        cluster,
        timeline,
        settings,
        wall_ms,
    } = *bootstrap;
    if !settings_are_sound(&settings) {
        return Reply(Err(Refusal::Settings));
    }
    let since = key::Moment(at.index);
    let root = Inode {
        body: Body::Directory,
        mode: 0o755,
        modified_ms: wall_ms,
        parent: Parent {
            ino: Ino::ROOT,
            name: String::new(),
            since,
        },
        since,
        generation: 0,
    };
    let counters = Counters {
        ino: Ino::ROOT.0 + 1,
        chunk: 1,
        server: 1,
        replica: 1,
    };
    let facts = Cluster {
        cluster,
        timeline,
        moment_base: 0,
        settings,
    };
    put(batch, &ClusterKey, &facts);
    put(batch, &ClockKey, &Clock::default());
    put(batch, &CountersKey, &counters);
    put(batch, &LevelKey, &Level { level: LEVEL_FIRST });
    put(batch, &InodeKey(Ino::ROOT), &root);
    put(batch, &TotalKey(Ino::ROOT), &Total::default());
    Reply(Ok(Outcome::Done))
}

fn settings_are_sound(settings: &Settings) -> bool {
    uploads::replicas_fit(settings.replicas)
        && uploads::chunk_bytes_fit(settings.chunk_bytes)
        && settings.session_ms > 0
        && settings.upload_lease_ms > 0
}

fn put<K: Key>(batch: &mut Batch<'_>, key: &K, value: &K::Value) {
    use key::Value as _;
    batch.put(key.encode(), value.encode());
}

fn set_level(tx: &mut Tx<'_>, level: u32) -> Result<Outcome, Stop> {
    if level < tx.world.level {
        return Err(Refusal::LevelDown { level: tx.world.level }.into());
    }
    known(level)?;
    tx.put(&LevelKey, &Level { level });
    Ok(Outcome::Done)
}

/// Refuses to go on at a level this program does not know: its outcomes might differ from the others'.
fn known(level: u32) -> Result<(), RowsError> {
    if level > LEVEL_KNOWN {
        return Err(RowsError::Newer {
            level,
            known: LEVEL_KNOWN,
        });
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod tests;
