//! `gabion admin server`: what chunkservers are there for, and changing it. Changes print a plan first and act with
//! `--apply`; the masters judge by the same rules, and again, before they do anything.

use std::time::Duration;

use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_protocol::messages::master::{Condition, ConditionChange, Health, ServerPlan, ServerState};
use gabion_protocol::{ErrorCode, ServerId, StateTime};
use serde::Serialize;

use crate::args::{ServerDrain, ServerList, ServerMaintenance, ServerRemove, ServerShow};
use crate::context::Context;

#[derive(Serialize)]
struct ServerRecord {
    id: u32,
    name: String,
    address: String,
    rack: String,
    health: &'static str,
    /// `in-service`, `draining`, `maintenance`, `removing`, or `retired`.
    condition: &'static str,
    /// Milliseconds until maintenance ends.
    maintenance_left_ms: Option<u64>,
    beat_age_ms: Option<u64>,
    bytes_total: u64,
    bytes_free: u64,
    chunks: u64,
}

/// What a server holds according to the masters.
#[derive(Serialize)]
struct PlanRecord {
    #[serde(flatten)]
    server: ServerRecord,
    copies: u64,
    copies_bytes: u64,
    unsettled: u64,
    needed: u64,
    needed_chunks: Vec<String>,
    last: u64,
    last_chunks: Vec<String>,
    other_servers: usize,
    other_racks: u64,
    other_bytes_free: u64,
}

impl ServerRecord {
    fn new(server: &ServerState, now: StateTime) -> Self {
        let ServerState {
            info,
            condition,
            retired,
        } = server;
        let left = match condition {
            Condition::Maintenance { until } => Some(until.0.saturating_sub(now.0)),
            Condition::InService | Condition::Draining | Condition::Removing => None,
        };
        Self {
            id: info.server.0,
            name: info.name.clone(),
            address: info.address.clone(),
            rack: info.rack.clone(),
            health: match info.health {
                Health::Alive => "alive",
                Health::Suspect => "suspect",
                Health::Lost => "lost",
            },
            condition: match condition {
                Condition::Draining => "draining",
                Condition::Maintenance { .. } => "maintenance",
                Condition::Removing => "removing",
                Condition::InService if *retired => "retired",
                Condition::InService => "in-service",
            },
            maintenance_left_ms: left,
            beat_age_ms: info.beat_age_ms,
            bytes_total: info.load.bytes_total,
            bytes_free: info.load.bytes_free,
            chunks: info.load.chunks,
        }
    }
}

impl PlanRecord {
    fn new(plan: &ServerPlan) -> Self {
        let texts = |ids: &[gabion_protocol::ChunkId]| ids.iter().map(ToString::to_string).collect();
        Self {
            server: ServerRecord::new(&plan.server, plan.now),
            copies: plan.chunks,
            copies_bytes: plan.bytes,
            unsettled: plan.unsettled,
            needed: plan.needed,
            needed_chunks: texts(&plan.needed_ids),
            last: plan.last,
            last_chunks: texts(&plan.last_ids),
            other_servers: plan.others.len(),
            other_racks: plan.racks,
            other_bytes_free: plan.bytes_free,
        }
    }
}

pub(crate) async fn list(context: &Context, arguments: ServerList) -> Result<(), Failure> {
    let (now, servers) = context.client.servers().await?;
    let records: Vec<_> = servers.iter().map(|server| ServerRecord::new(server, now)).collect();
    let mut output = Output::stdout();
    match arguments.printing.output {
        format @ (Format::Json | Format::Jsonl) => {
            #[derive(Serialize)]
            struct Servers {
                servers: Vec<ServerRecord>,
            }
            output.object(format, &Servers { servers: records })?;
        }
        Format::Table => output.table(&table(&records, arguments.bytes))?,
    }
    output.flush()
}

fn table(records: &[ServerRecord], exact: bool) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Numbers("id"),
        Words("server"),
        Words("health"),
        Words("condition"),
        Numbers("used"),
        Numbers("free"),
        Numbers("chunks"),
        Words("rack"),
        Words("address"),
    ]);
    for record in records {
        table.row([
            record.id.to_string(),
            text::printable(&record.name).into_owned(),
            record.health.to_owned(),
            condition(record),
            text::size_or_bytes(record.bytes_total.saturating_sub(record.bytes_free), exact),
            text::size_or_bytes(record.bytes_free, exact),
            record.chunks.to_string(),
            text::printable(&record.rack).into_owned(),
            text::printable(&record.address).into_owned(),
        ]);
    }
    table
}

fn condition(record: &ServerRecord) -> String {
    match record.maintenance_left_ms {
        Some(left) => format!("maintenance, {} left", text::span(Duration::from_millis(left))),
        None => record.condition.to_owned(),
    }
}

