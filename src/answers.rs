//! What `predict` writes: JSON lines or a table, with the columns of the input kept.
//!
//! Owns: names and order of the columns, and that a file is whole or not there. Never: the model.

use std::io::Write as _;
use std::path::Path;

use anyhow::Result;
use headstart::data::rows::{BadRow, Row, RowContent, TextInput};
use headstart::files::AtomicFile;
use headstart::infer::Prediction;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::output;
use crate::settings::Usage;

/// How answers are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AnswerFormat {
    /// A JSON object a line.
    Jsonl,
    /// A table with commas.
    Csv,
    /// A table with tabs.
    Tsv,
}

impl AnswerFormat {
    /// What the end of a file's name says; JSON lines on standard output, and where it says nothing.
    ///
    /// # Errors
    /// A name that asks for a form that there is not.
    pub fn of_name(path: Option<&Path>) -> Result<Self> {
        let Some(path) = path else { return Ok(Self::Jsonl) };
        match path.extension().unwrap_or_default().to_string_lossy().to_lowercase().as_str() {
            "csv" => Ok(Self::Csv),
            "tsv" | "tab" => Ok(Self::Tsv),
            "jsonl" | "ndjson" | "json" | "" => Ok(Self::Jsonl),
            _ => Err(Usage(format!(
                "--output {}: answers are written as a table (.csv, .tsv) or as JSON lines (.jsonl)\n  fix: end the name \
                 with one of these, or say which with --output_format",
                path.display()
            ))
            .into()),
        }
    }
}

/// What is written of each answer.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// How.
    pub format: AnswerFormat,
    /// The most probable classes that are written; all in JSON and the best one in a table when absent.
    pub top_k: Option<usize>,
    /// Repeat the text of a plain line.
    pub with_text: bool,
}

/// The answers of one model to some rows.
pub struct Answered {
    /// The adapter's name, where adapters of one trunk answer.
    pub adapter: Option<String>,
    /// One for each row; `None` for a row that could not be read.
    pub predictions: Vec<Option<Prediction>>,
}

/// The answers on their way out.
pub struct Answers {
    shape: Shape,
    /// Absent for standard output.
    file: Option<AtomicFile>,
    /// The columns of a table, once the first row is known.
    columns: Option<Columns>,
    /// Rows whose fields did not fit a table's columns.
    pub left_out: usize,
}

/// A table's columns: the input's own, then ours under names that are free.
struct Columns {
    own: Vec<String>,
    ours: Vec<String>,
}

impl Answers {
    /// Answers into a file, which is there once [`Self::finish`] was called, or to standard output.
    pub fn new(shape: Shape, path: Option<&Path>) -> Result<Self> {
        let file = path.map(AtomicFile::create).transpose()?;
        Ok(Self { shape, file, columns: None, left_out: 0 })
    }

    /// Writes the answers to rows, in their order, those of all models to one row together.
    pub fn write(&mut self, rows: &[Row], answered: &[Answered]) -> Result<()> {
        let mut text = String::new();
        for (at, row) in rows.iter().enumerate() {
            for Answered { adapter, predictions } in answered {
                let (adapter, prediction) = (adapter.as_deref(), predictions[at].as_ref());
                text.push_str(&match self.shape.format {
                    AnswerFormat::Jsonl => self.json(row, adapter, prediction),
                    AnswerFormat::Csv => self.record(row, adapter, prediction, ','),
                    AnswerFormat::Tsv => self.record(row, adapter, prediction, '\t'),
                });
            }
        }
        match &mut self.file {
            Some(file) => Ok(file.write_with(|writer| writer.write_all(text.as_bytes()))?),
            None => output::raw(&text),
        }
    }

    /// Puts a file in its place.
    pub fn finish(self) -> Result<()> {
        Ok(self.file.map_or(Ok(()), AtomicFile::commit)?)
    }

    fn json(&self, row: &Row, adapter: Option<&str>, prediction: Option<&Prediction>) -> String {
        let mut object = Map::new();
        let add = |object: &mut Map<String, Value>, name: &str, value: Value| {
            object.insert(free(name, |name| object.contains_key(name)), value);
        };
        match (&row.content, prediction) {
            (Ok(RowContent { input, fields }), Some(prediction)) => {
                object.extend(fields.iter().cloned());
                if fields.is_empty() && self.shape.with_text {
                    object.extend(plain_fields(input));
                }
                let Prediction { label, number, probabilities, truncated, windows: _ } = prediction;
                if let Some(adapter) = adapter {
                    add(&mut object, "adapter", adapter.into());
                }
                // The digits are those of a table; serde would write the f32 as the nearest f64.
                let digits = number.and_then(|_| label.parse::<serde_json::Number>().ok());
                add(&mut object, "label", digits.map_or_else(|| label.as_str().into(), Value::Number));
                if number.is_none() {
                    let best = self.shape.top_k.map(|most| best(probabilities).into_iter().take(most));
                    let probabilities = best.map_or_else(|| probabilities.clone(), Iterator::collect);
                    add(&mut object, "probabilities", probabilities.into());
                }
                if *truncated {
                    add(&mut object, "truncated", true.into());
                }
            }
            (Err(BadRow { what, fields }), _) => {
                object.extend(fields.iter().cloned());
                if let Some(adapter) = adapter {
                    add(&mut object, "adapter", adapter.into());
                }
                add(&mut object, "error", what.as_str().into());
                add(&mut object, "line", row.line.into());
            }
            (Ok(_), None) => {}
        }
        Value::Object(object).to_string() + "\n"
    }

