//! An HTML page about a run that needs nothing but itself: no script, no font, no picture from elsewhere.
//!
//! Owns: how paragraphs, tables, charts and confusion matrices look in a browser and on paper. Never: measures
//! anything, or reads a file.

mod axis;
mod chart;
mod confusion;
mod run;
#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::path::Path;

use crate::error::Result;
use crate::files::write_atomic;

/// A line of a chart.
///
/// Curves of one name share a colour and a label (several seeds of one arm, say). A curve that jumps up and down
/// from point to point, as the loss of single steps does, is drawn faintly, with its running mean over it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Curve {
    /// What stands at its end; may be empty where the chart's title says it all.
    pub name: String,
    /// Drawn dashed, for a second kind of line beside the solid ones.
    pub dashed: bool,
    /// x and y, in the order of x. Points that are not finite are left out.
    pub points: Vec<(f64, f64)>,
}

/// How the values along a chart are spaced.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Along {
    /// Equal differences are equal ways.
    #[default]
    Linear,
    /// Equal ratios are equal ways; for values above 0.
    Logarithmic,
}

/// A line chart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Chart {
    /// What it shows.
    pub title: String,
    /// What runs along, with its unit.
    pub x_label: String,
    /// What runs upwards, with its unit.
    pub y_label: String,
    /// How the values along are spaced.
    pub along: Along,
    /// Its lines; the first ones get the colours that differ most.
    pub curves: Vec<Curve>,
}

/// A table of text; columns of numbers are aligned to the right.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Table {
    /// What stands above it.
    pub title: String,
    /// The columns' names; none: no header.
    pub header: Vec<String>,
    /// The cells of each row.
    pub rows: Vec<Vec<String>>,
    /// The pages that the rows' first cells lead to, as paths from this page; fewer than rows: the others lead nowhere.
    pub links: Vec<String>,
}

/// What a classifier took each class for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Confusion {
    /// What stands above it.
    pub title: String,
    /// The classes' names; a class without one is called by its number, from 0.
    pub labels: Vec<String>,
    /// Examples. Rows: true class; columns: predicted class.
    pub counts: Vec<Vec<u64>>,
}

/// A page: paragraphs, tables, charts and confusion matrices, in this order. All text is plain text.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// The page's title.
    pub title: String,
    /// Paragraphs below the title.
    pub summary: Vec<String>,
    /// Tables.
    pub tables: Vec<Table>,
    /// Charts.
    pub charts: Vec<Chart>,
    /// Confusion matrices.
    pub confusions: Vec<Confusion>,
}

impl Report {
    /// The page as one HTML document.
    pub fn html(&self) -> String {
        let title = escape(&self.title);
        let mut out = String::new();
        // The policy makes the browser itself refuse whatever might come from elsewhere.
        let _ = write!(
            out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>{title}</title>\n<style>\n{}</style>\n</head>\n<body>\n<h1>{title}</h1>\n",
            include_str!("style.css"),
        );
        for paragraph in &self.summary {
            let _ = writeln!(out, "<p>{}</p>", escape(paragraph));
        }
        for table in &self.tables {
            out.push_str(&table_section(table));
        }
        if !self.charts.is_empty() {
            out.push_str("<div class=\"charts\">\n");
            for (i, chart) in self.charts.iter().enumerate() {
                // Two charts a row; a first one that has a row of its own leaves no gap at the end.
                let wide = self.charts.len() <= 2 || (i == 0 && self.charts.len() % 2 == 1);
                out.push_str(&chart::figure(chart, wide));
            }
            out.push_str("</div>\n");
        }
        for matrix in &self.confusions {
            out.push_str(&confusion::section(matrix));
        }
        out.push_str("</body>\n</html>\n");
        out
    }

    /// Writes the page to `path`, over an older one.
    ///
    /// # Errors
    /// [`crate::Error::Io`] when the disk refuses.
    pub fn write(&self, path: &Path) -> Result<()> {
        write_atomic(path, self.html().as_bytes())
    }
}

fn table_section(table: &Table) -> String {
    let columns = table.rows.iter().map(Vec::len).max().unwrap_or(0);
    // Signs and the dash of a missing value as well.
    let numeric = |c: char| c.is_ascii_digit() || ['-', '\u{2212}', '\u{2013}'].contains(&c);
    let is_number = |cell: &String| cell.is_empty() || cell.starts_with(numeric);
    // The first column names the row, even where names are numbers.
    let numbers: Vec<bool> = (0..columns)
        .map(|column| column > 0 && table.rows.iter().filter_map(|row| row.get(column)).all(is_number))
        .collect();
    let cell = |tag: &str, column: usize, text: &str| {
        let class = if numbers.get(column) == Some(&true) { " class=\"number\"" } else { "" };
        format!("<{tag}{class}>{}</{tag}>", escape(text))
    };
    let line = |tag: &str, cells: &[String], link: Option<&String>| -> String {
        let cells = cells.iter().enumerate().map(|(column, text)| match link.filter(|_| column == 0) {
            // From here, whatever stands before a colon.
            Some(path) => format!("<{tag}><a href=\"./{}\">{}</a></{tag}>", escape(path), escape(text)),
            None => cell(tag, column, text),
        });
        format!("<tr>{}</tr>\n", cells.collect::<String>())
    };
    let mut out = format!("<section>\n<h2>{}</h2>\n<div class=\"scroll\"><table>\n", escape(&table.title));
    if !table.header.is_empty() {
        let _ = writeln!(out, "<thead>\n{}</thead>", line("th", &table.header, None));
    }
    out.push_str("<tbody>\n");
    out.extend(table.rows.iter().enumerate().map(|(i, row)| line("td", row, table.links.get(i))));
    out.push_str("</tbody>\n</table></div>\n</section>\n");
    out
}

/// Text as it may stand between tags and in attributes.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(c),
            // HTML has no way to write the others.
            c if c.is_control() => out.push(char::REPLACEMENT_CHARACTER),
            c => out.push(c),
        }
    }
    out
}