pub(crate) async fn show(context: &Context, arguments: ServerShow) -> Result<(), Failure> {
    let plan = plan(context, &arguments.server).await?;
    let mut output = Output::stdout();
    match arguments.printing.output {
        format @ (Format::Json | Format::Jsonl) => output.object(format, &PlanRecord::new(&plan))?,
        Format::Table => output.bytes(render(&plan, arguments.bytes).as_bytes())?,
    }
    output.flush()
}

fn render(plan: &ServerPlan, exact: bool) -> String {
    let record = ServerRecord::new(&plan.server, plan.now);
    format!(
        "server     c{} {}, {}, {}\nholds      {}, {}; {} more on their way or to be removed\nneeded     {} of them: others \
         hold fewer copies than wanted\nlast       {} of them: no other copy can be read\nothers     {} servers in {} \
         racks take copies, {} free\n",
        record.id,
        text::printable(&record.name),
        record.health,
        condition(&record),
        text::count(plan.chunks, "chunk"),
        text::size_or_bytes(plan.bytes, exact),
        plan.unsettled,
        plan.needed,
        plan.last,
        plan.others.len(),
        plan.racks,
        text::size_or_bytes(plan.bytes_free, exact),
    )
}

pub(crate) async fn drain(context: &Context, arguments: ServerDrain) -> Result<(), Failure> {
    let plan = plan(context, &arguments.server).await?;
    let name = label(&plan);
    let (change, what) = if arguments.cancel {
        (ConditionChange::Serve, format!("{name} gets copies again"))
    } else {
        let moved = format!("{}, {}", text::count(plan.chunks, "chunk"), text::size(plan.bytes));
        let room = format!(
            "{} other servers with {} free",
            plan.others.len(),
            text::size(plan.bytes_free)
        );
        (
            ConditionChange::Drain,
            format!("{name} gets no more copies; {moved} go to {room}, then its copies are dropped"),
        )
    };
    let change = Change {
        change,
        force: arguments.force,
        apply: arguments.apply,
    };
    let done = format!("see: gabion admin server show {}", plan.server.info.server);
    change.run(context, &plan, &what, &done).await
}

pub(crate) async fn maintenance(context: &Context, arguments: ServerMaintenance) -> Result<(), Failure> {
    let plan = plan(context, &arguments.server).await?;
    let name = label(&plan);
    let (change, what) = match arguments.time {
        Some(time) => (
            ConditionChange::Maintain { for_ms: time.millis() },
            format!(
                "for {} {name} gets no new copies, and its {} count although it is away; {} of them cannot be read then",
                text::span(time.0),
                text::count(plan.chunks, "chunk"),
                plan.last
            ),
        ),
        None => (
            ConditionChange::Serve,
            format!("maintenance of {name} ends; it counts like any other"),
        ),
    };
    let change = Change {
        change,
        force: arguments.force,
        apply: arguments.apply,
    };
    change.run(context, &plan, &what, "see: gabion admin server list").await
}

pub(crate) async fn remove(context: &Context, arguments: ServerRemove) -> Result<(), Failure> {
    let plan = plan(context, &arguments.server).await?;
    let what = format!(
        "{} is removed for ever; what the masters know of {} there is forgotten, other servers hold all of it",
        label(&plan),
        text::count(plan.chunks + plan.unsettled, "copy")
    );
    let change = Change {
        change: ConditionChange::Remove,
        force: false,
        apply: arguments.apply,
    };
    change
        .run(
            context,
            &plan,
            &what,
            "it is gone from the list when all rows are: gabion admin server list",
        )
        .await
}

/// A change that an operator asks for.
struct Change {
    change: ConditionChange,
    force: bool,
    apply: bool,
}

impl Change {
    async fn run(&self, context: &Context, plan: &ServerPlan, what: &str, done: &str) -> Result<(), Failure> {
        plan.allows(self.change, self.force)
            .map_err(gabion_client::Error::from)?;
        context.say(&format!("plan: {what}"));
        if !self.apply {
            context.say("nothing is changed yet: run the same command with --apply");
            return Ok(());
        }
        let server = plan.server.info.server;
        context.client.set_condition(server, self.change, self.force).await?;
        context.say(done);
        Ok(())
    }
}

fn label(plan: &ServerPlan) -> String {
    let info = &plan.server.info;
    format!("c{} ({})", info.server, text::printable(&info.name))
}

async fn plan(context: &Context, wanted: &str) -> Result<ServerPlan, Failure> {
    let (_, servers) = context.client.servers().await?;
    let server = find(&servers, wanted)?;
    Ok(context.client.server_plan(server).await?)
}