    fn record(
        &mut self,
        row: &Row,
        adapter: Option<&str>,
        prediction: Option<&Prediction>,
        delimiter: char,
    ) -> String {
        let plain;
        let fields = match &row.content {
            // A table needs the text to say what was answered.
            Ok(RowContent { input, fields }) if fields.is_empty() => {
                plain = plain_fields(input);
                &plain
            }
            Ok(RowContent { fields, .. }) | Err(BadRow { fields, .. }) => fields,
        };
        let line = |cells: &[String]| {
            let cells: Vec<String> = cells.iter().map(|cell| quoted(cell, delimiter)).collect();
            cells.join(&delimiter.to_string()) + "\n"
        };
        let mut text = String::new();
        let most = self.shape.top_k.unwrap_or(1).max(1);
        let columns = self.columns.get_or_insert_with(|| {
            let own: Vec<String> = fields.iter().map(|(name, _)| name.clone()).collect();
            let more = (2..=most).flat_map(|n| [format!("label_{n}"), format!("probability_{n}")]);
            let names = adapter.map(|_| "adapter").into_iter().chain(["label", "probability"]);
            let names = names.map(str::to_owned).chain(more);
            let ours = names.chain(["error".to_owned()]);
            let ours = ours.map(|name| free(&name, |name| own.iter().any(|own| own == name))).collect();
            let columns = Columns { own, ours };
            text.push_str(&line(&[&columns.own[..], &columns.ours].concat()));
            columns
        });
        let cell =
            |name: &String| fields.iter().find(|(own, _)| own == name).map(|(_, value)| cell_text(value));
        let mut cells: Vec<String> = columns.own.iter().map(|name| cell(name).unwrap_or_default()).collect();
        self.left_out += usize::from(fields.iter().any(|(name, _)| !columns.own.contains(name)));
        cells.extend(adapter.map(str::to_owned));
        match prediction {
            Some(Prediction { label, number: _, probabilities, truncated: _, windows: _ }) => {
                let best = best(probabilities);
                let own = probabilities.get(label).or_else(|| best.first().map(|(_, p)| p));
                cells.extend([label.clone(), own.map(probability_text).unwrap_or_default()]);
                for n in 1..most {
                    let (name, p) = best
                        .get(n)
                        .map_or_else(Default::default, |(name, p)| (name.clone(), probability_text(p)));
                    cells.extend([name, p]);
                }
            }
            None => cells.resize(columns.own.len() + columns.ours.len() - 1, String::new()),
        }
        cells.push(
            row.content
                .as_ref()
                .err()
                .map(|bad| format!("line {}: {}", row.line, bad.what))
                .unwrap_or_default(),
        );
        text + &line(&cells)
    }
}

/// The texts of a plain line under names of ours.
fn plain_fields(input: &TextInput) -> Vec<(String, Value)> {
    let TextInput { first, second } = input;
    let names: &[&str] = if second.is_some() { &["text_a", "text_b"] } else { &["text"] };
    let texts = std::iter::once(first).chain(second);
    names.iter().zip(texts).map(|(name, text)| ((*name).to_owned(), text.as_str().into())).collect()
}

/// A name of ours that the input does not use.
fn free(name: &str, taken: impl Fn(&str) -> bool) -> String {
    let mut name = name.to_owned();
    while taken(&name) {
        name.insert_str(0, "predicted_");
    }
    name
}

/// The classes by their probability, the greatest first.
fn best(probabilities: &Map<String, Value>) -> Vec<(String, Value)> {
    let mut sorted: Vec<(String, Value)> =
        probabilities.iter().map(|(name, p)| (name.clone(), p.clone())).collect();
    let number = |value: &Value| value.as_f64().unwrap_or_default();
    sorted.sort_by(|(_, a), (_, b)| number(b).total_cmp(&number(a)));
    sorted
}

/// With the digits that an f32 has.
fn probability_text(value: &Value) -> String {
    value.as_f64().map(|p| (p as f32).to_string()).unwrap_or_default()
}

