//! `gabion xattr`: extended attributes.

use std::os::unix::ffi::OsStringExt as _;

use gabion_client::AttributeChange;
use gabion_client::terminal::{Column, Failure, Format, Output, Table, text};
use gabion_protocol::ErrorCode;
use gabion_protocol::limits::ATTRIBUTES_BYTES_MAX;
use serde::Serialize;
use tokio::io::AsyncReadExt as _;

use crate::args::ExtendedAttributes;
use crate::context::Context;

/// An extended attribute, as JSON.
#[derive(Debug, Serialize)]
struct Record<'a> {
    name: &'a str,
    bytes: u64,
    /// The value in hexadecimal: it may be anything.
    value_hex: String,
    /// The value as text, if it is.
    value: Option<&'a str>,
}

#[derive(Serialize)]
struct Listing<'a> {
    path: &'a str,
    owner: &'a str,
    group: &'a str,
    attributes: Vec<Record<'a>>,
}

pub(crate) async fn run(context: &Context, asked: ExtendedAttributes) -> Result<(), Failure> {
    let client = &context.client;
    match asked {
        ExtendedAttributes::List(list) => {
            let told = client.attributes(&client.resolve(&list.path).await?.0).await?;
            let records: Vec<_> = told.extended.iter().map(|(name, value)| record(name, value)).collect();
            let mut output = Output::stdout();
            match list.printing.output {
                Format::Table => output.table(&table(&records))?,
                Format::Jsonl => records
                    .iter()
                    .try_for_each(|record| output.object(Format::Jsonl, record))?,
                Format::Json => {
                    let listing = Listing {
                        path: list.path.as_str(),
                        owner: &told.owner,
                        group: &told.group,
                        attributes: records,
                    };
                    output.object(Format::Json, &listing)?;
                }
            }
            output.flush()
        }
        ExtendedAttributes::Get(get) => {
            let told = client.attributes(&client.resolve(&get.path).await?.0).await?;
            let Some((_, value)) = told.extended.iter().find(|(name, _)| *name == get.name) else {
                return Err(Failure::code(
                    ErrorCode::NotFound,
                    format!("{} has no attribute {:?}", get.path, get.name),
                    format!("see which it has: gabion xattr list {}", get.path),
                ));
            };
            let mut output = Output::stdout();
            output.bytes(value)?;
            output.flush()
        }
        ExtendedAttributes::Set(set) => {
            let value = match set.value {
                Some(value) => value.into_vec(),
                None => from_stdin().await?,
            };
            let change = AttributeChange::Set { name: set.name, value };
            client.change_attributes(&set.path, change).await?;
            Ok(())
        }
        ExtendedAttributes::Rm(remove) => {
            let change = AttributeChange::Remove { name: remove.name };
            client.change_attributes(&remove.path, change).await?;
            Ok(())
        }
    }
}

/// What standard input brings, and one byte more than is possible at most: the masters say what is.
async fn from_stdin() -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    let mut input = tokio::io::stdin().take(ATTRIBUTES_BYTES_MAX as u64 + 1);
    let read = input.read_to_end(&mut value).await;
    read.map_err(|error| Failure::local("read", "standard input", &error))?;
    Ok(value)
}

fn record<'a>(name: &'a str, value: &'a [u8]) -> Record<'a> {
    Record {
        name,
        bytes: value.len() as u64,
        value_hex: gabion_protocol::keys::hex(value),
        value: std::str::from_utf8(value).ok(),
    }
}

fn table(records: &[Record<'_>]) -> Table {
    let mut table = Table::new(&[Column::Numbers("bytes"), Column::Words("name")]);
    for record in records {
        table.row([record.bytes.to_string(), text::printable(record.name).into_owned()]);
    }
    table
}
