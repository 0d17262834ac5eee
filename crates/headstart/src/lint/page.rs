//! Findings as tables of a page.
//!
//! Owns: their columns. Never: judges, or writes a file.

use super::{Finding, Lint, Severity, Shown};
use crate::report::{Report, Table};

impl Severity {
    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Shown {
    /// Its places, each with its label.
    pub fn places(&self) -> String {
        let place = |place: &super::Place| {
            let line = place.line.map(|line| format!(":{line}")).unwrap_or_default();
            let label = if place.label.is_empty() { String::new() } else { format!(" [{}]", place.label) };
            format!("{}{line}{label}", place.file)
        };
        self.places.iter().map(place).collect::<Vec<_>>().join(", ")
    }
}

impl Lint {
    /// The page about a data set.
    pub fn report(&self, data: &str) -> Report {
        let splits: Vec<String> =
            self.splits.iter().map(|(split, count)| format!("{split} {count}")).collect();
        let mut summary =
            vec![format!("{data}: {} examples; {} findings.", splits.join(", "), self.findings.len())];
        if !self.left_out.is_empty() {
            summary.push(format!("Not looked for: {}.", self.left_out.join("; ")));
        }
        let mut tables = vec![Table {
            title: "Findings".into(),
            header: ["severity", "what", "what to do"].map(str::to_owned).to_vec(),
            rows: self
                .findings
                .iter()
                .map(|finding| {
                    vec![finding.severity.name().into(), finding.what.clone(), finding.fix.clone()]
                })
                .collect(),
            ..Table::default()
        }];
        tables.extend(self.findings.iter().filter(|finding| !finding.examples.is_empty()).map(examples));
        Report { title: format!("What is in {data}"), summary, tables, ..Report::default() }
    }
}

fn examples(finding: &Finding) -> Table {
    let row = |shown: &Shown| vec![shown.places(), shown.text.clone(), shown.note.clone()];
    Table {
        title: finding.what.clone(),
        header: ["where", "text", ""].map(str::to_owned).to_vec(),
        rows: finding.examples.iter().map(row).collect(),
        ..Table::default()
    }
}
