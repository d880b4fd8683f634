//! Conditions of chunkservers.

use super::*;

pub(super) fn condition_ops() -> Vec<master::Op> {
    use master::{ConditionChange, Op};
    let change = |change| Op::SetCondition {
        server: ServerId(3),
        change,
        force: true,
    };
    vec![
        change(ConditionChange::Serve),
        change(ConditionChange::Drain),
        change(ConditionChange::Maintain { for_ms: 300 }),
        change(ConditionChange::Remove),
    ]
}

pub(super) fn conditions() -> Vec<String> {
    use master::{Condition, Query, Response, ServerPlan, ServerState};
    let server = ServerId(3);
    let ops = condition_ops();
    let state = |condition| ServerState {
        info: status().servers.remove(0),
        condition,
        retired: false,
    };
    let until = StateTime(300);
    let plan = ServerPlan {
        server: state(Condition::Draining),
        chunks: 1,
        bytes: 300,
        unsettled: 2,
        needed: 3,
        needed_ids: vec![chunk()],
        last: 4,
        last_ids: vec![],
        wanted_max: 3,
        chunk_bytes_max: 5,
        others: vec![ServerId(4)],
        racks: 6,
        bytes_free: 7,
        now: StateTime(8),
    };
    let servers = [
        state(Condition::InService),
        state(Condition::Maintenance { until }),
        state(Condition::Removing),
    ];
    let responses = [
        Response::Servers {
            now: StateTime(1),
            servers: servers.to_vec(),
        },
        Response::ServerPlan(Box::new(plan)),
    ];
    let mut all = lines("op", &ops);
    all.extend(lines("query", &[Query::Servers, Query::ServerPlan { server }]));
    all.extend(lines("master response", &responses));
    all
}
