//! What trains when at which rate, as the terminal, train.log and report.html show it.
//!
//! Owns: the look of that table. Never: what trains when (`rates`).

use crate::event::{Event, Listener};
use crate::rates::Row;
use crate::report::Table;
use crate::train::{Training, thousands};

const HEADER: [&str; 4] = ["what trains", "parameters", "peak rate", "epochs"];

impl Training<'_> {
    /// Says it, where anything special was asked for.
    pub(super) fn announce_rates(&self, listener: &mut Listener<'_>) {
        if self.rates.is_empty() {
            return;
        }
        for line in aligned(&cells(&self.rates)) {
            listener(Event::Message(&line));
        }
    }

    /// The table of the report, where anything special was asked for.
    pub(super) fn rates_table(&self) -> Option<Table> {
        (!self.rates.is_empty()).then(|| Table {
            title: "What trains when".into(),
            header: HEADER.map(str::to_owned).to_vec(),
            rows: cells(&self.rates).into_iter().map(|row| row.to_vec()).collect(),
            ..Table::default()
        })
    }
}

fn cells(rows: &[Row]) -> Vec<[String; 4]> {
    let rate = |rate: f64| if rate > 0.0 { format!("{rate:.2e}") } else { "none".to_owned() };
    let row =
        |row: &Row| [row.what.clone(), thousands(row.parameters), rate(row.peak_lr), row.epochs.clone()];
    rows.iter().map(row).collect()
}

/// Lines with the header first: names and epochs to the left, numbers to the right.
fn aligned(rows: &[[String; 4]]) -> Vec<String> {
    let rows = [&[HEADER.map(str::to_owned)], rows].concat();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let [what_width, count_width, rate_width] = [0, 1, 2].map(width);
    let line = |[what, parameters, rate, epochs]: &[String; 4]| {
        format!("{what:what_width$}  {parameters:>count_width$}  {rate:>rate_width$}  {epochs}")
    };
    rows.iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let row = |what: &str, parameters, peak_lr, epochs: &str| Row {
            what: what.into(),
            parameters,
            peak_lr,
            epochs: epochs.into(),
        };
        let rows = [row("head", 770, 1e-3, "0 to 3"), row("layers 0 to 5", 1_234_567, 0.0, "never")];
        assert_eq!(
            aligned(&cells(&rows)),
            [
                "what trains    parameters  peak rate  epochs",
                "head                  770    1.00e-3  0 to 3",
                "layers 0 to 5   1,234,567       none  never",
            ]
        );
    }
}
