//! `--preserve`: mode, owner, group, times and extended attributes go with what is moved, as `cp -p` has it.
//!
//! Owners and groups are kept on the cluster by name, and find their number again on the machine that fetches them; what
//! has no name is kept by number. Of extended attributes those of users (`user.…`) are kept: the others belong to a machine.
//!
//! Invariants: what cannot be kept is told, each thing by name; a set-user-id bit comes back only together with its owner.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use futures_util::StreamExt as _;
use gabion_client::terminal::{Failure, failure};
use gabion_client::{AttributeChange, Attributes, LinkTold};
use gabion_protocol::FsPath;
use gabion_protocol::limits::ATTRIBUTES_BYTES_MAX;
use gabion_protocol::messages::master::Entry;
use rustix::fs::{AtFlags, CWD, Gid, Mode, Uid, XattrFlags};

use crate::context::Context;
use crate::local;

/// Files worked on at one time: each takes the masters a few round trips.
const AT_ONCE: usize = 32;
/// Attributes of users, and not of a machine.
const OF_USERS: &str = "user.";
/// Things that could not be kept and are told one by one.
const TOLD_MAX: usize = 20;
/// Permission bits.
const BITS: u32 = 0o7777;
/// Of them, those that give rights of the owner or group.
const SET_ID_BITS: u32 = 0o6000;

/// Something on this machine and the same on the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Same {
    pub(crate) local: PathBuf,
    pub(crate) remote: FsPath,
}

/// What could not be kept.
#[derive(Debug, Default)]
pub(crate) struct Losses {
    told: Vec<String>,
    more: usize,
}

impl Losses {
    fn add(&mut self, what: String) {
        if self.told.len() < TOLD_MAX {
            self.told.push(what);
        } else {
            self.more += 1;
        }
    }

    /// Tells them, also if nothing else is to be said: all else is done, but this is not what was asked for.
    pub(crate) fn tell(self) -> Result<(), Failure> {
        if self.told.is_empty() {
            return Ok(());
        }
        for what in &self.told {
            eprintln!("warning: {what}");
        }
        if self.more > 0 {
            eprintln!("warning: and {} more of the kind", self.more);
        }
        Err(Failure::Told {
            exit_code: failure::PARTIAL,
        })
    }
}

/// Names of users or groups and their numbers, as this machine has them.
#[derive(Debug, Default)]
struct Names {
    by_number: BTreeMap<u32, String>,
    by_name: BTreeMap<String, u32>,
}

impl Names {
    /// Reads `/etc/passwd` or `/etc/group`: in both, a name, something, a number.
    fn read(file: &str) -> Self {
        Self::parse(&std::fs::read_to_string(file).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let mut names = Self::default();
        for line in text.lines() {
            let mut fields = line.split(':');
            let (Some(name), Some(number)) = (fields.next(), fields.nth(1)) else {
                continue;
            };
            if let Ok(number) = number.parse() {
                names.by_number.entry(number).or_insert_with(|| name.to_owned());
                names.by_name.entry(name.to_owned()).or_insert(number);
            }
        }
        names
    }

    fn name(&self, number: u32) -> String {
        self.by_number
            .get(&number)
            .cloned()
            .unwrap_or_else(|| number.to_string())
    }

    fn number(&self, name: &str) -> Option<u32> {
        self.by_name.get(name).copied().or_else(|| name.parse().ok())
    }
}

/// Who is who on this machine.
#[derive(Debug, Default)]
pub(crate) struct People {
    users: Names,
    groups: Names,
}

impl People {
    pub(crate) fn here() -> Self {
        Self {
            users: Names::read("/etc/passwd"),
            groups: Names::read("/etc/group"),
        }
    }
}

/// What is told of something, whichever side it is on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Told {
    is_link: bool,
    mode: u32,
    modified_ms: Option<i64>,
    owner: String,
    group: String,
    extended: BTreeMap<String, Vec<u8>>,
}

