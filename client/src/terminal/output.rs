//! Standard output: data and nothing else, as a table, one JSON document, or JSON lines.
//!
//! Invariant: a reader that goes away (`gabion list | head`) ends the command quietly, see [`Failure::ReaderGone`].

use std::io::{self, BufWriter, Write};
use std::str::FromStr;

use comfy_table::{CellAlignment, ContentArrangement};
use serde::Serialize;

use super::failure::Failure;

/// Version of every JSON document printed; grows when a field changes its meaning or goes away.
pub const SCHEMA: u32 = 1;

/// How data is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Table,
    /// One JSON document.
    Json,
    /// One JSON document per line and item.
    Jsonl,
}

impl FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "table" => Ok(Self::Table),
            "json" => Ok(Self::Json),
            "jsonl" => Ok(Self::Jsonl),
            _ => Err("expected table, json or jsonl".to_owned()),
        }
    }
}

/// A JSON document with its schema number first.
#[derive(Serialize)]
struct Document<'a, T: ?Sized> {
    schema: u32,
    #[serde(flatten)]
    body: &'a T,
}

/// A column of a [`Table`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Column {
    /// Words, aligned to the left.
    Words(&'static str),
    /// Numbers, aligned to the right.
    Numbers(&'static str),
}

/// Rows under a heading, two spaces between columns, no lines: easy to read, to copy and to cut.
#[derive(Debug)]
pub struct Table {
    inner: comfy_table::Table,
    empty: bool,
}

impl Table {
    /// A table with these columns.
    #[must_use]
    pub fn new(columns: &[Column]) -> Self {
        let mut inner = comfy_table::Table::new();
        inner.load_style(comfy_table::presets::NOTHING);
        inner.set_content_arrangement(ContentArrangement::Disabled);
        inner.set_header(columns.iter().map(|column| match column {
            Column::Words(name) | Column::Numbers(name) => name.to_uppercase(),
        }));
        for (i, column) in columns.iter().enumerate() {
            let Some(inner) = inner.column_mut(i) else { continue };
            inner.set_padding((0, 2));
            if matches!(column, Column::Numbers(_)) {
                inner.set_cell_alignment(CellAlignment::Right);
            }
        }
        Self { inner, empty: true }
    }

    /// Adds a row with one cell per column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.empty = false;
        self.inner.add_row(cells);
    }

    /// Whether it has no rows.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.empty
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in self.inner.lines() {
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// Standard output.
pub struct Output {
    to: Box<dyn Write + Send>,
}

impl std::fmt::Debug for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Output")
    }
}

impl Output {
    /// The process's own.
    #[must_use]
    pub fn stdout() -> Self {
        Self::to(Box::new(BufWriter::with_capacity(64 << 10, io::stdout())))
    }

    /// Another place, for tests.
    #[must_use]
    pub fn to(to: Box<dyn Write + Send>) -> Self {
        Self { to }
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// [`Failure`] if they cannot be written.
    pub fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.to.write_all(bytes).map_err(Failure::stdout)
    }

    /// Writes a line.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn line(&mut self, line: &str) -> Result<(), Failure> {
        self.bytes(line.as_bytes())?;
        self.bytes(b"\n")
    }

    /// Writes a table. One without rows is nothing at all: an empty directory is shown as `ls` shows it.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn table(&mut self, table: &Table) -> Result<(), Failure> {
        if table.is_empty() {
            return Ok(());
        }
        write!(self.to, "{table}").map_err(Failure::stdout)
    }

    /// Writes a JSON object with its schema number: on one line for [`Format::Jsonl`], else indented.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn object<T: Serialize + ?Sized>(&mut self, format: Format, body: &T) -> Result<(), Failure> {
        let document = Document { schema: SCHEMA, body };
        let written = match format {
            Format::Jsonl => serde_json::to_writer(&mut self.to, &document),
            Format::Table | Format::Json => serde_json::to_writer_pretty(&mut self.to, &document),
        };
        written.map_err(|error| Failure::stdout(error.into()))?;
        self.bytes(b"\n")
    }

    /// Hands over what is buffered.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn flush(&mut self) -> Result<(), Failure> {
        self.to.flush().map_err(Failure::stdout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_plain_text() {
        let mut table = Table::new(&[Column::Words("kind"), Column::Numbers("size"), Column::Words("name")]);
        assert!(table.is_empty());
        table.row(["file", "1.2 GiB", "größe 名"].map(str::to_owned));
        table.row(["directory", "0 B", "b"].map(str::to_owned));
        let expected = "KIND          SIZE  NAME\n\
                        file       1.2 GiB  größe 名\n\
                        directory      0 B  b\n";
        assert_eq!(table.to_string(), expected);
    }

    #[test]
    fn json_names_its_schema_first() {
        #[derive(Serialize)]
        struct Body {
            bytes: u64,
        }
        let document = Document {
            schema: SCHEMA,
            body: &Body { bytes: 5 },
        };
        assert_eq!(serde_json::to_string(&document).unwrap(), r#"{"schema":1,"bytes":5}"#);
    }

    #[test]
    fn formats_have_three_names() {
        assert_eq!("jsonl".parse(), Ok(Format::Jsonl));
        assert!("yaml".parse::<Format>().is_err());
    }

    #[test]
    fn a_reader_that_goes_away_is_no_error_to_show() {
        #[derive(Debug)]
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let failure = Output::to(Box::new(Closed)).line("x").unwrap_err();
        assert_eq!((failure.exit_code(), failure.report()), (0, None));
        let failure = Output::to(Box::new(Closed))
            .object(Format::Json, &Table2 { a: 1 })
            .unwrap_err();
        assert_eq!(failure.exit_code(), 0);
    }

    #[derive(Serialize)]
    struct Table2 {
        a: u8,
    }
}
