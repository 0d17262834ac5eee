//! Texts longer than a model's inputs.
//!
//! Owns: counting their tokens. Never: special tokens of its own; a template has them.

use rayon::prelude::*;

use super::{Findings, Kind, Row, Severity, counted};
use crate::data::template::Template;
use crate::error::Result;
use crate::tokenizer::Tokenizer;

/// A share of cut texts that is more than a note.
const MANY: f64 = 0.01;

/// What is to read the texts.
#[derive(Debug)]
pub struct Reader {
    /// Its tokenizer.
    pub tokenizer: Tokenizer,
    /// Its special tokens, and the longest input.
    pub template: Template,
    /// The longest input, in tokens.
    pub positions: usize,
}

pub(super) fn look(rows: &[Row<'_>], reader: &Reader, found: &mut Findings) -> Result<()> {
    let length = |row: &Row<'_>| -> Result<(usize, usize)> {
        let first = reader.tokenizer.encode(&row.text.text)?.len();
        let second = row.text.second.as_ref().map(|second| reader.tokenizer.encode(second)).transpose()?;
        let second = second.map(|ids| ids.len());
        Ok((first + second.unwrap_or(0), reader.template.tokens_cut(first, second)))
    };
    let lengths: Vec<(usize, usize)> = rows.par_iter().map(length).collect::<Result<_>>()?;
    let mut cut: Vec<(usize, &Row<'_>)> = lengths
        .iter()
        .zip(rows)
        .filter(|((_, cut), _)| *cut > 0)
        .map(|((all, _), row)| (*all, row))
        .collect();
    cut.sort_by_key(|(length, _)| std::cmp::Reverse(*length));
    let (all, lost) = lengths.iter().fold((0, 0), |(all, lost), (tokens, cut)| (all + tokens, lost + cut));
    let what = format!(
        "{} longer than the {} tokens of an input; {:.1} % of all tokens are cut off",
        counted(cut.len(), "text"),
        reader.positions,
        100.0 * lost as f64 / all.max(1) as f64
    );
    let many = cut.len() as f64 > MANY * rows.len() as f64;
    let severity = if many { Severity::Warning } else { Severity::Note };
    let fix = "use a larger --max_length if the model has the positions, or put what matters first";
    let examples = cut.iter().map(|(length, row)| row.shown(format!("{length} tokens")));
    found.add((Kind::TooLong, severity), cut.len(), (what, fix), examples);
    Ok(())
}
