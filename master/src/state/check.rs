//! The invariants, executed: a full walk that compares every row with those it must agree with.
//!
//! Used after every test program and by the offline verification of a stopped master. It holds names, extents and
//! chunks in memory, so it is not for a serving process.

use std::collections::{BTreeMap, BTreeSet};

use gabion_protocol::ids::{ChunkId, Ino, ServerId, StateTime};

use super::balance;
use super::chunks;
use super::key::attributes::{Attributes, AttributesKey};
use super::key::chunk::{Chunk, ChunkKey, Phase, ReplicaState};
use super::key::condition::ConditionKey;
use super::key::copying::CopyingKey;
use super::key::damage::{Damage, DamageKey};
use super::key::degraded::DegradedKey;
use super::key::dentry::{Dentry, DentryKey};
use super::key::doubt::{Doubt, DoubtKey};
use super::key::dropping::DroppingKey;
use super::key::extent::{Extent, ExtentKey};
use super::key::fragmented::FragmentedKey;
use super::key::garbage::GarbageKey;
use super::key::history::{HistoryKey, Past};
use super::key::inode::{Body, Inode, InodeKey, Parent};
use super::key::kept::{Kept, KeptKey};
use super::key::kept_path::KeptPathKey;
use super::key::merge::{Merge, MergeKey};
use super::key::meta::{
    BalanceKey, Clock, ClockKey, ClusterKey, CountersKey, LevelKey, LostTailKey, Pin, Pins, PinsKey, PruningKey,
    QuotasInUse, QuotasInUseKey, TrashTermsKey, TrashTotal, TrashTotalKey,
};
use super::key::moving::{Move, MoveKey};
use super::key::quota::QuotaKey;
use super::key::replica::ReplicaKey;
use super::key::reply::{Answered, ReplyKey};
use super::key::reservation::{Reservation, ReservationKey};
use super::key::resumable::{Resumable, ResumableKey};
use super::key::server::{Server, ServerKey};
use super::key::server_name::ServerNameKey;
use super::key::session::SessionKey;
use super::key::session_due::SessionDueKey;
use super::key::snapshot::SnapshotKey;
use super::key::surplus::SurplusKey;
use super::key::taken_apart::TakenApartKey;
use super::key::total::{Total, TotalKey};
use super::key::trash::TrashKey;
use super::key::tree_copy::{TreeCopy, TreeCopyKey};
use super::key::unknown::{Unknown, UnknownKey};
use super::key::upload_lease::UploadLeaseKey;
use super::key::write_lease::WriteLeaseKey;
use super::key::{Key, Kind, Moment, Value};
use super::links;
use super::rows::{Rows, RowsError};

mod attributes;
mod content;
mod identities;
mod inventory;
mod quotas;
mod snapshots;
mod trash;
mod uploads;

/// Findings kept: a broken state stays readable.
const FINDINGS_MAX: usize = 1000;
/// Rows read at a time.
const PAGE_ROWS: usize = 4096;

/// What a check found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Rows of the state.
    pub rows: u64,
    /// What is wrong, in words; at most 1,000.
    pub findings: Vec<String>,
}

impl Report {
    fn find(&mut self, what: String) {
        if self.findings.len() < FINDINGS_MAX {
            self.findings.push(what);
        }
    }
}

