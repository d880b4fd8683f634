//! Which servers of a chain are written to; and why the masters place nothing, read from what they tell of theirs.
//!
//! The masters say the latter themselves when they have waited for servers long enough. A client that waits less would learn
//! nothing but that no answer came; this gives it the same words.

use std::collections::BTreeMap;

use gabion_protocol::ids::ServerId;
use gabion_protocol::messages::master::{Health, ServerInfo};
use gabion_protocol::{ErrorCode, WireError};

/// Fewest servers that must take a chunk of which `wanted` copies are asked for: one copy is no promise, unless one
/// was asked for.
pub(crate) fn needed(wanted: u8) -> usize {
    usize::from(wanted.min(2))
}

/// The servers of a fresh chain to write to, in its order: those without trouble; if they are fewer than `needed`, also
/// those whose trouble is the longest ago. A server that came back is well long before its trouble is forgotten, and
/// the one that failed just now is the last that should be tried again.
pub(crate) fn writable<T: Ord>(chain: &[ServerId], troubles: &BTreeMap<ServerId, T>, needed: usize) -> Vec<ServerId> {
    let mut oldest: Vec<_> = chain
        .iter()
        .filter_map(|id| troubles.get(id).map(|at| (at, *id)))
        .collect();
    oldest.sort();
    let sound = chain.len() - oldest.len();
    let recalled: Vec<_> = oldest
        .iter()
        .take(needed.saturating_sub(sound))
        .map(|(_, id)| *id)
        .collect();
    let is_writable = |id: &ServerId| !troubles.contains_key(id) || recalled.contains(id);
    chain.iter().copied().filter(is_writable).collect()
}

/// The error if fewer than `needed` of `servers` can take a chunk of `chunk_bytes`: each of the others is named with
/// the reason. `None` if enough can.
pub(crate) fn shortage(servers: &[ServerInfo], needed: usize, chunk_bytes: u64) -> Option<WireError> {
    let passed_over: Vec<_> = servers
        .iter()
        .filter_map(|server| Some((server, why_not(server, chunk_bytes)?)))
        .collect();
    let usable = servers.len() - passed_over.len();
    if usable >= needed {
        return None;
    }
    let full = passed_over.iter().filter(|(_, (_, is_full))| *is_full).count();
    // Space is what is missing only if it alone keeps enough servers out.
    let error = if usable + full >= needed {
        let message = format!("{usable} chunkservers have room for a chunk, {needed} are needed");
        WireError::new(ErrorCode::NoSpace, message)
            .why("the servers that are well are full")
            .help("remove files, or add chunkservers")
    } else {
        let message = format!("{usable} chunkservers can take a copy, {needed} are needed");
        WireError::new(ErrorCode::TooFewServers, message)
            .why("a write is acknowledged only when enough servers hold it")
            .help("start more chunkservers, or ask for fewer copies")
    };
    let named = |error: WireError, (server, (why, _)): (&ServerInfo, (String, bool))| {
        error.tried(format!("{} {}", server.name, server.address), why)
    };
    Some(passed_over.into_iter().fold(error, named))
}

/// Why a server gets no copies now, and whether it is for lack of space.
fn why_not(server: &ServerInfo, chunk_bytes: u64) -> Option<(String, bool)> {
    let beat = server.beat_age_ms.map_or_else(
        || "has not beaten yet".to_owned(),
        |age| format!("last beat {}.{} s ago", age / 1000, age % 1000 / 100),
    );
    match server.health {
        Health::Suspect => Some((format!("suspect: {beat}"), false)),
        Health::Lost => Some((format!("lost: {beat}"), false)),
        Health::Alive if server.load.disks_ok == 0 => Some(("none of its disks serves".to_owned(), false)),
        Health::Alive if server.load.bytes_free < chunk_bytes => {
            let free = server.load.bytes_free;
            Some((format!("full: {free} bytes free, a chunk may take {chunk_bytes}"), true))
        }
        Health::Alive => None,
    }
}

#[cfg(test)]
mod tests {
    use gabion_protocol::messages::master::Load;

    use super::*;

    #[test]
    fn the_latest_trouble_is_left_out_and_the_oldest_comes_back_first() {
        let ids = |ids: &[u32]| ids.iter().copied().map(ServerId).collect::<Vec<_>>();
        let chain = ids(&[1, 2, 3]);
        let writable = |troubles: &[(u32, u64)], needed| {
            let troubles = troubles.iter().map(|(id, at)| (ServerId(*id), *at)).collect();
            writable(&chain, &troubles, needed)
        };
        assert_eq!(writable(&[], 2), chain);
        assert_eq!(writable(&[(9, 5)], 2), chain, "not of this chain");
        assert_eq!(writable(&[(2, 5)], 2), ids(&[1, 3]), "enough are well");
        assert_eq!(writable(&[(1, 4), (2, 5)], 2), ids(&[1, 3]), "1 had time to come back");
        assert_eq!(writable(&[(1, 6), (2, 5)], 2), ids(&[2, 3]));
        assert_eq!(writable(&[(1, 6), (2, 5), (3, 4)], 2), ids(&[2, 3]));
        assert_eq!(writable(&[(1, 6), (2, 5), (3, 4)], 1), ids(&[3]));
    }

    fn server(id: u32, health: Health) -> ServerInfo {
        ServerInfo {
            server: ServerId(id),
            name: format!("c{id}"),
            address: format!("h{id}:1"),
            rack: "r".to_owned(),
            health,
            beat_age_ms: Some(2345),
            load: Load {
                bytes_free: 100,
                disks_ok: 1,
                ..Load::default()
            },
        }
    }

    #[test]
    fn each_server_passed_over_is_named() {
        let mut servers = [
            server(1, Health::Alive),
            server(2, Health::Suspect),
            server(3, Health::Lost),
        ];
        servers[2].beat_age_ms = None;
        let error = shortage(&servers, 2, 100).unwrap();
        assert_eq!(
            error.report(),
            "error[TOO_FEW_SERVERS]: 1 chunkservers can take a copy, 2 are needed\n  \
             tried  c2 h2:1  suspect: last beat 2.3 s ago\n         \
             c3 h3:1  lost: has not beaten yet\n  \
             why    a write is acknowledged only when enough servers hold it\n  \
             help   start more chunkservers, or ask for fewer copies"
        );
        assert_eq!(shortage(&servers, 1, 100), None);
        servers[0].load.disks_ok = 0;
        assert!(shortage(&servers, 1, 100).is_some());
    }

    #[test]
    fn only_space_is_told_as_space() {
        let mut servers = [server(1, Health::Alive), server(2, Health::Alive)];
        assert_eq!(shortage(&servers, needed(3), 100), None);
        let error = shortage(&servers, needed(3), 101).unwrap();
        assert_eq!(error.code, ErrorCode::NoSpace);
        assert!(error.report().contains("c1") && error.report().contains("full"));
        servers[0].health = Health::Lost;
        let error = shortage(&servers, needed(3), 101).unwrap();
        assert_eq!(error.code, ErrorCode::TooFewServers);
    }

    #[test]
    fn one_copy_is_enough_only_if_asked_for() {
        assert_eq!([1, 2, 3].map(needed), [1, 2, 2]);
    }
}