impl Told {
    fn of_remote(entry: &Entry, attributes: Attributes) -> Self {
        Self {
            is_link: entry.target().is_some(),
            mode: entry.mode,
            modified_ms: Some(entry.modified_ms),
            owner: attributes.owner,
            group: attributes.group,
            extended: attributes.extended.into_iter().collect(),
        }
    }

    fn of_local(path: &Path, is_link: bool, people: &People, losses: &mut Losses) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| Failure::local("read", path.display(), &error);
        let found = match is_link {
            true => std::fs::symlink_metadata(path),
            false => std::fs::metadata(path),
        };
        let found = found.map_err(cannot)?;
        let extended = match found.is_symlink() {
            true => BTreeMap::new(),
            false => local_attributes(path, losses)?,
        };
        Ok(Self {
            is_link: found.is_symlink(),
            mode: found.mode() & BITS,
            modified_ms: local::modified_ms(&found),
            owner: people.users.name(found.uid()),
            group: people.groups.name(found.gid()),
            extended,
        })
    }
}

/// The extended attributes of users that a local file has; a file system without them has none.
fn local_attributes(path: &Path, losses: &mut Losses) -> Result<BTreeMap<String, Vec<u8>>, Failure> {
    let mut attributes = BTreeMap::new();
    let mut names = vec![0; ATTRIBUTES_BYTES_MAX];
    let Ok(length) = rustix::fs::listxattr(path, &mut *names) else {
        return Ok(attributes);
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let Some(text) = std::str::from_utf8(name).ok().filter(|name| name.starts_with(OF_USERS)) else {
            continue;
        };
        let mut value = vec![0; ATTRIBUTES_BYTES_MAX];
        match rustix::fs::getxattr(path, OsStr::from_bytes(name), &mut *value) {
            Ok(length) => {
                value.truncate(length);
                attributes.insert(text.to_owned(), value);
            }
            Err(error) => losses.add(format!(
                "the attribute {text} of {} cannot be read: {error}",
                path.display()
            )),
        }
    }
    Ok(attributes)
}

/// Tells the cluster of `all` what this machine knows.
pub(crate) async fn up(context: &Context, all: Vec<Same>, losses: &mut Losses) -> Result<(), Failure> {
    let people = People::here();
    let people = &people;
    let mut running = futures_util::stream::iter(all)
        .map(|same| async move {
            let mut losses = Losses::default();
            let done = up_one(context, &same, people, &mut losses).await;
            (same, done, losses)
        })
        .buffer_unordered(AT_ONCE);
    while let Some((same, done, found)) = running.next().await {
        take(&same.remote.to_string(), done, found, losses)?;
        if context.stop.is_cancelled() {
            return Err(Failure::interrupted());
        }
    }
    Ok(())
}

