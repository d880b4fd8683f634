//! `gabion admin balance`: how evenly the chunkservers are filled, what would be moved, and whether it is. Changes print a
//! plan first and act with `--apply`.

use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_protocol::messages::master::{BalancePlan, Health, ServerFill, ServerMoves};
use serde::Serialize;

use crate::args::balance as args;
use crate::context::Context;

#[derive(Serialize)]
struct PlanRecord {
    /// `false` if an operator has stopped balance.
    runs: bool,
    threshold_percent: f64,
    mean_percent: f64,
    servers: Vec<FillRecord>,
    moves: Vec<MovesRecord>,
    /// Of `moves`.
    copies: u64,
    bytes: u64,
    /// Not all copies were looked at: more would be moved.
    more: bool,
    moving_copies: u64,
    moving_bytes: u64,
}

#[derive(Serialize)]
struct FillRecord {
    id: u32,
    name: String,
    rack: String,
    health: &'static str,
    bytes_total: u64,
    bytes_used: u64,
    used_percent: f64,
    /// From the mean; `None` for a server that takes no part.
    deviation_percent: Option<f64>,
    /// Why it takes no part.
    aside: Option<String>,
}

#[derive(Serialize)]
struct MovesRecord {
    from: u32,
    from_name: String,
    to: u32,
    to_name: String,
    copies: u64,
    bytes: u64,
}

/// Millionths as percent, to two decimals.
fn percent(ppm: u32) -> f64 {
    (f64::from(ppm) / 100.0).round() / 100.0
}

impl PlanRecord {
    fn new(plan: &BalancePlan) -> Self {
        let name = |id| {
            let server = plan.servers.iter().find(|of| of.info.server == id);
            server.map_or_else(String::new, |of| of.info.name.clone())
        };
        let moves = plan.moves.iter().map(|one| MovesRecord {
            from: one.from.0,
            from_name: name(one.from),
            to: one.to.0,
            to_name: name(one.to),
            copies: one.copies,
            bytes: one.bytes,
        });
        let sum = |of: fn(&ServerMoves) -> u64| plan.moves.iter().map(of).sum();
        Self {
            runs: plan.runs,
            threshold_percent: percent(plan.threshold_ppm),
            mean_percent: percent(plan.mean_ppm),
            servers: plan
                .servers
                .iter()
                .map(|of| FillRecord::new(of, plan.mean_ppm))
                .collect(),
            moves: moves.collect(),
            copies: sum(|one| one.copies),
            bytes: sum(|one| one.bytes),
            more: plan.more,
            moving_copies: plan.moving,
            moving_bytes: plan.moving_bytes,
        }
    }

    /// What there is to say beside the figures.
    fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.moving_copies > 0 {
            notes.push(format!(
                "{} of {} under way",
                text::count(self.moving_copies, "move"),
                text::size(self.moving_bytes)
            ));
        }
        let is_uneven = self.servers.iter().filter_map(|of| of.deviation_percent);
        let is_uneven = is_uneven.into_iter().any(|off| off.abs() > self.threshold_percent);
        if self.more {
            notes.push("not all copies were looked at: more would be moved".to_owned());
        }
        if !self.runs {
            notes.push("an operator has stopped balance: gabion admin balance start --apply".to_owned());
        } else if self.copies == 0 && is_uneven && self.moving_copies == 0 {
            notes.push(
                "no copy can be moved: each server has one of every chunk already, or racks, room or chunks that lack copies \
                 stand against it"
                    .to_owned(),
            );
        } else if self.copies == 0 {
            notes.push(format!(
                "nothing is to be moved: all are within {} % of the mean",
                self.threshold_percent
            ));
        }
        notes
    }
}

impl FillRecord {
    fn new(fill: &ServerFill, mean_ppm: u32) -> Self {
        let info = &fill.info;
        let off = i64::from(fill.used_ppm) - i64::from(mean_ppm);
        let off = percent(u32::try_from(off.abs()).unwrap_or(u32::MAX)) * if off < 0 { -1.0 } else { 1.0 };
        Self {
            id: info.server.0,
            name: info.name.clone(),
            rack: info.rack.clone(),
            health: match info.health {
                Health::Alive => "alive",
                Health::Suspect => "suspect",
                Health::Lost => "lost",
            },
            bytes_total: info.load.bytes_total,
            bytes_used: fill.bytes_used,
            used_percent: percent(fill.used_ppm),
            deviation_percent: fill.aside.is_none().then_some(off),
            aside: fill.aside.clone(),
        }
    }
}

pub(crate) async fn plan(context: &Context, arguments: args::BalancePlan) -> Result<(), Failure> {
    let record = PlanRecord::new(&context.client.balance_plan().await?);
    let mut output = Output::stdout();
    match arguments.printing.output {
        format @ (Format::Json | Format::Jsonl) => output.object(format, &record)?,
        Format::Table => {
            output.table(&fills(&record, arguments.bytes))?;
            if !record.moves.is_empty() {
                output.bytes(b"\n")?;
                output.table(&moves(&record, arguments.bytes))?;
            }
        }
    }
    output.flush()?;
    for note in record.notes() {
        context.say(&note);
    }
    Ok(())
}

