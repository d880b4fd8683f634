//! What this master remembers of its peers' directories, so that an old copy or an emptied directory cannot come back
//! as if nothing had happened.
//!
//! A master that forgot its votes or log entries may vote twice and undo what was acknowledged. Every start raises a
//! synced boot counter; peers remember the highest (boot, incarnation) of each master and refuse a lower boot, an equal
//! one of another run of the process, and any of another life of the directory, however often it was started: the
//! first half of an incarnation is the directory's life, the second the run. While this master itself has neither voted nor logged anything, nothing can
//! be undone yet: it only notes what it sees, so that a first set-up may be repeated.

use std::collections::BTreeMap;
use std::path::PathBuf;

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::hello::Introduction;
use gabion_protocol::ids::Incarnation;
use gabion_protocol::keys::Role;
use parking_lot::Mutex;

use crate::store::{StoreError, durable};

const FIRST_LINE: &str = "gabion peers 2";

/// How a directory comes to be older than the one the peers know.
pub(crate) const STALE_WHY: &str = "the directory was emptied, restored from a copy, or is used by two processes";
/// What to do about it.
pub(crate) const STALE_HELP: &str = "remove this master and add it again under a new id with an empty directory";

type Seen = BTreeMap<u64, (u64, Incarnation)>;

/// The peers' boots, in memory and, once it matters, in a file.
#[derive(Debug)]
pub(crate) struct Peers {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    enforced: bool,
    seen: Seen,
}

/// The master id of a peer that says it is a master.
pub(crate) fn master_id(from: &Introduction) -> Result<u64, WireError> {
    let refused = || {
        WireError::new(
            ErrorCode::WrongRole,
            format!("{} may not speak Raft, only masters may", from.identity),
        )
        .help("dial the masters' client address instead")
    };
    if from.identity.role != Role::Master {
        return Err(refused());
    }
    from.identity.id.parse().map_err(|_| refused())
}

impl Peers {
    pub(crate) fn open(path: PathBuf) -> Result<Self, StoreError> {
        let mut state = State::default();
        if let Some(bytes) = durable::read_file(&path)? {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            state.seen = parse(&text).ok_or_else(|| StoreError::Damaged {
                path: path.clone(),
                why: "it is no list of peers".to_owned(),
            })?;
            state.enforced = true;
        }
        Ok(Self {
            path,
            state: Mutex::new(state),
        })
    }

    /// From now on peers are held to what was seen; durable before it returns.
    pub(crate) fn enforce(&self) -> Result<(), StoreError> {
        let mut state = self.state.lock();
        if !state.enforced {
            durable::write_file(&self.path, render(&state.seen).as_bytes())?;
            state.enforced = true;
        }
        Ok(())
    }

    /// Whether the peer's directory may be what it was.
    pub(crate) fn check(&self, from: &Introduction) -> Result<u64, WireError> {
        judge(&self.state.lock(), from)
    }

    /// Remembers a peer that has proved who it is; durable before it returns.
    pub(crate) fn remember(&self, from: &Introduction) -> Result<(), WireError> {
        let mut state = self.state.lock();
        let id = judge(&state, from)?;
        let mut seen = state.seen.clone();
        if seen.insert(id, (from.boot, from.incarnation)) == Some((from.boot, from.incarnation)) {
            return Ok(());
        }
        // The file before the memory: what was not stored must be stored when the peer comes again.
        if state.enforced {
            durable::write_file(&self.path, render(&seen).as_bytes())
                .map_err(|error| WireError::new(ErrorCode::DiskFailed, error.to_string()))?;
        }
        state.seen = seen;
        Ok(())
    }
}

fn judge(state: &State, from: &Introduction) -> Result<u64, WireError> {
    let id = master_id(from)?;
    let seen = state.seen.get(&id).copied().filter(|_| state.enforced);
    match seen {
        Some((boot, incarnation))
            if from.incarnation.0[..8] != incarnation.0[..8]
                || from.boot < boot
                || (from.boot == boot && from.incarnation != incarnation) =>
        {
            Err(WireError::new(
                ErrorCode::StaleDirectory,
                format!(
                    "master {id}'s directory is not the one its peers know: it says start number {}, \
                         they remember number {boot}",
                    from.boot
                ),
            )
            .why(STALE_WHY)
            .help(STALE_HELP))
        }
        Some(_) | None => Ok(id),
    }
}

fn render(seen: &Seen) -> String {
    let mut text = format!("{FIRST_LINE}\n");
    for (id, (boot, incarnation)) in seen {
        text.push_str(&format!("{id} {boot} {incarnation}\n"));
    }
    text
}

fn parse(text: &str) -> Option<Seen> {
    let mut lines = text.lines();
    if lines.next()? != FIRST_LINE {
        return None;
    }
    lines
        .map(|line| {
            let mut words = line.split(' ');
            let (id, boot, incarnation) = (words.next()?, words.next()?, words.next()?);
            let seen = (boot.parse().ok()?, incarnation.parse().ok()?);
            words.next().is_none().then_some((id.parse().ok()?, seen))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use gabion_protocol::keys::Identity;

    use super::*;

    const LIFE: [u8; 8] = [5; 8];

    fn master(boot: u64, run: u8) -> Introduction {
        lived(LIFE, boot, run)
    }

    fn lived(life: [u8; 8], boot: u64, run: u8) -> Introduction {
        let mut incarnation = Incarnation([run; 16]);
        incarnation.0[..8].copy_from_slice(&life);
        Introduction {
            identity: Identity {
                role: Role::Master,
                id: "7".into(),
            },
            boot,
            incarnation,
            level: 1,
            nonce: [0; 16],
        }
    }

    #[test]
    fn an_older_or_copied_directory_is_refused_also_after_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Peers::open(dir.path().join("peers")).unwrap();
        let peers = open();
        peers.remember(&master(9, 9)).unwrap();
        peers.remember(&master(3, 1)).unwrap();
        peers.enforce().unwrap();
        let peers = open();
        assert!(peers.check(&master(3, 1)).is_ok());
        assert_eq!(peers.check(&master(2, 9)).unwrap_err().code, ErrorCode::StaleDirectory);
        assert_eq!(peers.check(&master(3, 2)).unwrap_err().code, ErrorCode::StaleDirectory);
        peers.remember(&master(4, 2)).unwrap();
        assert!(open().check(&master(3, 1)).is_err());
        for boot in 1..20 {
            let emptied = lived([6; 8], boot, 7);
            assert!(peers.check(&emptied).is_err(), "start {boot} of an emptied directory");
            assert!(peers.remember(&emptied).is_err());
        }
        let mut client = master(1, 1);
        client.identity.role = Role::Client;
        assert_eq!(peers.check(&client).unwrap_err().code, ErrorCode::WrongRole);
    }

    #[test]
    fn a_damaged_list_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("peers");
        for text in [
            "",
            "gabion peers 3\n",
            "gabion peers 2\n1 2\n",
            "gabion peers 2\nx 2 3\n",
        ] {
            durable::write_file(&path, text.as_bytes()).unwrap();
            assert!(Peers::open(path.clone()).is_err(), "{text:?}");
        }
    }
}
