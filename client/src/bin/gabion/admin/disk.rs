//! `gabion admin disk`: the disks of the chunkservers.

use std::time::{Duration, Instant};

use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_protocol::ErrorCode;
use gabion_protocol::messages::master::{DiskInfo, DiskState, ServerDisks};
use serde::Serialize;

use crate::args::{DiskDrain, DiskList};
use crate::context::Context;

/// Between two looks at whether a server has obeyed.
const LOOK: Duration = Duration::from_millis(200);
/// Servers tell of their disks every five seconds, and hear what is wanted with the answer.
const ASK_AGAIN: Duration = Duration::from_secs(6);
/// Longest wait for a server to obey.
const OBEYED: Duration = Duration::from_secs(20);

#[derive(Serialize)]
struct Disks {
    disks: Vec<DiskRecord>,
    /// Servers that have told this leader nothing yet.
    unheard: Vec<String>,
}

#[derive(Debug, Serialize)]
struct DiskRecord {
    server: u32,
    server_name: String,
    /// Milliseconds since the server told of it.
    report_age_ms: u64,
    /// Its own number; none if it could not be opened.
    disk: Option<String>,
    directory: String,
    /// `serving`, `full`, `failing`, `draining`, or `out_of_service`.
    state: &'static str,
    /// Why not serving.
    why: String,
    bytes_total: u64,
    bytes_free: u64,
    copies: Option<u64>,
}

impl DiskRecord {
    fn new(server: &ServerDisks, age: u64, disk: &DiskInfo) -> Self {
        Self {
            server: server.server.0,
            server_name: server.name.clone(),
            report_age_ms: age,
            disk: disk.disk.map(|disk| gabion_protocol::keys::hex(&disk)),
            directory: disk.directory.clone(),
            state: match disk.state {
                DiskState::Serving => "serving",
                DiskState::Full => "full",
                DiskState::Failing => "failing",
                DiskState::Draining => "draining",
                DiskState::OutOfService => "out_of_service",
            },
            why: disk.why.clone(),
            bytes_total: disk.bytes_total,
            bytes_free: disk.bytes_free,
            copies: disk.copies,
        }
    }

    /// What a person should know or do about it.
    fn advice(&self) -> Option<String> {
        let (name, directory) = (text::printable(&self.server_name), text::printable(&self.directory));
        let why = text::printable(&self.why);
        match self.state {
            "failing" => Some(format!(
                "{directory} of {name} fails: {why}; its copies are made anew on other servers, then replace the disk"
            )),
            "draining" if self.copies == Some(0) => Some(format!(
                "{directory} of {name} is drained: it holds no copy, take it out"
            )),
            "draining" => Some(format!(
                "{directory} of {name} is drained: its copies are made anew on other servers"
            )),
            "out_of_service" => Some(format!("{directory} of {name} is out of service: {why}")),
            _ => None,
        }
    }
}

pub(super) async fn list(context: &Context, arguments: DiskList) -> Result<(), Failure> {
    let mut servers = context.client.disks().await?;
    if let Some(wanted) = &arguments.server {
        servers = vec![find(servers, wanted)?];
    }
    let found = records(&servers);
    let mut output = Output::stdout();
    match arguments.printing.output {
        format @ (Format::Json | Format::Jsonl) => output.object(format, &found)?,
        Format::Table => output.table(&table(&found.disks, arguments.bytes))?,
    }
    output.flush()?;
    for advice in found.disks.iter().filter_map(DiskRecord::advice) {
        context.say(&advice);
    }
    for name in &found.unheard {
        context.say(&format!("{name} has told this leader nothing yet"));
    }
    Ok(())
}

/// A server by its name or number; of several with one name the newest.
fn find(mut servers: Vec<ServerDisks>, wanted: &str) -> Result<ServerDisks, Failure> {
    let number = wanted.parse::<u32>().ok();
    let named = servers.iter().rposition(|server| server.name == wanted);
    let at = named.or_else(|| servers.iter().position(|server| Some(server.server.0) == number));
    at.map(|at| servers.swap_remove(at)).ok_or_else(|| {
        let message = format!("there is no chunkserver {wanted}");
        Failure::code(ErrorCode::NotFound, message, "see: gabion admin server list")
    })
}

/// A disk and its number by either.
fn find_disk(server: &ServerDisks, wanted: &str) -> Result<([u8; 16], DiskInfo), Failure> {
    let is_it = |disk: &&DiskInfo| {
        let number = disk.disk.map(|number| gabion_protocol::keys::hex(&number));
        disk.directory == wanted || number.is_some_and(|number| number == wanted)
    };
    let name = text::printable(&server.name);
    let refuse = |what: String| Failure::code(ErrorCode::NotFound, what, "see: gabion admin disk list");
    if server.age_ms.is_none() {
        return Err(refuse(format!("{name} has told this leader nothing of its disks yet")));
    }
    let disk = server.disks.iter().find(is_it);
    let disk = disk.ok_or_else(|| refuse(format!("{name} has no disk {}", text::printable(wanted))))?;
    let number = disk.disk.ok_or_else(|| {
        refuse(format!(
            "{} of {name} is out of service: {}",
            text::printable(&disk.directory),
            text::printable(&disk.why)
        ))
    })?;
    Ok((number, disk.clone()))
}