/// Whether a row is one this program understands; if not, why.
///
/// # Errors
/// Says what does not decode.
pub fn row_decodes(key: &[u8], value: &[u8]) -> Result<Kind, String> {
    let kind = Kind::of(key).ok_or("its key is of no known kind")?;
    match kind {
        Kind::Meta => match key.get(1) {
            Some(1) => decodes::<ClusterKey>(key, value),
            Some(2) => decodes::<ClockKey>(key, value),
            Some(3) => decodes::<CountersKey>(key, value),
            Some(8) => decodes::<TrashTermsKey>(key, value),
            Some(9) => decodes::<TrashTotalKey>(key, value),
            Some(22) => decodes::<LostTailKey>(key, value),
            Some(30) => decodes::<BalanceKey>(key, value),
            Some(12) => decodes::<PinsKey>(key, value),
            Some(13) => decodes::<PruningKey>(key, value),
            Some(32) => decodes::<QuotasInUseKey>(key, value),
            _ => decodes::<LevelKey>(key, value),
        },
        Kind::Inode => decodes::<InodeKey>(key, value),
        Kind::Dentry => decodes::<DentryKey>(key, value),
        Kind::Extent => decodes::<ExtentKey>(key, value),
        Kind::Chunk => decodes::<ChunkKey>(key, value),
        Kind::Replica => decodes::<ReplicaKey>(key, value),
        Kind::Dropping => decodes::<DroppingKey>(key, value),
        Kind::Degraded => decodes::<DegradedKey>(key, value),
        Kind::Damage => decodes::<DamageKey>(key, value),
        Kind::Garbage => decodes::<GarbageKey>(key, value),
        Kind::Server => decodes::<ServerKey>(key, value),
        Kind::ServerName => decodes::<ServerNameKey>(key, value),
        Kind::Session => decodes::<SessionKey>(key, value),
        Kind::SessionDue => decodes::<SessionDueKey>(key, value),
        Kind::Reply => decodes::<ReplyKey>(key, value),
        Kind::Total => decodes::<TotalKey>(key, value),
        Kind::Trash => decodes::<TrashKey>(key, value),
        Kind::UploadLease => decodes::<UploadLeaseKey>(key, value),
        Kind::History => decodes::<HistoryKey>(key, value),
        Kind::Kept => decodes::<KeptKey>(key, value),
        Kind::KeptPath => decodes::<KeptPathKey>(key, value),
        Kind::TakenApart => decodes::<TakenApartKey>(key, value),
        Kind::Snapshot => decodes::<SnapshotKey>(key, value),
        Kind::Copying => decodes::<CopyingKey>(key, value),
        Kind::Surplus => decodes::<SurplusKey>(key, value),
        Kind::Resumable => decodes::<ResumableKey>(key, value),
        Kind::Attributes => decodes::<AttributesKey>(key, value),
        Kind::WriteLease => decodes::<WriteLeaseKey>(key, value),
        Kind::Condition => decodes::<ConditionKey>(key, value),
        Kind::Move => decodes::<MoveKey>(key, value),
        Kind::Unknown => decodes::<UnknownKey>(key, value),
        Kind::Doubt => decodes::<DoubtKey>(key, value),
        Kind::Quota => decodes::<QuotaKey>(key, value),
        Kind::Reservation => decodes::<ReservationKey>(key, value),
        Kind::TreeCopy => decodes::<TreeCopyKey>(key, value),
        Kind::Fragmented => decodes::<FragmentedKey>(key, value),
        Kind::Merge => decodes::<MergeKey>(key, value),
    }
    .map(|()| kind)
}

fn decodes<K: Key>(key: &[u8], value: &[u8]) -> Result<(), String> {
    K::decode(key).ok_or("its key is malformed")?;
    K::Value::decode(value).map(drop)
}

/// Checks everything.
///
/// # Errors
/// [`RowsError::Read`] if the store fails. Rows that do not decode are findings.
pub fn check(rows: &dyn Rows) -> Result<Report, RowsError> {
    let mut report = Report::default();
    let state = Loaded::read(rows, &mut report)?;
    if report.rows == 0 {
        return Ok(report);
    }
    state.check_names(&mut report);
    state.check_totals(&mut report);
    state.check_quotas(&mut report);
    state.check_tree_copies(&mut report);
    state.check_trash(&mut report);
    state.check_resumable(&mut report);
    state.check_attributes(&mut report);
    state.check_extents(&mut report);
    state.check_degraded(&mut report);
    state.check_write_leases(&mut report);
    state.check_merges(&mut report);
    state.check_chunks(&mut report);
    state.check_index(&mut report);
    state.check_inventory(&mut report);
    state.check_sessions(&mut report);
    state.check_servers(&mut report);
    state.check_clock(&mut report);
    state.check_snapshots(rows, &mut report)?;
    Ok(report)
}

