//! Balance.

use super::*;

pub(super) fn balance_ops() -> Vec<master::Op> {
    vec![master::Op::SetBalance { runs: false }]
}

pub(super) fn balance() -> Vec<String> {
    use master::{BalancePlan, Query, Response, ServerFill, ServerMoves};
    let fill = |aside: Option<&str>| ServerFill {
        info: status().servers.remove(0),
        bytes_used: 300,
        used_ppm: 301,
        aside: aside.map(str::to_owned),
    };
    let moves = ServerMoves {
        from: ServerId(3),
        to: ServerId(4),
        copies: 5,
        bytes: 302,
    };
    let plan = BalancePlan {
        runs: true,
        threshold_ppm: 300,
        mean_ppm: 301,
        servers: vec![fill(None), fill(Some("x"))],
        moves: vec![moves],
        more: true,
        moving: 6,
        moving_bytes: 303,
    };
    let mut all = lines("op", &balance_ops());
    all.extend(lines("query", &[Query::BalancePlan]));
    all.extend(lines("master response", &[Response::BalancePlan(Box::new(plan))]));
    all
}
