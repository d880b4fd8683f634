//! The protocol of an append, explored state by state: two writers, three chunkservers, masters in two terms, and all
//! that can go wrong between them, at any moment and in any order.
//!
//! Each model has two or three kinds of faults and is explored to its end; one with all of them at once is walked through
//! at random. What must hold is in [`properties`]. Rules broken on purpose ([`words::Bug`]) must be found, each by the
//! promise it breaks.
//!
//! What is left out, because nothing here rests on it: that tokens expire, that connections keep an order, that a writer
//! gives up for a reason.

mod agreed;
mod model;
mod properties;
mod protocol;
mod words;

use std::time::Instant;

use stateright::{Checker, Expectation, HasDiscoveries, Model, UniformChooser};

use properties::{DURABLE, HONEST, ONCE, RIGHT};
use words::{Append, Budget, Bug, Grant, Server, WRITERS, Writer};

/// Chunks, each with its writer and the servers it is pushed to, in the order their writers take them.
fn model(grants: &[(Writer, &'static [Server])], appends: [u8; WRITERS], budget: Budget) -> Append {
    let grants = grants.iter().map(|(writer, chain)| Grant {
        writer: *writer,
        chain,
        on_all: false,
    });
    Append {
        grants: grants.collect(),
        appends,
        whole_puts: false,
        budget,
        bug: None,
    }
}

/// Chains that break: a server crashes, a writer goes to another chain, rightly or not.
fn chains() -> Append {
    let budget = Budget {
        crashes: 1,
        given_up: 2,
        ..Budget::default()
    };
    model(
        &[(0, &[0, 1, 2]), (0, &[2, 1]), (1, &[1, 0]), (1, &[0, 2])],
        [1, 1],
        budget,
    )
}

/// Leaders that change, and commands that come again: while they are under way, answered, and forgotten.
fn leaders() -> Append {
    let budget = Budget {
        elections: 1,
        duplicates: 2,
        reads: 1,
        ..Budget::default()
    };
    Append {
        whole_puts: true,
        ..model(
            &[(0, &[0, 1]), (0, &[1, 0]), (1, &[1, 2]), (1, &[2, 0])],
            [2, 2],
            budget,
        )
    }
}

/// Stocks that end, and what was pushed for nothing.
fn stocks() -> Append {
    let budget = Budget {
        crashes: 1,
        duplicates: 1,
        stocks_ended: 1,
        ..Budget::default()
    };
    model(&[(0, &[0, 1]), (0, &[1, 2]), (1, &[2, 0])], [1, 1], budget)
}

/// Copies that are left out, made elsewhere, dropped and rotten.
fn copies() -> Append {
    let budget = Budget {
        crashes: 1,
        elections: 1,
        rotten: 1,
        repairs: 1,
        reads: 1,
        ..Budget::default()
    };
    let mut model = Append {
        whole_puts: true,
        ..model(&[(0, &[1, 2]), (1, &[2, 0])], [1, 1], budget)
    };
    model.grants[0].on_all = true;
    model
}

/// All of it at once, more than can be explored.
fn everything() -> Append {
    let budget = Budget {
        crashes: 2,
        elections: 1,
        given_up: 2,
        duplicates: 2,
        stocks_ended: 1,
        rotten: 1,
        repairs: 1,
        reads: 2,
    };
    let grants: [(Writer, &'static [Server]); 5] = [
        (0, &[0, 1, 2]),
        (0, &[2, 1]),
        (1, &[1, 2, 0]),
        (1, &[0, 2]),
        (1, &[2, 0]),
    ];
    let mut model = model(&grants, [1, 2], budget);
    model.grants.iter_mut().for_each(|grant| grant.on_all = true);
    model
}

/// Asserts that every promise holds in every state, and that what is to happen sometimes does.
fn explore(what: &str, model: Append, sometimes: &[&'static str]) {
    let began = Instant::now();
    let checker = model.checker().spawn_dfs().join();
    assert!(checker.is_done(), "every state was seen");
    judge(what, &checker, sometimes, began);
}

fn judge(what: &str, checker: &impl Checker<Append>, sometimes: &[&'static str], began: Instant) {
    let (states, depth) = (checker.unique_state_count(), checker.max_depth());
    eprintln!("{what}: {states} states, up to {depth} steps, {:?}", began.elapsed());
    for promise in [DURABLE, RIGHT, ONCE, HONEST] {
        if let Some(path) = checker.discovery(promise) {
            panic!("broken: {promise}\n{:#?}", path.into_actions());
        }
    }
    for fault in sometimes {
        assert!(checker.discovery(fault).is_some(), "it never happened that {fault}");
    }
}

#[test]
fn chains_that_break_cost_no_record() {
    use properties::{BYTES_LOST, REWRITTEN};
    explore("chains", chains(), &[BYTES_LOST, REWRITTEN]);
}

#[test]
fn leaders_that_change_run_each_command_once() {
    use properties::{ENTRY_KEPT, ENTRY_LOST, FORGOTTEN, REPEATED};
    explore("leaders", leaders(), &[ENTRY_KEPT, ENTRY_LOST, FORGOTTEN, REPEATED]);
}

#[test]
fn stocks_that_end_cost_no_record() {
    use properties::{FENCED, LATE_PUT, UNNAMED};
    explore("stocks", stocks(), &[FENCED, LATE_PUT, UNNAMED]);
}

#[test]
fn copies_that_count_are_there() {
    use properties::{OLD_NUMBER, OLD_TERM, REPAIRED, ROTTEN};
    explore("copies", copies(), &[OLD_NUMBER, OLD_TERM, REPAIRED, ROTTEN]);
}

/// Random walks, always the same.
#[test]
fn everything_at_once_breaks_no_promise() {
    let faults = properties::all().into_iter();
    // That a reader comes after the rot is too rare here; `copies` has it.
    let faults = faults.filter(|fault| fault.expectation == Expectation::Sometimes && fault.name != properties::ROTTEN);
    let faults: Vec<_> = faults.map(|fault| fault.name).collect();
    let began = Instant::now();
    let walks = everything().checker().target_state_count(WALKED);
    let checker = walks.spawn_simulation(1, UniformChooser).join();
    judge("everything", &checker, &faults, began);
}

/// States of the random walks.
const WALKED: usize = 1_000_000;

/// Each rule that is broken on purpose is noticed, by the promise it breaks.
#[test]
fn planted_bugs_are_found() {
    for (bug, mut model, promise) in [
        (Bug::AckBeforeSync, chains(), DURABLE),
        (Bug::HeadSpeaksForItself, chains(), DURABLE),
        (Bug::SetNotNamed, copies(), DURABLE),
        (Bug::RepliesNotStored, leaders(), HONEST),
        (Bug::AnswerBeforeAgreed, leaders(), ONCE),
        (Bug::AnotherCommandAfterSilence, leaders(), ONCE),
        (Bug::DropWithoutNumber, copies(), DURABLE),
        (Bug::CopyBeforeSync, copies(), DURABLE),
        (Bug::UnverifiedRead, copies(), RIGHT),
    ] {
        model.bug = Some(bug);
        let began = Instant::now();
        let checker = model
            .checker()
            .finish_when(HasDiscoveries::AnyFailures)
            .spawn_bfs()
            .join();
        let path = checker.discovery(promise);
        let path = path.unwrap_or_else(|| panic!("{bug:?} is not found by \"{promise}\""));
        let steps = path.into_actions().len();
        eprintln!(
            "{bug:?}: {steps} steps, {} states, {:?}",
            checker.unique_state_count(),
            began.elapsed()
        );
    }
}
