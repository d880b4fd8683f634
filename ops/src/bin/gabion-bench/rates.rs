//! Many operations by many clients at once: how many a second, and how long each took.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::{Context, Result};
use gabion_client::terminal::{Column, Format, Table};
use gabion_client::{Client, Config};

use crate::report;

/// One step: the same operation over and over.
#[derive(Debug, Clone, serde::Serialize)]
pub(crate) struct Rates {
    /// What was done.
    pub(crate) what: String,
    /// Clients, each with one operation in flight.
    pub(crate) clients: usize,
    /// Operations done.
    pub(crate) operations: u64,
    /// Seconds for all of them.
    pub(crate) seconds: f64,
    /// Operations a second.
    pub(crate) per_second: f64,
    /// Milliseconds one took: half of them less.
    pub(crate) p50_ms: f64,
    /// 99 of 100 less.
    pub(crate) p99_ms: f64,
    /// 999 of 1,000 less.
    pub(crate) p999_ms: f64,
}

impl Rates {
    /// The rates of operations that took `millis` each, all in `seconds`.
    pub(crate) fn new(what: impl Into<String>, clients: usize, seconds: f64, millis: &[f64]) -> Self {
        let operations = millis.len() as u64;
        Self {
            what: what.into(),
            clients,
            operations,
            seconds,
            per_second: operations as f64 / seconds,
            p50_ms: report::percentile(millis, 0.5),
            p99_ms: report::percentile(millis, 0.99),
            p999_ms: report::percentile(millis, 0.999),
        }
    }
}

/// As many clients, spread over so many sessions with connections of their own.
///
/// # Errors
/// If one cannot connect.
pub(crate) async fn connect_many(clients: usize, sessions: usize) -> Result<Vec<Client>> {
    let mut connected = Vec::with_capacity(clients);
    for _ in 0..sessions.clamp(1, clients.max(1)) {
        connected.push(Client::connect(Config::discover()?).await?);
    }
    Ok(connected.iter().cycle().take(clients).cloned().collect())
}

/// Does `operation` for every number below `count`, shared among the clients, each doing one after the other.
///
/// # Errors
/// The first operation that fails: a rate of operations that may fail says nothing.
pub(crate) async fn drive<F, Fut>(what: &str, clients: &[Client], count: u64, operation: F) -> Result<Rates>
where
    F: Fn(Client, u64) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<(), gabion_client::Error>> + Send,
{
    let (next, operation) = (Arc::new(AtomicU64::new(0)), Arc::new(operation));
    let began = Instant::now();
    let mut workers = tokio::task::JoinSet::new();
    for client in clients {
        let (client, next, operation) = (client.clone(), Arc::clone(&next), Arc::clone(&operation));
        workers.spawn(async move {
            let mut millis = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= count {
                    return Ok::<_, gabion_client::Error>(millis);
                }
                let at = Instant::now();
                operation(client.clone(), number).await?;
                millis.push(at.elapsed().as_secs_f64() * 1000.0);
            }
        });
    }
    let mut millis = Vec::new();
    while let Some(worker) = workers.join_next().await {
        millis.extend(worker.context("a client panicked")??);
    }
    Ok(Rates::new(what, clients.len(), began.elapsed().as_secs_f64(), &millis))
}

/// Prints the steps.
pub(crate) fn show(format: Format, rates: &[Rates]) -> String {
    if format != Format::Table {
        return report::json(&rates);
    }
    let mut table = Table::new(&[
        Column::Words("what"),
        Column::Numbers("clients"),
        Column::Numbers("per second"),
        Column::Numbers("p50 ms"),
        Column::Numbers("p99 ms"),
        Column::Numbers("p99.9 ms"),
    ]);
    for step in rates {
        table.row([
            step.what.clone(),
            step.clients.to_string(),
            format!("{:.0}", step.per_second),
            format!("{:.2}", step.p50_ms),
            format!("{:.2}", step.p99_ms),
            format!("{:.2}", step.p999_ms),
        ]);
    }
    table.to_string()
}