/// Every row the checks compare, typed.
#[derive(Default)]
struct Loaded {
    inodes: BTreeMap<Ino, Inode>,
    dentries: BTreeMap<(Ino, String), Dentry>,
    extents: BTreeMap<(Ino, u64), Extent>,
    chunks: BTreeMap<ChunkId, Chunk>,
    totals: BTreeMap<Ino, Total>,
    /// When each inode of the trash is due.
    trash: BTreeMap<Ino, StateTime>,
    kept: BTreeMap<Ino, Kept>,
    kept_paths: BTreeMap<(String, Moment), Ino>,
    trash_total: Option<TrashTotal>,
    taken_apart: BTreeMap<Ino, Vec<u8>>,
    leases: BTreeSet<Ino>,
    resumable: Vec<(ResumableKey, Resumable)>,
    attributes: BTreeMap<Ino, Attributes>,
    write_leases: BTreeSet<Ino>,
    quotas: BTreeSet<Ino>,
    reservations: BTreeMap<Ino, Reservation>,
    quotas_in_use: QuotasInUse,
    tree_copies: BTreeMap<Ino, TreeCopy>,
    fragmented: BTreeSet<Ino>,
    merges: BTreeMap<ChunkId, Merge>,
    /// Rows that follow from chunks, as they are.
    index: BTreeMap<Vec<u8>, Vec<u8>>,
    damage: Vec<(DamageKey, Damage)>,
    unknown: Vec<(UnknownKey, Unknown)>,
    doubts: BTreeMap<ServerId, Doubt>,
    sessions: BTreeSet<[u8; 16]>,
    due: BTreeSet<[u8; 16]>,
    replies: Vec<(ReplyKey, Answered)>,
    servers: BTreeMap<ServerId, Server>,
    names: BTreeMap<String, ServerId>,
    conditions: BTreeSet<ServerId>,
    moves: BTreeMap<ChunkId, Move>,
    history: Vec<(HistoryKey, Past)>,
    snapshots: BTreeMap<(Ino, String), (Moment, Ino)>,
    pins: Vec<Pin>,
    is_pruning: bool,
    clock: Option<Clock>,
    /// The first key of each kind.
    first: BTreeMap<Kind, Vec<u8>>,
}

impl Loaded {
    fn read(rows: &dyn Rows, report: &mut Report) -> Result<Self, RowsError> {
        let mut state = Self::default();
        let mut from = vec![1];
        loop {
            let page = rows.scan(&from, &[u8::MAX], PAGE_ROWS)?;
            let Some((last, _)) = page.last() else {
                return Ok(state);
            };
            from = last.clone();
            from.push(0);
            for (key, value) in page {
                report.rows += 1;
                match row_decodes(&key, &value) {
                    Ok(kind) => state.take(kind, key, value),
                    Err(why) => report.find(format!("row {key:02x?} does not decode: {why}")),
                }
            }
        }
    }