fn cell_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// A cell between quotes where it would be read as something else.
fn quoted(cell: &str, delimiter: char) -> String {
    if cell.contains([delimiter, '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell.to_owned()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn prediction() -> Prediction {
        let probabilities = [("a", 0.25_f32), ("b", 0.75)].map(|(name, p)| (name.to_owned(), json!(p)));
        Prediction {
            label: "b".into(),
            number: None,
            probabilities: probabilities.into_iter().collect(),
            truncated: false,
            windows: 1,
        }
    }

    fn row(line: u64, fields: &[(&str, Value)]) -> Row {
        let fields: Vec<_> = fields.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        Row { line, content: Ok(RowContent { input: "some, text".into(), fields }) }
    }

    fn answers(format: AnswerFormat, top_k: Option<usize>) -> Answers {
        Answers::new(Shape { format, top_k, with_text: false }, None).unwrap()
    }

    #[test]
    fn a_table_keeps_the_inputs_columns() {
        let mut answers = answers(AnswerFormat::Csv, Some(2));
        let own = row(2, &[("text", json!("some, text")), ("label", json!("a")), ("n", json!(1))]);
        let said = answers.record(&own, None, Some(&prediction()), ',');
        let header = "text,label,n,predicted_label,probability,label_2,probability_2,error";
        assert_eq!(said, format!("{header}\n\"some, text\",a,1,b,0.75,a,0.25,\n"));
        let bad = Row { line: 3, content: Err("is \"odd\"".to_owned().into()) };
        assert_eq!(answers.record(&bad, None, None, ','), ",,,,,,,\"line 3: is \"\"odd\"\"\"\n");
        answers.record(&row(4, &[("other", json!(1))]), None, Some(&prediction()), ',');
        assert_eq!(answers.left_out, 1);
    }

    #[test]
    fn lines_of_json_keep_them_too() {
        let all = answers(AnswerFormat::Jsonl, None);
        assert_eq!(
            all.json(&row(1, &[]), None, Some(&prediction())),
            "{\"label\":\"b\",\"probabilities\":{\"a\":0.25,\"b\":0.75}}\n"
        );
        let one = answers(AnswerFormat::Jsonl, Some(1));
        let said = one.json(&row(1, &[("id", json!(7)), ("label", json!("a"))]), None, Some(&prediction()));
        assert_eq!(
            said,
            "{\"id\":7,\"label\":\"a\",\"predicted_label\":\"b\",\"probabilities\":{\"b\":0.75}}\n"
        );
        let repeating =
            Answers::new(Shape { format: AnswerFormat::Jsonl, top_k: Some(1), with_text: true }, None);
        let mut pair = row(1, &[]);
        if let Ok(content) = &mut pair.content {
            content.input.second = Some("another".into());
        }
        let said = repeating.unwrap().json(&pair, None, Some(&prediction()));
        assert!(
            said.starts_with("{\"text_a\":\"some, text\",\"text_b\":\"another\",\"label\":\"b\""),
            "{said}"
        );
        let bad = Row { line: 3, content: Err("no".to_owned().into()) };
        assert_eq!(one.json(&bad, None, None), "{\"error\":\"no\",\"line\":3}\n");
    }

    #[test]
    fn a_row_without_a_text_keeps_its_own_fields() {
        let fields = vec![("id".to_owned(), json!(7)), ("error".to_owned(), json!("mine"))];
        let bad = Row { line: 3, content: Err(BadRow { what: "no".into(), fields }) };
        let said = answers(AnswerFormat::Jsonl, None).json(&bad, None, None);
        assert_eq!(said, "{\"id\":7,\"error\":\"mine\",\"predicted_error\":\"no\",\"line\":3}\n");
        let header = "id,error,label,probability,predicted_error\n";
        let said = answers(AnswerFormat::Csv, None).record(&bad, None, None, ',');
        assert_eq!(said, format!("{header}7,mine,,,line 3: no\n"));
    }

    #[test]
    fn other_forms_than_these_are_refused() {
        let of = |name: &str| AnswerFormat::of_name(Some(Path::new(name)));
        assert_eq!(AnswerFormat::of_name(None).unwrap(), AnswerFormat::Jsonl);
        for (name, format) in [
            ("a.CSV", AnswerFormat::Csv),
            ("a.tab", AnswerFormat::Tsv),
            ("a.jsonl", AnswerFormat::Jsonl),
            ("a.json", AnswerFormat::Jsonl),
            ("a", AnswerFormat::Jsonl),
        ] {
            assert_eq!(of(name).unwrap(), format);
        }
        for name in ["a.parquet", "a.xlsx", "a.csv.gz", "a.txt"] {
            let refused = of(name).unwrap_err().to_string();
            assert!(refused.contains(name) && refused.contains("--output_format"), "{refused}");
        }
    }

    #[test]
    fn an_answer_names_its_adapter() {
        let named = answers(AnswerFormat::Jsonl, Some(1));
        let said = named.json(&row(1, &[("adapter", json!("x"))]), Some("mood"), Some(&prediction()));
        let expected = r#"{"adapter":"x","predicted_adapter":"mood","label":"b","probabilities":{"b":0.75}}"#;
        assert_eq!(said, format!("{expected}\n"));
        let bad = Row { line: 3, content: Err("no".to_owned().into()) };
        let expected = r#"{"adapter":"mood","error":"no","line":3}"#;
        assert_eq!(named.json(&bad, Some("mood"), None), format!("{expected}\n"));
        let mut table = answers(AnswerFormat::Csv, None);
        let own = row(2, &[("text", json!("some"))]);
        let said = table.record(&own, Some("mood"), Some(&prediction()), ',');
        assert_eq!(said, "text,adapter,label,probability,error\nsome,mood,b,0.75,\n");
        assert_eq!(table.record(&bad, Some("mood"), None, ','), ",mood,,,line 3: no\n");
    }
}