fn fills(record: &PlanRecord, exact: bool) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[
        Numbers("id"),
        Words("server"),
        Numbers("used"),
        Numbers("of"),
        Numbers("share"),
        Numbers("from mean"),
        Words("rack"),
        Words("takes part"),
    ]);
    for server in &record.servers {
        table.row([
            server.id.to_string(),
            text::printable(&server.name).into_owned(),
            text::size_or_bytes(server.bytes_used, exact),
            text::size_or_bytes(server.bytes_total, exact),
            format!("{:.1} %", server.used_percent),
            server
                .deviation_percent
                .map_or_else(|| "-".to_owned(), |off| format!("{off:+.1} %")),
            text::printable(&server.rack).into_owned(),
            server
                .aside
                .as_ref()
                .map_or_else(|| "yes".to_owned(), |why| format!("no: {}", text::printable(why))),
        ]);
    }
    table
}

fn moves(record: &PlanRecord, exact: bool) -> Table {
    use Column::{Numbers, Words};
    let mut table = Table::new(&[Words("from"), Words("to"), Numbers("copies"), Numbers("bytes")]);
    for one in &record.moves {
        table.row([
            text::printable(&one.from_name).into_owned(),
            text::printable(&one.to_name).into_owned(),
            one.copies.to_string(),
            text::size_or_bytes(one.bytes, exact),
        ]);
    }
    table
}

pub(crate) async fn start(context: &Context, arguments: args::BalanceSwitch) -> Result<(), Failure> {
    let record = PlanRecord::new(&context.client.balance_plan().await?);
    let moves = text::count(record.copies, "copy");
    let what = format!(
        "copies are moved to emptier servers whenever one is farther than {} % from the mean; now {moves}, {}",
        record.threshold_percent,
        text::size(record.bytes)
    );
    switch(context, (&what, true), arguments.apply, record.runs).await
}

pub(crate) async fn stop(context: &Context, arguments: args::BalanceSwitch) -> Result<(), Failure> {
    let record = PlanRecord::new(&context.client.balance_plan().await?);
    let moves = text::count(record.moving_copies, "move");
    let what = format!("no copies are moved any more until it is started again; {moves} under way given up or ended");
    switch(context, (&what, false), arguments.apply, record.runs).await
}

async fn switch(context: &Context, (what, runs): (&str, bool), apply: bool, now: bool) -> Result<(), Failure> {
    context.say(&format!("plan: {what}"));
    if now == runs {
        context.say(if runs {
            "balance runs already"
        } else {
            "balance is stopped already"
        });
    }
    if !apply {
        context.say("nothing is changed yet: run the same command with --apply");
        return Ok(());
    }
    context.client.set_balance(runs).await?;
    context.say("see: gabion admin balance plan");
    Ok(())
}

#[cfg(test)]
mod tests {
    use gabion_protocol::ServerId;
    use gabion_protocol::messages::master::{Load, ServerInfo};

    use super::*;

    fn fill(id: u32, used_ppm: u32, aside: Option<&str>) -> ServerFill {
        ServerFill {
            info: ServerInfo {
                server: ServerId(id),
                name: format!("c{id}"),
                address: "h:1".to_owned(),
                rack: "r1".to_owned(),
                health: Health::Alive,
                beat_age_ms: Some(5),
                load: Load {
                    bytes_total: 10 << 30,
                    ..Load::default()
                },
            },
            bytes_used: (10 << 30) * u64::from(used_ppm) / 1_000_000,
            used_ppm,
            aside: aside.map(str::to_owned),
        }
    }

    fn plan_of(moves: Vec<ServerMoves>) -> BalancePlan {
        BalancePlan {
            runs: true,
            threshold_ppm: 50_000,
            mean_ppm: 450_000,
            servers: vec![
                fill(1, 600_000, None),
                fill(2, 0, None),
                fill(3, 100_000, Some("is being drained")),
            ],
            moves,
            more: false,
            moving: 0,
            moving_bytes: 0,
        }
    }

    #[test]
    fn the_plan_is_pinned() {
        let moves = vec![ServerMoves {
            from: ServerId(1),
            to: ServerId(2),
            copies: 24,
            bytes: 3 << 29,
        }];
        let record = PlanRecord::new(&plan_of(moves));
        let squeeze = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
        let expected = "\
ID  SERVER      USED        OF   SHARE  FROM MEAN  RACK  TAKES PART
 1  c1       6.0 GiB    10 GiB  60.0 %    +15.0 %  r1    yes
 2  c2           0 B    10 GiB   0.0 %    -45.0 %  r1    yes
 3  c3       1.0 GiB    10 GiB  10.0 %          -  r1    no: is being drained
";
        assert_eq!(squeeze(&fills(&record, false).to_string()), squeeze(expected));
        let expected = "FROM TO COPIES BYTES c1 c2 24 1.5 GiB";
        assert_eq!(squeeze(&super::moves(&record, false).to_string()), expected);
        let json = serde_json::to_value(&record).unwrap();
        assert_eq!(json["moves"][0]["to_name"], "c2");
        assert_eq!(
            (&json["copies"], &json["servers"][1]["deviation_percent"]),
            (&24.into(), &(-45.0).into())
        );
        assert_eq!(record.notes(), Vec::<String>::new());
    }

    #[test]
    fn what_stands_still_says_why() {
        let mut plan = plan_of(Vec::new());
        assert!(PlanRecord::new(&plan).notes()[0].contains("no copy can be moved"));
        plan.runs = false;
        assert!(PlanRecord::new(&plan).notes()[0].contains("balance start"));
        plan.runs = true;
        plan.servers = vec![fill(1, 460_000, None), fill(2, 440_000, None)];
        assert!(PlanRecord::new(&plan).notes()[0].contains("within 5 %"));
    }
}