    /// Takes a row that decodes.
    fn take(&mut self, kind: Kind, key: Vec<u8>, value: Vec<u8>) {
        self.first.entry(kind).or_insert_with(|| key.clone());
        match kind {
            Kind::Inode => put(&key, &value, |InodeKey(ino), inode| self.inodes.insert(ino, inode)),
            Kind::Dentry => put(&key, &value, |key: DentryKey, dentry| {
                self.dentries.insert((key.parent, key.name), dentry)
            }),
            Kind::Extent => put(&key, &value, |key: ExtentKey, extent| {
                self.extents.insert((key.ino, key.offset), extent)
            }),
            Kind::Chunk => put(&key, &value, |ChunkKey(id), chunk| self.chunks.insert(id, chunk)),
            Kind::Total => put(&key, &value, |TotalKey(ino), total| self.totals.insert(ino, total)),
            Kind::Trash => put(&key, &value, |key: TrashKey, _| {
                self.trash.insert(key.ino, key.deadline)
            }),
            Kind::Kept => put(&key, &value, |KeptKey(ino), kept| self.kept.insert(ino, kept)),
            Kind::KeptPath => put(&key, &value, |key: KeptPathKey, removed| {
                self.kept_paths.insert((key.path, key.removed), removed.ino)
            }),
            Kind::TakenApart => put(&key, &value, |TakenApartKey(ino), apart| {
                self.taken_apart.insert(ino, apart.last)
            }),
            Kind::UploadLease => put(&key, &value, |key: UploadLeaseKey, _| self.leases.insert(key.ino)),
            Kind::Attributes => put(&key, &value, |AttributesKey(ino), attributes| {
                self.attributes.insert(ino, attributes)
            }),
            Kind::Resumable => put(&key, &value, |key, terms| self.resumable.push((key, terms))),
            Kind::WriteLease => put(&key, &value, |WriteLeaseKey(ino), _| self.write_leases.insert(ino)),
            Kind::Replica | Kind::Dropping | Kind::Degraded | Kind::Garbage | Kind::Copying | Kind::Surplus => {
                self.index.insert(key, value);
            }
            Kind::Damage => put(&key, &value, |key: DamageKey, damage| self.damage.push((key, damage))),
            Kind::Unknown => put(&key, &value, |key: UnknownKey, state| self.unknown.push((key, state))),
            Kind::Doubt => put(&key, &value, |DoubtKey(server), doubt| {
                self.doubts.insert(server, doubt)
            }),
            Kind::Session => put(&key, &value, |SessionKey(id), _| self.sessions.insert(id.to_bytes())),
            Kind::SessionDue => put(&key, &value, |key: SessionDueKey, _| {
                self.due.insert(key.session.to_bytes())
            }),
            Kind::Reply => put(&key, &value, |key: ReplyKey, answered| {
                self.replies.push((key, answered))
            }),
            Kind::Server => put(&key, &value, |ServerKey(id), server| self.servers.insert(id, server)),
            Kind::ServerName => put(&key, &value, |ServerNameKey(name), named| {
                self.names.insert(name, named.server)
            }),
            Kind::Condition => put(&key, &value, |ConditionKey(id), _| self.conditions.insert(id)),
            Kind::Move => put(&key, &value, |MoveKey(id), row| self.moves.insert(id, row)),
            Kind::Meta if ClockKey::decode(&key).is_some() => self.clock = Clock::decode(&value).ok(),
            Kind::Meta if TrashTotalKey::decode(&key).is_some() => self.trash_total = TrashTotal::decode(&value).ok(),
            Kind::Meta if PinsKey::decode(&key).is_some() => {
                self.pins = Pins::decode(&value).map(|pins| pins.live).unwrap_or_default();
            }
            Kind::Meta if PruningKey::decode(&key).is_some() => self.is_pruning = true,
            Kind::Meta if QuotasInUseKey::decode(&key).is_some() => {
                self.quotas_in_use = QuotasInUse::decode(&value).unwrap_or_default();
            }
            Kind::Meta => {}
            Kind::History => put(&key, &value, |key: HistoryKey, past| self.history.push((key, past))),
            Kind::Quota => put(&key, &value, |QuotaKey(ino), _| self.quotas.insert(ino)),
            Kind::Reservation => put(&key, &value, |ReservationKey(ino), held| {
                self.reservations.insert(ino, held)
            }),
            Kind::TreeCopy => put(&key, &value, |TreeCopyKey(ino), copy| {
                self.tree_copies.insert(ino, copy)
            }),
            Kind::Fragmented => put(&key, &value, |FragmentedKey(ino), _| self.fragmented.insert(ino)),
            Kind::Merge => put(&key, &value, |MergeKey(id), row| self.merges.insert(id, row)),
            Kind::Snapshot => put(&key, &value, |key: SnapshotKey, snapshot| {
                self.snapshots.insert((key.root, key.name), (snapshot.moment, key.root))
            }),
        }
    }

