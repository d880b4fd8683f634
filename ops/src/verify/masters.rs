//! Are all masters' states the same? One log entry makes each hash its state at that very index.

use std::time::Duration;

use futures_util::future::join_all;
use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_client::{Client, MasterId};
use gabion_protocol::keys::hex;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};

use super::Severity;

/// Between two questions to a master that has not applied the index yet: nothing tells us when it has.
const PAUSE: Duration = Duration::from_millis(50);

/// What one master says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Its id.
    pub master: u64,
    /// Where it listens to clients.
    pub address: String,
    /// SHA-256 of its state at the index, in hexadecimal.
    pub hash: Option<String>,
    /// Last index it has applied.
    pub applied: Option<u64>,
    /// Why there is no hash.
    pub error: Option<String>,
}

/// What all masters say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answers {
    /// Whether all that answered agree.
    pub equal: bool,
    /// The log index.
    pub index: u64,
    /// One answer per master.
    pub masters: Vec<Answer>,
}

impl Answers {
    fn new(index: u64, masters: Vec<Answer>) -> Self {
        let mut hashes = masters.iter().filter_map(|answer| answer.hash.as_ref());
        let first = hashes.next();
        let equal = hashes.all(|hash| Some(hash) == first);
        Self { equal, index, masters }
    }

    fn findings(&self) -> impl Iterator<Item = Severity> {
        let differ = (!self.equal).then_some(Severity::Damaged);
        let silent = self
            .masters
            .iter()
            .filter(|answer| answer.hash.is_none())
            .map(|_| Severity::Incomplete);
        differ.into_iter().chain(silent)
    }

    fn summary(&self) -> String {
        let answered = self.masters.iter().filter(|answer| answer.hash.is_some()).count() as u64;
        let total = self.masters.len() as u64;
        let verdict = match (self.equal, answered) {
            (_, 0) => "no master could be asked".to_owned(),
            (true, _) => format!("{answered} of {} have the same state", text::count(total, "master")),
            (false, _) => "the masters' states DIFFER: keep all their directories, and stop writing".to_owned(),
        };
        format!("{verdict} at log index {}", self.index)
    }

    fn table(&self) -> Table {
        use Column::{Numbers, Words};
        let mut table = Table::new(&[Words("master"), Numbers("applied"), Words("state"), Words("address")]);
        for answer in &self.masters {
            let state = match (&answer.hash, &answer.error) {
                (Some(hash), _) => hash.chars().take(16).collect(),
                (None, Some(error)) => text::printable(error).into_owned(),
                (None, None) => "unknown".to_owned(),
            };
            let applied = answer
                .applied
                .map_or_else(|| "-".to_owned(), |applied| applied.to_string());
            table.row([format!("m{}", answer.master), applied, state, answer.address.clone()]);
        }
        table
    }
}

/// Compares all masters; each has until `wait` is over to catch up.
///
/// # Errors
/// [`Failure`] if no hash can be ordered, with exit code 7 if states differ, 8 if a master could not be asked.
pub async fn run(client: &Client, wait: Duration, format: Format, quiet: bool) -> Result<(), Failure> {
    let index = client.mark_hash().await?;
    let status = client.status().await?;
    let deadline = Instant::now() + wait;
    // All at once: a silent one must not take the others' time.
    let asked = status
        .masters
        .iter()
        .map(|master| ask(client, master.id, &master.client_address, index, deadline));
    let answers = Answers::new(index, join_all(asked).await);
    let mut output = Output::stdout();
    match format {
        Format::Table => output.table(&answers.table())?,
        Format::Json => output.object(format, &answers)?,
        Format::Jsonl => answers
            .masters
            .iter()
            .try_for_each(|answer| output.object(format, answer))?,
    }
    output.flush()?;
    if !quiet {
        eprintln!("{}", answers.summary());
    }
    super::end(answers.findings())
}

async fn ask(client: &Client, master: MasterId, address: &str, index: u64, deadline: Instant) -> Answer {
    let mut answer = Answer {
        master: master.0,
        address: address.to_owned(),
        hash: None,
        applied: None,
        error: Some("no answer in time".to_owned()),
    };
    while let Ok(told) = timeout_at(deadline, client.state_hash(master, index)).await {
        match told {
            Ok((hash, applied)) => {
                answer.applied = Some(applied);
                answer.hash = hash.map(|hash| hex(&hash));
                answer.error = Some(format!("has not hashed index {index} yet"));
            }
            Err(error) => answer.error = Some(error.to_string()),
        }
        if answer.hash.is_some() {
            answer.error = None;
            break;
        }
        if Instant::now() + PAUSE >= deadline {
            break;
        }
        sleep(PAUSE).await;
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(master: u64, hash: Option<&str>) -> Answer {
        Answer {
            master,
            address: format!("h{master}:7001"),
            hash: hash.map(str::to_owned),
            applied: hash.map(|_| 10),
            error: hash.is_none().then(|| "connection refused".to_owned()),
        }
    }

    fn judged(hashes: &[Option<&str>]) -> (u8, Answers) {
        let answers = Answers::new(9, (1..).zip(hashes).map(|(id, hash)| answer(id, *hash)).collect());
        let code = crate::verify::end(answers.findings()).map_or_else(|failure| failure.exit_code(), |()| 0);
        (code, answers)
    }

    #[test]
    fn equal_differing_and_silent_masters_are_told_apart() {
        let (code, answers) = judged(&[Some("aa"), Some("aa"), Some("aa")]);
        assert_eq!(
            (code, answers.summary().as_str()),
            (0, "3 of 3 masters have the same state at log index 9")
        );
        let (code, answers) = judged(&[Some("aa"), None, Some("aa")]);
        assert_eq!(
            (code, answers.summary().as_str()),
            (8, "2 of 3 masters have the same state at log index 9")
        );
        let (code, answers) = judged(&[Some("aa"), None, Some("bb")]);
        assert_eq!(code, 7);
        assert!(answers.summary().contains("DIFFER"));
        assert_eq!(judged(&[None, None]).0, 8);
    }

    #[test]
    fn the_table_is_pinned() {
        let (_, answers) = judged(&[Some("0123456789abcdef0123"), None]);
        let expected = "\
MASTER  APPLIED  STATE               ADDRESS
m1           10  0123456789abcdef    h1:7001
m2            -  connection refused  h2:7001
";
        assert_eq!(answers.table().to_string(), expected);
    }
}
