//! Confusion matrices.
//!
//! Owns: the shaded table, and what takes its place where there are too many classes for one. Never: counts.

use std::cmp::Reverse;
use std::fmt::Write as _;

use super::{Confusion, Table, escape, table_section};

/// More classes than this are no picture any more.
const MOST_CLASSES: usize = 40;
/// From this many on, cells are small and column names stand upright.
const DENSE: usize = 13;
/// The most frequent mistakes that are listed instead of the picture.
const MISTAKES: usize = 30;
/// The shade from which letters are light.
const DEEP: f64 = 0.75;

impl Confusion {
    fn classes(&self) -> usize {
        self.counts.iter().map(Vec::len).max().unwrap_or(0).max(self.counts.len())
    }

    fn label(&self, class: usize) -> String {
        self.labels.get(class).cloned().unwrap_or_else(|| class.to_string())
    }

    fn count(&self, truth: usize, guess: usize) -> u64 {
        self.counts.get(truth).and_then(|row| row.get(guess)).copied().unwrap_or(0)
    }

    fn total(&self, truth: usize) -> u64 {
        self.counts.get(truth).map_or(0, |row| row.iter().sum())
    }
}

/// The matrix with its title.
pub(super) fn section(matrix: &Confusion) -> String {
    let classes = matrix.classes();
    if classes > MOST_CLASSES {
        return table_section(&mistakes(matrix));
    }
    let title = escape(&matrix.title);
    if classes == 0 {
        return format!("<section>\n<h2>{title}</h2>\n<p class=\"note\">no examples</p>\n</section>\n");
    }
    let labels: Vec<String> = (0..classes).map(|class| matrix.label(class)).collect();
    let tall = classes >= DENSE || labels.iter().map(|l| l.chars().count()).sum::<usize>() > 90;
    let (dense, tall) =
        (if classes >= DENSE { " dense" } else { "" }, if tall { " class=\"tall\"" } else { "" });
    let mut out = format!(
        "<section>\n<h2>{title}</h2>\n<div class=\"scroll\"><table class=\"confusion{dense}\">\n<thead>\
         <tr><th></th><th class=\"sum\" colspan=\"{classes}\" style=\"text-align:center\">predicted class</th></tr>\n\
         <tr{tall}><th class=\"sum\">true class</th>"
    );
    for label in &labels {
        let label = escape(label);
        let _ = write!(out, "<th scope=\"col\"><div class=\"name\" title=\"{label}\">{label}</div></th>");
    }
    out.push_str("<th class=\"sum\">examples</th><th class=\"sum\">correct</th></tr></thead>\n<tbody>\n");
    for (truth, label) in labels.iter().enumerate() {
        let label = escape(label);
        let _ = write!(out, "<tr><th scope=\"row\"><div class=\"name\" title=\"{label}\">{label}</div></th>");
        out.extend((0..classes).map(|guess| cell(matrix, truth, guess)));
        let total = matrix.total(truth);
        let correct = percent(matrix.count(truth, truth), total);
        let _ = writeln!(out, "<td class=\"sum\">{total}</td><td class=\"sum\">{correct}</td></tr>");
    }
    out.push_str(
        "</tbody>\n</table></div>\n<p class=\"note\">Rows: true class; columns: predicted class. The deeper the shade, \
         the larger the share of the row.</p>\n</section>\n",
    );
    out
}

fn cell(matrix: &Confusion, truth: usize, guess: usize) -> String {
    let (count, total) = (matrix.count(truth, guess), matrix.total(truth));
    let share = if total > 0 { count as f64 / total as f64 } else { 0.0 };
    let mut class = String::from("cell");
    for (name, applies) in [("right", truth == guess), ("zero", count == 0), ("deep", share >= DEEP)] {
        if applies {
            class = format!("{class} {name}");
        }
    }
    let (of, is) = (escape(&matrix.label(truth)), escape(&matrix.label(guess)));
    format!(
        "<td class=\"{class}\" style=\"--a:{share:.2}\" title=\"{of} predicted as {is}: {count} of {total} ({})\">\
         {count}</td>",
        percent(count, total)
    )
}

fn percent(count: u64, total: u64) -> String {
    if total == 0 {
        return "\u{2013}".into();
    }
    format!("{:.1} %", count as f64 / total as f64 * 100.0)
}

fn mistakes(matrix: &Confusion) -> Table {
    let classes = matrix.classes();
    let mut pairs: Vec<(u64, usize, usize)> = Vec::new();
    let mut right = 0;
    for truth in 0..classes {
        for guess in 0..classes {
            let count = matrix.count(truth, guess);
            if truth == guess {
                right += count;
            } else if count > 0 {
                pairs.push((count, truth, guess));
            }
        }
    }
    pairs.sort_by_key(|&(count, truth, guess)| (Reverse(count), truth, guess));
    let all: u64 = (0..classes).map(|truth| matrix.total(truth)).sum();
    let row = |&(count, truth, guess): &(u64, usize, usize)| {
        let share = percent(count, matrix.total(truth));
        vec![matrix.label(truth), matrix.label(guess), count.to_string(), share]
    };
    Table {
        title: format!(
            "{}: {classes} classes, {right} of {all} correct ({}); the most frequent mistakes",
            matrix.title,
            percent(right, all)
        ),
        header: ["true class", "predicted class", "examples", "share of the class"]
            .map(str::to_owned)
            .to_vec(),
        rows: pairs.iter().take(MISTAKES).map(row).collect(),
        ..Table::default()
    }
}