/// Notes what became of one; an error that meets all ends the work.
fn take(what: &str, done: Result<(), Failure>, found: Losses, losses: &mut Losses) -> Result<(), Failure> {
    found.told.into_iter().for_each(|told| losses.add(told));
    losses.more += found.more;
    match done {
        Err(failure) if failure.concerns_all() => Err(failure),
        Err(failure) => {
            losses.add(format!("what is told of {what} is not kept: {}", failure.line()));
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

async fn up_one(context: &Context, same: &Same, people: &People, losses: &mut Losses) -> Result<(), Failure> {
    let client = &context.client;
    let entry = client.stat(&same.remote).await?;
    let there = Told::of_remote(&entry, client.attributes(&same.remote).await?);
    let here = Told::of_local(&same.local, there.is_link, people, losses)?;
    if here == there {
        return Ok(());
    }
    let path = &same.remote;
    if here.is_link {
        let told = LinkTold {
            modified_ms: here.modified_ms,
            owner: Some(here.owner),
            group: Some(here.group),
        };
        client.tell_link(path, told).await?;
        return Ok(());
    }
    if (&here.owner, &here.group) != (&there.owner, &there.group) {
        let change = AttributeChange::Owner {
            owner: Some(here.owner.clone()),
            group: Some(here.group.clone()),
        };
        client.change_attributes(path, change).await?;
    }
    let gone = there
        .extended
        .keys()
        .filter(|name| name.starts_with(OF_USERS) && !here.extended.contains_key(*name));
    for name in gone.cloned() {
        client.change_attributes(path, AttributeChange::Remove { name }).await?;
    }
    for (name, value) in &here.extended {
        if there.extended.get(name) == Some(value) {
            continue;
        }
        let change = AttributeChange::Set {
            name: name.clone(),
            value: value.clone(),
        };
        if let Err(error) = client.change_attributes(path, change).await {
            losses.add(format!("the attribute {name} of {path} is not kept: {error}"));
        }
    }
    if (here.mode, here.modified_ms) != (there.mode, there.modified_ms) {
        client.set_attributes(path, Some(here.mode), here.modified_ms).await?;
    }
    Ok(())
}

/// Tells this machine of `all` what the cluster knows. What lies in a directory comes before it in time: its own time and
/// bits are set last. All is below `root`, or that itself.
pub(crate) async fn down(context: &Context, root: &Path, all: Vec<Same>, losses: &mut Losses) -> Result<(), Failure> {
    let people = People::here();
    // A link that the user named as the target is his own.
    let all = all.into_iter().filter(|same| same.local != root || !root.is_symlink());
    let mut asked = futures_util::stream::iter(all)
        .map(|same| async move {
            let told = told_of_remote(context, &same.remote, same.local.is_symlink()).await;
            (same, told)
        })
        .buffer_unordered(AT_ONCE);
    let mut all = Vec::new();
    while let Some((same, told)) = asked.next().await {
        match told {
            Ok(told) => all.push((same.local, told)),
            Err(failure) => take(
                &same.local.display().to_string(),
                Err(failure),
                Losses::default(),
                losses,
            )?,
        }
        if context.stop.is_cancelled() {
            return Err(Failure::interrupted());
        }
    }
    all.sort_by(|(one, _), (other, _)| other.cmp(one));
    for (path, told) in all {
        match local::refuse_links_between(root, &path) {
            Ok(()) => down_one(&path, &told, &people, losses),
            Err(failure) => losses.add(failure.line()),
        }
    }
    Ok(())
}

/// What the cluster knows of a link, or of what a path leads to.
async fn told_of_remote(context: &Context, path: &FsPath, is_link: bool) -> Result<Told, Failure> {
    let client = &context.client;
    if !is_link {
        let (path, entry) = client.resolve(path).await?;
        return Ok(Told::of_remote(&entry, client.attributes(&path).await?));
    }
    Ok(Told::of_remote(
        &client.stat(path).await?,
        client.attributes(path).await?,
    ))
}

fn down_one(path: &Path, told: &Told, people: &People, losses: &mut Losses) {
    let shown = path.display();
    let Ok(found) = std::fs::symlink_metadata(path) else {
        // It could not be fetched, which is told already.
        return;
    };
    // Somebody put something else there meanwhile: nothing is told of that, or through it.
    if found.is_symlink() != told.is_link {
        losses.add(format!("{shown} became something else meanwhile: it is left as it is"));
        return;
    }
    let is_owned = give(path, &found, told, people, losses);
    if !told.is_link {
        for (name, value) in told.extended.iter().filter(|(name, _)| name.starts_with(OF_USERS)) {
            if let Err(error) = rustix::fs::lsetxattr(path, name, value, XattrFlags::empty()) {
                losses.add(format!("the attribute {name} of {shown} is not kept: {error}"));
            }
        }
        let mode = match is_owned {
            true => told.mode & BITS,
            false => told.mode & BITS & !SET_ID_BITS,
        };
        if let Err(error) = rustix::fs::chmod(path, Mode::from_raw_mode(mode)) {
            losses.add(format!("the mode of {shown} is not kept: {error}"));
        }
    }
    if let Some(modified_ms) = told.modified_ms {
        local::set_modified(path, modified_ms);
    }
}

/// Gives a local file its owner and group, if the cluster knows them; whether they are what they shall be.
fn give(path: &Path, found: &std::fs::Metadata, told: &Told, people: &People, losses: &mut Losses) -> bool {
    let shown = path.display();
    let mut number = |names: &Names, name: &str, what: &str| {
        if name.is_empty() {
            return None;
        }
        let number = names.number(name);
        if number.is_none() {
            losses.add(format!(
                "the {what} of {shown} is not kept: there is no {name} on this machine"
            ));
        }
        number
    };
    let uid = number(&people.users, &told.owner, "owner");
    let gid = number(&people.groups, &told.group, "group");
    let is_known = |name: &str, number: Option<u32>| name.is_empty() || number.is_some();
    let mut is_owned = is_known(&told.owner, uid) && is_known(&told.group, gid);
    // One by one: who may not give a file away may often still choose among his groups.
    if let Some(gid) = gid.filter(|gid| *gid != found.gid()) {
        is_owned &= own(path, None, Some(gid), &format!("group {}", told.group), losses);
    }
    if let Some(uid) = uid.filter(|uid| *uid != found.uid()) {
        is_owned &= own(path, Some(uid), None, &format!("owner {}", told.owner), losses);
    }
    is_owned
}

fn own(path: &Path, uid: Option<u32>, gid: Option<u32>, what: &str, losses: &mut Losses) -> bool {
    let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
    let owned = rustix::fs::chownat(CWD, path, uid, gid, AtFlags::SYMLINK_NOFOLLOW);
    if let Err(error) = owned {
        losses.add(format!("the {what} of {} is not kept: {error}", path.display()));
    }
    owned.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(mode: u32, owner: &str) -> Told {
        Told {
            is_link: false,
            mode,
            modified_ms: Some(1_500),
            owner: owner.to_owned(),
            group: String::new(),
            extended: BTreeMap::new(),
        }
    }

    #[test]
    fn names_have_numbers_and_numbers_names() {
        let names = Names::parse("root:x:0:0::/:/bin/sh\nann:x:1000:1000::/:\nbroken\ntoor:x:0:\n");
        assert_eq!((names.number("ann"), names.number("77")), (Some(1000), Some(77)));
        assert_eq!(names.number("nobody of that name"), None);
        assert_eq!((names.name(0), names.name(5)), ("root".to_owned(), "5".to_owned()));
    }

    #[test]
    fn what_cannot_be_kept_is_told_and_gives_no_rights() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let people = People::default();
        let mut losses = Losses::default();
        down_one(file.path(), &told(0o4755, "nobody of that name"), &people, &mut losses);
        let found = file.path().metadata().unwrap();
        assert_eq!(found.mode() & BITS, 0o755, "no set-user-id bit for another owner");
        assert_eq!(local::modified_ms(&found), Some(1_500));
        assert_eq!(losses.told.len(), 1, "{losses:?}");
        assert_eq!(losses.tell().unwrap_err().exit_code(), 8);
        // What nobody said is no loss.
        let mut losses = Losses::default();
        down_one(file.path(), &told(0o4700, ""), &people, &mut losses);
        assert_eq!(file.path().metadata().unwrap().mode() & BITS, 0o4700);
        losses.tell().unwrap();
    }

    #[test]
    fn nothing_is_told_through_a_link_that_came_between() {
        let root = tempfile::tempdir().unwrap();
        let victim = root.path().join("victim");
        std::fs::write(&victim, "1").unwrap();
        local::set_modified(&victim, 9_000);
        let link = root.path().join("link");
        std::os::unix::fs::symlink(&victim, &link).unwrap();
        let mut losses = Losses::default();
        down_one(&link, &told(0o777, ""), &People::default(), &mut losses);
        let found = victim.metadata().unwrap();
        assert!(found.mode() & BITS != 0o777 && local::modified_ms(&found) == Some(9_000));
        assert_eq!(losses.told.len(), 1);
    }
}
