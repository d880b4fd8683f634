//! What was measured, as a table for people or one JSON document.

use gabion_client::terminal::{Column, Format, Table};
use serde::Serialize;

/// One step's rounds.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    /// What was done.
    pub(crate) what: String,
    /// Bytes moved in each round.
    pub(crate) bytes: u64,
    /// Seconds of each round, in order.
    pub(crate) seconds: Vec<f64>,
    /// Median seconds.
    pub(crate) median: f64,
    /// Median throughput over that of the step it is compared with: 1 is equal, less is slower.
    pub(crate) ratio: Option<f64>,
    /// Median CPU seconds for each GiB, of all processes that took part.
    pub(crate) cpu_per_gib: Option<f64>,
    /// That over the same of the step it is compared with: 1 is equal, more is dearer.
    pub(crate) cpu_ratio: Option<f64>,
}

impl Row {
    /// A step that took these seconds, compared with `base`'s median, if given.
    pub(crate) fn new(what: impl Into<String>, bytes: u64, seconds: Vec<f64>, base: Option<&Self>) -> Self {
        let median = median(&seconds);
        Self {
            what: what.into(),
            bytes,
            seconds,
            median,
            ratio: base.map(|base| base.median / median),
            cpu_per_gib: None,
            cpu_ratio: None,
        }
    }

    /// With the CPU seconds of each round.
    pub(crate) fn with_cpu(mut self, cpu: Option<&[f64]>, base: Option<&Self>) -> Self {
        let gib = self.bytes as f64 / f64::from(1 << 30);
        self.cpu_per_gib = cpu.map(|seconds| median(seconds) / gib);
        let of_base = base.and_then(|base| base.cpu_per_gib);
        self.cpu_ratio = self.cpu_per_gib.zip(of_base).map(|(own, base)| own / base);
        self
    }
}

/// The median; of an even number, the mean of the middle two.
pub(crate) fn median(values: &[f64]) -> f64 {
    percentile(values, 0.5)
}

/// The value below which a share of the values lies, between neighbours in proportion.
pub(crate) fn percentile(values: &[f64], share: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let Some(last) = sorted.len().checked_sub(1) else {
        return f64::NAN;
    };
    let at = share * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    below + (above - below) * at.fract()
}

/// Prints throughput rows.
pub(crate) fn throughput(format: Format, rows: &[Row]) -> String {
    if format != Format::Table {
        return json(&rows);
    }
    let mut table = Table::new(&[
        Column::Words("what"),
        Column::Numbers("MiB/s"),
        Column::Numbers("seconds"),
        Column::Numbers("ratio"),
        Column::Numbers("cpu s/GiB"),
        Column::Numbers("cpu ratio"),
    ]);
    let optional = |number: Option<f64>| number.map_or_else(String::new, |number| format!("{number:.2}"));
    for row in rows {
        table.row([
            row.what.clone(),
            format!("{:.0}", row.bytes as f64 / row.median / f64::from(1 << 20)),
            format!("{:.3}", row.median),
            optional(row.ratio),
            optional(row.cpu_per_gib),
            optional(row.cpu_ratio),
        ]);
    }
    table.to_string()
}

/// One JSON document.
pub(crate) fn json<T: Serialize>(value: &T) -> String {
    let document = serde_json::json!({ "schema": 1, "results": value });
    format!("{document}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_percentiles() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(percentile(&[1.0, 2.0, 3.0], 1.0), 3.0);
        let base = Row::new("base", 1, vec![1.0], None);
        assert_eq!(Row::new("half as fast", 1, vec![2.0], Some(&base)).ratio, Some(0.5));
    }
}