    /// Names and parents agree; every inode is reached from the root, is an upload, or is trash.
    fn check_names(&self, report: &mut Report) {
        for ((parent, name), dentry) in &self.dentries {
            let Some(inode) = self.inodes.get(&dentry.ino) else {
                report.find(format!(
                    "entry {name:?} of {parent} leads to inode {}, which is missing",
                    dentry.ino
                ));
                continue;
            };
            if inode.parent.ino != *parent || inode.parent.name != *name {
                report.find(format!(
                    "entry {name:?} of {parent} leads to inode {}, which hangs elsewhere",
                    dentry.ino
                ));
            }
            if inode.is_directory() != dentry.directory || matches!(inode.body, Body::Upload(_)) {
                report.find(format!("entry {name:?} of {parent} is of another kind than its inode"));
            }
            if !self.inodes.get(parent).is_some_and(Inode::is_directory) {
                report.find(format!("entry {name:?} lies in {parent}, which is no directory"));
            }
        }
        for (ino, inode) in &self.inodes {
            let placed = match &inode.body {
                _ if *ino == Ino::ROOT => inode.is_directory() && inode.parent.ino == Ino::ROOT,
                Body::Upload(_) => inode.parent.ino == Parent::NOWHERE && self.leases.contains(ino),
                Body::Directory | Body::File(_) | Body::Link { .. } if inode.parent.ino == Parent::NOWHERE => {
                    self.trash.contains_key(ino) || self.is_being_built(*ino)
                }
                Body::Directory | Body::File(_) | Body::Link { .. } => {
                    let name = (inode.parent.ino, inode.parent.name.clone());
                    self.dentries.get(&name).is_some_and(|dentry| dentry.ino == *ino)
                }
            };
            if !placed {
                report.find(format!("inode {ino} hangs nowhere: {inode:?}"));
            }
            if let Body::Link { target } = &inode.body
                && !links::is_target(target)
            {
                report.find(format!("link {ino} has a target that is none: {target:?}"));
            }
            let is_trash = inode.parent.ino == Parent::NOWHERE && !is_upload(inode) && !self.is_being_built(*ino);
            if self.trash.contains_key(ino) != is_trash {
                report.find(format!("inode {ino} is trash and has a name, or neither"));
            }
            if inode.is_directory() != self.totals.contains_key(ino) {
                report.find(format!("inode {ino} has a total and is no directory, or the reverse"));
            }
        }
        for ino in self.trash.keys().chain(self.totals.keys()) {
            if !self.inodes.contains_key(ino) {
                report.find(format!("a trash or total row names inode {ino}, which is missing"));
            }
        }
    }

    /// Totals of what hangs under the root, or is in the trash as a whole, equal a walk; depth and length are at least
    /// what they measure.
    fn check_totals(&self, report: &mut Report) {
        let mut walked: BTreeMap<Ino, Total> = BTreeMap::new();
        let mut reached = BTreeSet::from([Ino::ROOT]);
        for (ino, inode) in &self.inodes {
            let (mut at, mut inode_at) = (*ino, inode);
            let (mut names, mut bytes, mut path) = (0u16, 0u16, Vec::new());
            while at != Ino::ROOT && inode_at.parent.ino != Parent::NOWHERE && path.len() < 200 {
                names += 1;
                bytes = bytes.saturating_add(1 + inode_at.parent.name.len() as u16);
                at = inode_at.parent.ino;
                path.push((at, names, bytes));
                match self.inodes.get(&at) {
                    Some(above) => inode_at = above,
                    None => break,
                }
            }
            if at != Ino::ROOT && !self.is_whole_trash(at) {
                continue;
            }
            reached.insert(*ino);
            for (directory, names, bytes) in path {
                let total = walked.entry(directory).or_default();
                match &inode.body {
                    Body::Directory => total.directories += 1,
                    Body::File(content) => {
                        total.files += 1;
                        total.bytes += content.length;
                    }
                    Body::Link { target } => {
                        total.files += 1;
                        total.bytes += target.len() as u64;
                    }
                    Body::Upload(_) => {}
                }
                total.deepest = total.deepest.max(names);
                total.longest = total.longest.max(bytes);
            }
        }
        self.sum_reservations(&mut walked);
        for (ino, total) in self.totals.iter().filter(|(ino, _)| reached.contains(*ino)) {
            let walked = walked.get(ino).copied().unwrap_or_default();
            let counts = |total: &Total| {
                let reserved = (total.reserved, total.reserved_entries);
                (total.files, total.directories, total.bytes, reserved)
            };
            let measured = total.deepest >= walked.deepest && total.longest >= walked.longest;
            if counts(total) != counts(&walked) || !measured {
                report.find(format!(
                    "the total of directory {ino} is {total:?}, a walk finds {walked:?}"
                ));
            }
        }
    }

