//! `gabion admin inventory`: what chunkservers hold, compared with what the masters know.

use std::time::Duration;

use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_protocol::ErrorCode;
use gabion_protocol::messages::master::ServerInventory;
use serde::Serialize;

use crate::args::inventory::{InventoryAccept, InventoryStatus};
use crate::context::Context;

#[derive(Serialize)]
struct StatusRecord {
    servers: Vec<ServerRecord>,
}

#[derive(Serialize)]
struct ServerRecord {
    id: u32,
    name: String,
    /// `ok`, `stopped`, `forgotten`, `unknown`, `disk_out` or `unheard`.
    state: &'static str,
    report_age_ms: Option<u64>,
    copies: u64,
    all_disks_serve: bool,
    buckets_told: u16,
    buckets_differing: u16,
    buckets_compared: u64,
    missing: u64,
    unknown: u64,
    forgotten: u64,
    orders_refused: u64,
}

impl ServerRecord {
    fn new(server: &ServerInventory) -> Self {
        // What somebody has to look at first comes first.
        let state = match server {
            _ if server.stopped => "stopped",
            _ if server.forgotten > 0 => "forgotten",
            _ if server.age_ms.is_none() => "unheard",
            _ if !server.complete => "disk_out",
            _ if server.unknown > 0 => "unknown",
            _ => "ok",
        };
        Self {
            id: server.server.0,
            name: server.name.clone(),
            state,
            report_age_ms: server.age_ms,
            copies: server.copies,
            all_disks_serve: server.complete,
            buckets_told: server.heard,
            buckets_differing: server.differing,
            buckets_compared: server.compared,
            missing: server.missing,
            unknown: server.unknown,
            forgotten: server.forgotten,
            orders_refused: server.refused,
        }
    }

    /// What a person should know or do about it.
    fn advice(&self) -> Option<String> {
        let name = text::printable(&self.name);
        match self.state {
            "stopped" => Some(format!(
                "{name} holds {} that the masters do not know, more than they believe: nothing is removed. If that is right, \
                 for example because an old disk came back: gabion admin inventory accept {name}",
                text::count(self.unknown, "copy")
            )),
            "forgotten" => Some(format!(
                "{name} holds {} of chunks these masters never gave out: they were started from an old copy of their \
                 directories. Nothing is removed; stop the masters and start them with their newest directories",
                text::count(self.forgotten, "copy")
            )),
            "disk_out" => Some(format!(
                "a disk of {name} is out of service: its chunks are copied elsewhere; see the server's log"
            )),
            _ => None,
        }
    }
}

pub(crate) async fn status(context: &Context, arguments: InventoryStatus) -> Result<(), Failure> {
    let servers = context.client.inventories().await?;
    let record = StatusRecord {
        servers: servers.iter().map(ServerRecord::new).collect(),
    };
    let mut output = Output::stdout();
    match arguments.printing.output {
        format @ (Format::Json | Format::Jsonl) => output.object(format, &record)?,
        Format::Table => output.table(&table(&record))?,
    }
    output.flush()?;
    for advice in record.servers.iter().filter_map(ServerRecord::advice) {
        context.say(&advice);
    }
    Ok(())
}

fn table(record: &StatusRecord) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Words("server"),
        Words("state"),
        Numbers("last report"),
        Numbers("copies"),
        Numbers("differing"),
        Numbers("compared"),
        Numbers("missing"),
        Numbers("unknown"),
        Numbers("forgotten"),
        Numbers("orders refused"),
    ]);
    for server in &record.servers {
        let age = server.report_age_ms.map(Duration::from_millis);
        table.row([
            text::printable(&server.name).into_owned(),
            server.state.to_owned(),
            age.map_or_else(|| "never".to_owned(), |age| format!("{} ago", text::span(age))),
            server.copies.to_string(),
            server.buckets_differing.to_string(),
            server.buckets_compared.to_string(),
            server.missing.to_string(),
            server.unknown.to_string(),
            server.forgotten.to_string(),
            server.orders_refused.to_string(),
        ]);
    }
    table
}