pub(super) async fn drain(context: &Context, arguments: DiskDrain) -> Result<(), Failure> {
    let server = find(context.client.disks().await?, &arguments.server)?;
    let (number, disk) = find_disk(&server, &arguments.disk)?;
    let label = format!(
        "{} of c{} ({})",
        text::printable(&disk.directory),
        server.server,
        text::printable(&server.name)
    );
    let plan = if arguments.cancel {
        format!("{label} gets new chunks again")
    } else {
        format!(
            "{label} gets no new chunks; {} on it are made anew on other servers, then dropped",
            text::count(disk.copies.unwrap_or_default(), "copy")
        )
    };
    context.say(&format!("plan: {plan}"));
    if !arguments.apply {
        context.say("nothing is changed yet: run the same command with --apply");
        return Ok(());
    }
    let is_done = |disk: &DiskInfo| (disk.state == DiskState::Draining) != arguments.cancel;
    let began = Instant::now();
    let mut asked: Option<Instant> = None;
    loop {
        let told = find(context.client.disks().await?, &arguments.server)?;
        if told.disks.iter().any(|disk| disk.disk == Some(number) && is_done(disk)) {
            context.say("see: gabion admin disk list");
            return Ok(());
        }
        // Another leader does not know what this one was asked.
        if asked.is_none_or(|at| at.elapsed() > ASK_AGAIN) {
            let ask = context
                .client
                .drain_disk(server.server, number, !arguments.cancel, arguments.force);
            match ask.await {
                Err(error) if asked.is_none() || error.code() != ErrorCode::NotFound => return Err(error.into()),
                _ => asked = Some(Instant::now()),
            }
        }
        if began.elapsed() > OBEYED {
            return Err(Failure::code(
                ErrorCode::Timeout,
                format!("{label}: its server has not done it within {}", text::span(OBEYED)),
                "it may still do so: gabion admin disk list; is the server alive? gabion admin server list",
            ));
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = context.stop.cancelled() => return Err(Failure::interrupted()),
        }
    }
}

fn records(servers: &[ServerDisks]) -> Disks {
    let mut found = Disks {
        disks: Vec::new(),
        unheard: Vec::new(),
    };
    for server in servers {
        match server.age_ms {
            Some(age) => {
                let disks = server.disks.iter();
                found.disks.extend(disks.map(|disk| DiskRecord::new(server, age, disk)));
            }
            None => found.unheard.push(text::printable(&server.name).into_owned()),
        }
    }
    found
}

fn table(disks: &[DiskRecord], exact: bool) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Words("server"),
        Words("directory"),
        Words("state"),
        Numbers("size"),
        Numbers("free"),
        Numbers("copies"),
        Numbers("told"),
        Words("disk"),
    ]);
    for disk in disks {
        table.row([
            text::printable(&disk.server_name).into_owned(),
            text::printable(&disk.directory).into_owned(),
            disk.state.replace('_', " "),
            text::size_or_bytes(disk.bytes_total, exact),
            text::size_or_bytes(disk.bytes_free, exact),
            super::status::or_dash(disk.copies),
            format!("{} ago", text::span(Duration::from_millis(disk.report_age_ms))),
            disk.disk.clone().unwrap_or_else(|| "-".to_owned()),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use gabion_protocol::ServerId;

    use super::*;

    fn server(id: u32, age_ms: Option<u64>, state: DiskState) -> ServerDisks {
        let disk = DiskInfo {
            disk: (state != DiskState::OutOfService).then_some([4; 16]),
            directory: "/disk".to_owned(),
            state,
            why: "no such device".to_owned(),
            bytes_total: 10 << 30,
            bytes_free: 4 << 30,
            copies: (state != DiskState::OutOfService).then_some(7),
        };
        ServerDisks {
            server: ServerId(id),
            name: format!("c{id}"),
            age_ms,
            disks: vec![disk],
        }
    }

    #[test]
    fn the_list_is_pinned() {
        let found = records(&[
            server(1, Some(1200), DiskState::Serving),
            server(2, Some(5), DiskState::OutOfService),
            server(3, None, DiskState::Serving),
        ]);
        let expected = "\
SERVER  DIRECTORY  STATE             SIZE     FREE  COPIES        TOLD  DISK
c1      /disk      serving         10 GiB  4.0 GiB       7   1.2 s ago  04040404040404040404040404040404
c2      /disk      out of service  10 GiB  4.0 GiB       -    5 ms ago  -
";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&table(&found.disks, false).to_string()), squeeze(expected));
        assert_eq!(found.unheard, ["c3"]);
        let advice = found.disks[1].advice().unwrap();
        assert!(advice.contains("c2") && advice.contains("no such device"), "{advice}");
        let json = serde_json::to_value(&found).unwrap();
        assert_eq!(json["disks"][1]["state"], "out_of_service");
        assert!(json["disks"][1]["copies"].is_null());
    }
}