/// A server by its name or number; of several with one name the newest.
fn find(known: &[ServerState], wanted: &str) -> Result<ServerId, Failure> {
    let number = wanted.parse().map(ServerId);
    let named = known.iter().rev().find(|server| server.info.name == wanted);
    let numbered = || known.iter().find(|server| Ok(server.info.server) == number);
    match named.or_else(numbered) {
        Some(server) => Ok(server.info.server),
        None => Err(Failure::code(
            ErrorCode::NotFound,
            format!("there is no chunkserver {wanted}"),
            "see: gabion admin server list",
        )),
    }
}

#[cfg(test)]
mod tests {
    use gabion_protocol::messages::master::{Load, ServerInfo};

    use super::*;

    fn server(id: u32, condition: Condition) -> ServerState {
        ServerState {
            info: ServerInfo {
                server: ServerId(id),
                name: format!("c{id}"),
                address: "h:1".to_owned(),
                rack: "r1".to_owned(),
                health: Health::Alive,
                beat_age_ms: Some(5),
                load: Load {
                    bytes_total: 10 << 30,
                    bytes_free: 4 << 30,
                    chunks: 7,
                    ..Load::default()
                },
            },
            condition,
            retired: false,
        }
    }

    fn plan_of(condition: Condition) -> ServerPlan {
        ServerPlan {
            server: server(1, condition),
            chunks: 7,
            bytes: 3 << 20,
            unsettled: 1,
            needed: 0,
            needed_ids: Vec::new(),
            last: 0,
            last_ids: Vec::new(),
            wanted_max: 3,
            chunk_bytes_max: 1 << 20,
            others: vec![ServerId(2), ServerId(3), ServerId(4)],
            racks: 2,
            bytes_free: 9 << 30,
            now: StateTime(1000),
        }
    }

    #[test]
    fn the_list_is_pinned() {
        let until = StateTime(61_000);
        let servers = [
            server(1, Condition::Draining),
            server(2, Condition::Maintenance { until }),
        ];
        let records: Vec<_> = servers
            .iter()
            .map(|one| ServerRecord::new(one, StateTime(1000)))
            .collect();
        let expected = "\
ID  SERVER  HEALTH  CONDITION                    USED     FREE  CHUNKS  RACK  ADDRESS
 1  c1      alive   draining                  6.0 GiB  4.0 GiB       7  r1    h:1
 2  c2      alive   maintenance, 1 min 0 s left  6.0 GiB  4.0 GiB       7  r1    h:1
";
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(squeeze(&table(&records, false).to_string()), squeeze(expected));
        let json = serde_json::to_value(PlanRecord::new(&plan_of(Condition::Draining))).unwrap();
        assert_eq!((&json["condition"], &json["copies"]), (&"draining".into(), &7.into()));
    }

    #[test]
    fn plans_refuse_what_costs_copies_and_say_why() {
        use ConditionChange::{Drain, Maintain, Remove, Serve};
        let hour = Maintain { for_ms: 3_600_000 };
        let mut plan = plan_of(Condition::InService);
        for change in [Drain, hour, Serve] {
            assert_eq!(plan.allows(change, false), Ok(()));
        }
        assert!(plan.allows(Remove, true).unwrap_err().message.contains("in service"));
        plan.others.pop();
        assert_eq!(plan.allows(Drain, false).unwrap_err().code, ErrorCode::TooFewServers);
        assert_eq!(plan.allows(Drain, true), Ok(()));
        plan.others.push(ServerId(4));
        plan.bytes_free = 1;
        assert_eq!(plan.allows(Drain, false).unwrap_err().code, ErrorCode::NoSpace);
        plan.last = 2;
        let away = plan.allows(hour, false).unwrap_err();
        assert!(
            away.message.contains("2 of its chunks") && away.help.is_some(),
            "{away}"
        );
        assert_eq!(plan.allows(hour, true), Ok(()));
        for leaving in [Condition::Draining, Condition::InService] {
            plan.server.condition = leaving;
            plan.server.info.health = Health::Lost;
            plan.needed = 3;
            let needed = plan.allows(Remove, true).unwrap_err();
            assert!(needed.message.contains("3 of its 7 chunks"), "{needed}");
            plan.needed = 0;
            assert_eq!(plan.allows(Remove, false), Ok(()));
        }
        // A repeated command is not judged again.
        plan.needed = 3;
        plan.server.condition = Condition::Removing;
        assert_eq!(plan.allows(Remove, false), Ok(()));
    }

    #[test]
    fn servers_have_names_and_numbers() {
        let known = [server(1, Condition::InService), server(2, Condition::Draining)];
        assert_eq!(find(&known, "c2").unwrap(), ServerId(2));
        assert_eq!(find(&known, "1").unwrap(), ServerId(1));
        assert_eq!(find(&known, "x").unwrap_err().exit_code(), 3);
    }
}
