//! Who may ask what: one table.

use gabion_protocol::error::{ErrorCode, WireError};
use gabion_protocol::keys::{Identity, Role};
use gabion_protocol::messages::master::{Op, Query, Request};

/// Turns away a request that the peer's role does not allow.
///
/// # Errors
/// [`ErrorCode::WrongRole`] names the role and what it lacks.
pub(super) fn check(identity: &Identity, request: &Request) -> Result<(), WireError> {
    let (allowed, what) = match (identity.role, request) {
        // Chunkservers are the operator's.
        (Role::Client, Request::Command { op: Op::SetCondition { .. }, .. }) => (false, "change what a chunkserver is there for"),
        (Role::Client, Request::Command { op: Op::SetBalance { .. }, .. }) => (false, "say whether copies are moved"),
        // A quota whoever it holds back can raise is none.
        (Role::Client, Request::Command { op: Op::SetQuota { .. }, .. }) => (false, "change quotas"),
        (Role::Operator, Request::OpenSession | Request::Command { .. } | Request::Query { .. } | Request::Access { .. } | Request::Admin(_))
        | (Role::Client, Request::OpenSession | Request::Command { .. } | Request::Query { .. } | Request::Access { .. })
        | (Role::Chunkserver, Request::Register(_) | Request::Beat(_) | Request::ScrubReport(_) | Request::Inventory(_) | Request::Disks(_) | Request::Access { .. })
        // What a chunkserver finds it compares with the masters' row.
        | (Role::Chunkserver, Request::Query { query: Query::Chunk { .. }, .. }) => (true, ""),
        (_, Request::OpenSession | Request::Command { .. } | Request::Query { .. }) => (false, "use files"),
        (_, Request::Access { .. }) => (false, "reach chunkservers"),
        (_, Request::Register(_) | Request::Beat(_) | Request::ScrubReport(_) | Request::Inventory(_) | Request::Disks(_)) => (false, "be a chunkserver"),
        (_, Request::Admin(_)) => (false, "run the cluster"),
    };
    if allowed {
        return Ok(());
    }
    let error = WireError::new(ErrorCode::WrongRole, format!("{identity} may not {what}"));
    Err(match request {
        Request::Admin(_)
        | Request::Command {
            op: Op::SetCondition { .. } | Op::SetBalance { .. } | Op::SetQuota { .. },
            ..
        } => error.help("use an operator's key: gabion-master keys issue --role operator"),
        _ => error.help("use a key that was issued for this role"),
    })
}

/// Turns away a peer whose role has no business at the client address, before it proves anything.
///
/// # Errors
/// [`ErrorCode::WrongRole`].
pub(super) fn admit(identity: &Identity) -> Result<(), WireError> {
    match identity.role {
        Role::Client | Role::Operator | Role::Chunkserver => Ok(()),
        Role::Master => Err(WireError::new(
            ErrorCode::WrongRole,
            format!("{identity} dialed the address for clients and chunkservers"),
        )
        .help("masters dial each other's raft address: check the member list")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use gabion_protocol::ids::*;
    use gabion_protocol::messages::master::{
        Admin, Beat, DiskReport, Freshness, InventoryReport, Load, Op, Registration, ScrubProgress, ScrubReport,
    };

    fn requests() -> Vec<(&'static str, Request)> {
        let session = SessionId {
            opened: StateTime(0),
            random: 1,
        };
        let incarnation = Incarnation([0; 16]);
        let query = |query| Request::Query {
            query,
            freshness: Freshness::Stale,
        };
        let chunk = ChunkId::from_bytes([0; 14]);
        vec![
            ("session", Request::OpenSession),
            (
                "command",
                Request::Command {
                    request: RequestId { session, sequence: 1 },
                    answered_below: 1,
                    op: Op::Renew { uploads: vec![] },
                },
            ),
            ("status", query(Query::Status)),
            ("chunk", query(Query::Chunk { chunk })),
            ("access", Request::Access { server: ServerId(1) }),
            (
                "register",
                Request::Register(Registration {
                    server: None,
                    incarnation,
                    boot: 1,
                    address: "h:1".into(),
                    rack: String::new(),
                }),
            ),
            (
                "beat",
                Request::Beat(Beat {
                    server: ServerId(1),
                    incarnation,
                    epoch: Epoch::default(),
                    load: Load::default(),
                    done: vec![],
                    damaged: vec![],
                }),
            ),
            (
                "scrub",
                Request::ScrubReport(ScrubReport {
                    server: ServerId(1),
                    incarnation,
                    obeyed: 0,
                    progress: ScrubProgress::default(),
                }),
            ),
            (
                "inventory",
                Request::Inventory(Box::new(InventoryReport {
                    server: ServerId(1),
                    incarnation,
                    copies: 0,
                    highest: None,
                    highest_number: ReplicaNumber(0),
                    refused: 0,
                    complete: true,
                    first: 0,
                    digests: vec![],
                    listed: None,
                })),
            ),
            (
                "disks",
                Request::Disks(Box::new(DiskReport {
                    server: ServerId(1),
                    incarnation,
                    disks: vec![],
                    leaving: vec![],
                })),
            ),
            ("admin", Request::Admin(Admin::MarkHash)),
        ]
    }

    #[test]
    fn each_role_does_its_own_and_nothing_else() {
        for (role, may) in [
            (Role::Client, &["session", "command", "status", "chunk", "access"][..]),
            (
                Role::Operator,
                &["session", "command", "status", "chunk", "access", "admin"],
            ),
            (
                Role::Chunkserver,
                &["chunk", "access", "register", "beat", "scrub", "inventory", "disks"],
            ),
            (Role::Master, &[]),
        ] {
            let identity = Identity { role, id: "x".into() };
            for (name, request) in requests() {
                let checked = check(&identity, &request);
                assert_eq!(checked.is_ok(), may.contains(&name), "{role} asks for {name}");
                if let Err(error) = checked {
                    assert_eq!(error.code, ErrorCode::WrongRole);
                }
            }
            assert_eq!(admit(&identity).is_ok(), role != Role::Master);
        }
    }
}