    /// References are extents; open chunks belong to uploads and merges; copies are in the state their chunk allows.
    fn check_chunks(&self, report: &mut Report) {
        let mut references: BTreeMap<ChunkId, u64> = BTreeMap::new();
        for extent in self.extents.values() {
            *references.entry(extent.chunk).or_default() += 1;
        }
        for (row, past) in &self.history {
            if Kind::of(&row.key) == Some(Kind::Extent)
                && let Ok(extent) = Extent::decode(&past.value)
            {
                *references.entry(extent.chunk).or_default() += 1;
            }
        }
        let mut open: BTreeSet<ChunkId> = BTreeSet::new();
        for inode in self.inodes.values() {
            if let Body::Upload(upload) = &inode.body {
                open.extend(&upload.open);
            }
        }
        open.extend(self.merges.keys());
        for (id, chunk) in &self.chunks {
            let named = references.get(id).copied().unwrap_or(0);
            if chunk.references != named {
                report.find(format!(
                    "chunk {id} counts {} references, {named} extents name it",
                    chunk.references
                ));
            }
            let sound = match chunk.phase {
                Phase::Open => named == 0 && open.remove(id) && chunk.live() == 0,
                // A seal needs more than one copy of several wanted; more may be wanted later.
                Phase::Sealed => named > 0 && chunk.live() > 0,
                Phase::Garbage { .. } => named == 0 && !chunk.replicas.is_empty(),
            };
            if !sound {
                report.find(format!("chunk {id} is not as its phase demands: {chunk:?}"));
            }
            let mut servers = BTreeSet::new();
            for replica in chunk
                .replicas
                .iter()
                .filter(|replica| replica.state != ReplicaState::Dropping)
            {
                if !servers.insert(replica.server) {
                    report.find(format!("chunk {id} has two copies on c{}", replica.server));
                }
            }
            if let Some(server) = chunk.replicas.iter().find(|r| !self.servers.contains_key(&r.server)) {
                report.find(format!(
                    "chunk {id} has a copy on c{}, which is not registered",
                    server.server
                ));
            }
        }
        for (id, row) in &self.moves {
            let chunk = self.chunks.get(id);
            if !chunk.is_some_and(|chunk| balance::is_under_way(chunk, row)) {
                report.find(format!("chunk {id} has a move that is over: {row:?}, {chunk:?}"));
            }
        }
        for id in open {
            report.find(format!(
                "an upload or merge has the open chunk {id}, which is missing or not open"
            ));
        }
        for (key, damage) in &self.damage {
            let held = self.chunks.get(&key.chunk).is_some_and(|chunk| {
                let mut replicas = chunk.replicas.iter();
                replicas
                    .any(|r| (r.server, r.number) == (key.server, damage.number) && r.state != ReplicaState::Dropping)
            });
            if !held {
                report.find(format!(
                    "a report names a copy of chunk {} on c{} that is not held",
                    key.chunk, key.server
                ));
            }
        }
    }

    /// The rows that follow from chunks and unknown copies are exactly those that are there.
    fn check_index(&self, report: &mut Report) {
        let mut follow: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for (id, chunk) in &self.chunks {
            follow.extend(chunks::index(*id, chunk));
        }
        follow.extend(self.unknown_orders());
        for (key, value) in &self.index {
            if follow.remove(key).as_ref() != Some(value) {
                report.find(format!("index row {key:02x?} does not follow from its chunk"));
            }
        }
        for key in follow.keys() {
            report.find(format!("index row {key:02x?} is missing"));
        }
    }

    /// Nothing that is due lies where ticks look no more.
    fn check_clock(&self, report: &mut Report) {
        let Some(clock) = self.clock else {
            report.find("there is no clock".to_owned());
            return;
        };
        for (kind, swept) in [
            (Kind::SessionDue, clock.swept.sessions),
            (Kind::UploadLease, clock.swept.uploads),
            (Kind::Trash, clock.swept.trash),
            (Kind::Garbage, clock.swept.garbage),
        ] {
            let mut limit = vec![kind as u8];
            limit.extend(swept.0.to_be_bytes());
            if self.first.get(&kind).is_some_and(|first| *first < limit) || swept > clock.now {
                report.find(format!("rows of {kind:?} lie before {swept}, where no tick looks"));
            }
        }
    }
}

fn is_upload(inode: &Inode) -> bool {
    matches!(inode.body, Body::Upload(_))
}

/// Decodes a row that is known to decode and hands it on.
fn put<K: Key, R>(key: &[u8], value: &[u8], take: impl FnOnce(K, K::Value) -> R) {
    if let (Some(key), Ok(value)) = (K::decode(key), K::Value::decode(value)) {
        let _ = take(key, value);
    }
}