pub(crate) async fn accept(context: &Context, arguments: InventoryAccept) -> Result<(), Failure> {
    let servers = context.client.inventories().await?;
    let wanted = &arguments.server;
    let number = wanted.parse::<u32>().ok();
    let named = servers.iter().find(|server| server.name == *wanted);
    let Some(server) = named.or_else(|| servers.iter().find(|server| Some(server.server.0) == number)) else {
        return Err(Failure::code(
            ErrorCode::NotFound,
            format!("there is no chunkserver {wanted}"),
            "see: gabion admin status",
        ));
    };
    let name = text::printable(&server.name);
    if !server.stopped {
        return Err(Failure::code(
            ErrorCode::Conflict,
            format!("nothing is to be accepted of {name}: the masters believe what it holds"),
            "see: gabion admin inventory status",
        ));
    }
    context.say(&format!(
        "plan: copies that {name} holds and no row of the masters names are removed from it when they have been kept for as \
         long as inventory.keep_unknown says; so far {} of {} are known",
        server.unknown, server.copies
    ));
    if !arguments.apply {
        context.say("nothing is changed yet: run the same command with --apply");
        return Ok(());
    }
    context.client.accept_unknown(server.server).await?;
    context.say("accepted");
    Ok(())
}

/// What of it belongs on the status screen: what somebody has to do something about.
pub(crate) fn troubles(servers: &[ServerInventory]) -> Vec<String> {
    let stopped = servers.iter().filter(|server| server.stopped).count() as u64;
    let forgotten: u64 = servers.iter().map(|server| server.forgotten).sum();
    let mut troubles = Vec::new();
    if stopped > 0 {
        let servers = text::count(stopped, "chunkserver");
        troubles.push(format!("{servers} with too many unknown copies"));
    }
    if forgotten > 0 {
        let copies = text::count(forgotten, "copy");
        troubles.push(format!("{copies} of chunks the masters have forgotten"));
    }
    troubles
}

#[cfg(test)]
mod tests {
    use gabion_protocol::ServerId;

    use super::*;

    fn servers() -> Vec<ServerInventory> {
        let server = |id, unknown, stopped, forgotten| ServerInventory {
            server: ServerId(id),
            name: format!("c{id}"),
            age_ms: (id != 3).then_some(400),
            copies: 5000,
            complete: true,
            refused: 1,
            heard: 1024,
            differing: 2,
            compared: 3,
            missing: 4,
            unknown,
            stopped,
            forgotten,
        };
        vec![server(1, 0, false, 0), server(2, 70, true, 9), server(3, 1, false, 0)]
    }

    fn record() -> StatusRecord {
        StatusRecord {
            servers: servers().iter().map(ServerRecord::new).collect(),
        }
    }

    #[test]
    fn the_status_is_pinned() {
        let expected = "\
SERVER  STATE    LAST REPORT  COPIES  DIFFERING  COMPARED  MISSING  UNKNOWN  FORGOTTEN  ORDERS REFUSED
c1      ok       400 ms ago    5000          2         3        4        0          0               1
c2      stopped  400 ms ago    5000          2         3        4       70          9               1
c3      unheard       never    5000          2         3        4        1          0               1
";
        let shown = table(&record()).to_string();
        let squeeze = |text: &str| -> Vec<Vec<String>> {
            let lines = text.lines();
            lines
                .map(|line| line.split_whitespace().map(str::to_owned).collect())
                .collect()
        };
        assert_eq!(squeeze(&shown), squeeze(expected), "{shown}");
    }

    #[test]
    fn json_is_pinned() {
        let expected = r#"{"id":2,"name":"c2","state":"stopped","report_age_ms":400,"copies":5000,"all_disks_serve":true,"buckets_told":1024,"buckets_differing":2,"buckets_compared":3,"missing":4,"unknown":70,"forgotten":9,"orders_refused":1}"#;
        assert_eq!(serde_json::to_string(&record().servers[1]).unwrap(), expected);
    }

    #[test]
    fn what_needs_somebody_is_a_trouble() {
        assert_eq!(
            troubles(&servers()),
            [
                "1 chunkserver with too many unknown copies",
                "9 copies of chunks the masters have forgotten"
            ]
        );
        assert!(troubles(&servers()[..1]).is_empty());
        assert!(record().servers[1].advice().unwrap().contains("inventory accept c2"));
    }
}
