//! `headstart runs ls|show|compare`. Owns: how runs read. Never: what they come to.

use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use headstart::eval::{Comparison, Difference};
use headstart::files::published_name;
use headstart::history::{self, Compared, Metric, Run, Shown};
use jiff::Timestamp;

use crate::args::{RunsCommand, RunsCompareArgs, RunsLsArgs, RunsShowArgs};
use crate::metrics::{aligned, percent};
use crate::output::{self, duration, number, shortened};
use crate::progress;

/// Characters of a text that are shown.
const TEXT_CHARS: usize = 60;
/// Characters of a name.
const NAME_CHARS: usize = 24;

/// Runs it.
pub fn run(command: RunsCommand) -> Result<ExitCode> {
    match command {
        RunsCommand::Ls(args) => list(&args),
        RunsCommand::Show(args) => show(&args),
        RunsCommand::Compare(args) => compare(&args),
    }
}

fn list(args: &RunsLsArgs) -> Result<ExitCode> {
    let RunsLsArgs { dir, json } = args;
    let (runs, left_out) = history::list(dir)?;
    if left_out > 0 {
        progress::say(&format!("warning: the settings of {left_out} runs cannot be read; they are left out"));
    }
    if *json {
        runs.iter().try_for_each(output::json_line)?;
        return Ok(ExitCode::SUCCESS);
    }
    if runs.is_empty() {
        output::text(&format!("no runs in {}\n", dir.display()))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::text(&table(dir, &runs))?;
    Ok(ExitCode::SUCCESS)
}

fn table(dir: &Path, runs: &[Run]) -> String {
    let header = ["run", "started", "method", "model", "data", "result", "time", "state"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for run in runs {
        let name = run.dir.strip_prefix(dir).unwrap_or(&run.dir).display().to_string();
        let last = |path: &str| {
            let parts: Vec<&str> = path.split(['/', '\\']).filter(|part| !part.is_empty()).collect();
            shortened(parts.last().unwrap_or(&""), NAME_CHARS)
        };
        rows.push(vec![
            if name.is_empty() { run.dir.display().to_string() } else { name },
            run.started_s.map(date).unwrap_or_default(),
            run.method.clone(),
            published_name(&run.model).unwrap_or_else(|| last(&run.model)),
            last(&run.data),
            run.metric.as_ref().map(result).unwrap_or_default(),
            run.seconds.map(duration).unwrap_or_default(),
            run.state.name().to_owned(),
        ]);
    }
    aligned_left(&rows)
}

/// Columns of words, with two spaces between.
fn aligned_left(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |at: usize| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells: Vec<String> =
            row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        cells.join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// `test accuracy 91.2 %`.
fn result(metric: &Metric) -> String {
    let name = metric.name.replace('/', " ");
    if name.ends_with("accuracy") {
        format!("{name} {} %", percent(metric.value))
    } else {
        format!("{name} {}", number(metric.value))
    }
}

fn date(seconds: f64) -> String {
    Timestamp::from_second(seconds as i64)
        .map_or_else(|_| String::new(), |time| time.strftime("%Y-%m-%d %H:%M").to_string())
}

fn show(args: &RunsShowArgs) -> Result<ExitCode> {
    let RunsShowArgs { run, json } = args;
    let shown = history::show(&history::folder_of(run)?)?;
    if *json {
        output::json_line(&shown)?;
    } else {
        output::text(&shown_text(&shown))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn shown_text(shown: &Shown) -> String {
    let Shown { run, settings, metrics, summary, places } = shown;
    let mut text = format!("{}: {}", run.dir.display(), run.state.name());
    if let Some(started) = run.started_s {
        let _ = write!(text, ", started {} UTC", date(started));
    }
    if let Some(seconds) = run.seconds {
        let _ = write!(text, ", {} of work", duration(seconds));
    }
    text.push_str("\n\nsettings that are not the defaults\n");
    let rows: Vec<Vec<String>> =
        settings.iter().map(|(key, value)| vec![format!("  {key}"), shortened(value, 60)]).collect();
    text.push_str(&aligned_left(&rows));
    if !metrics.is_empty() {
        let mut rows = vec![vec!["metrics".to_owned(), String::new(), "95 %: from".into(), "to".into()]];
        for Metric { name, value, interval } in metrics {
            let ends = interval.map_or([String::new(), String::new()], |ends| ends.map(number));
            rows.push([vec![format!("  {name}"), number(*value)], ends.to_vec()].concat());
        }
        text = text + "\n" + &aligned(&rows);
    }
    let calibration = summary.as_ref().map(|summary| &summary["calibration"]);
    if let Some(temperature) = calibration.and_then(|calibration| calibration["temperature"].as_f64()) {
        let _ = writeln!(text, "\ntemperature {temperature:.3}");
    }
    let rows: Vec<Vec<String>> =
        places.iter().map(|(what, path)| vec![format!("  {what}"), path.display().to_string()]).collect();
    text + "\nwhere its parts are\n" + &aligned_left(&rows)
}

fn compare(args: &RunsCompareArgs) -> Result<ExitCode> {
    let RunsCompareArgs { first, second, examples, json } = args;
    let compared = history::compare(&history::folder_of(first)?, &history::folder_of(second)?)?;
    if *json {
        output::json_line(&compared)?;
    } else {
        output::text(&compared_text(&compared, *examples))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn compared_text(compared: &Compared, most: usize) -> String {
    let Compared { first, second, evaluated, comparison, differing } = compared;
    let mut text = format!(
        "A: {}\nB: {}\n{} {} examples, the same for both\n\n",
        first.display(),
        second.display(),
        evaluated.examples,
        evaluated.split
    );
    let mut rows = vec![["", "A", "B", "B - A", "95 %: from", "to"].map(str::to_owned).to_vec()];
    for (name, found) in &comparison.metrics {
        let Difference { first, second, difference, interval, second_better: _ } = *found;
        let (name, told): (&str, fn(f64) -> String) = match name.as_str() {
            "accuracy" => ("accuracy, %", percent),
            "exact_match" => ("exact match, %", percent),
            "macro_f1" => ("macro-F1, %", percent),
            "micro_f1" => ("micro-F1, %", percent),
            other => (other, number),
        };
        let ends = interval.map_or([String::new(), String::new()], |ends| ends.map(told));
        rows.push(
            [vec![name.to_owned()], [first, second, difference].map(told).to_vec(), ends.to_vec()].concat(),
        );
    }
    text.push_str(&aligned(&rows));
    text.push_str(&verdict(comparison));
    if differing.is_empty() {
        return text + "they answer every example alike\n";
    }
    let mut rows = vec![["", "label", "A", "B", "text"].map(str::to_owned).to_vec()];
    for example in differing.iter().take(most) {
        let told = |told: &str, p: Option<f64>| {
            let p = p.map(|p| format!(" {p:.2}")).unwrap_or_default();
            shortened(told, NAME_CHARS) + &p
        };
        rows.push(vec![
            shortened(&example.place, NAME_CHARS),
            shortened(&example.label, NAME_CHARS),
            told(&example.first, example.first_probability),
            told(&example.second, example.second_probability),
            shortened(&example.text, TEXT_CHARS),
        ]);
    }
    let _ = writeln!(text, "\nthey answer {} examples differently", differing.len());
    text.push_str(&aligned_left(&rows));
    if differing.len() > most {
        let _ = writeln!(text, "({} more: --examples N, or --json)", differing.len() - most);
    }
    text
}

/// Which is better, where that is more than luck.
fn verdict(comparison: &Comparison) -> String {
    let Some(test) = comparison.mcnemar else {
        let interval = comparison.metrics.get("pearson").and_then(|pearson| pearson.interval);
        let words = match interval {
            Some([low, _]) if low > 0.0 => "B is better: the interval of Pearson's correlation lies above 0",
            Some([_, high]) if high < 0.0 => {
                "A is better: the interval of Pearson's correlation lies below 0"
            }
            Some(_) => "the difference may be luck: the interval of Pearson's correlation holds 0",
            None => "there are too few examples to tell which is better",
        };
        return format!("\n{words}\n");
    };
    let kind = if test.exact { "exact" } else { "chi-square" };
    let verdict = match (test.p < 0.05, test.only_first < test.only_second) {
        (true, true) => "B is better",
        (true, false) => "A is better",
        (false, _) => "the difference may be luck",
    };
    format!(
        "\nonly A is right: {}, only B: {}; McNemar's test ({kind}): p = {}; {verdict}\n",
        test.only_first,
        test.only_second,
        number(test.p)
    )
}

#[cfg(test)]
mod tests {
    use headstart::eval::McNemar;
    use headstart::history::{Differing, State};
    use headstart::predictions::Evaluated;

    use super::*;

    #[test]
    fn a_run_is_a_line() {
        let run = Run {
            dir: "runs/a/seed-1".into(),
            state: State::Finished,
            started_s: Some(1_700_000_000.0),
            method: "lora".into(),
            model: "runs/trunk/".into(),
            data: "trec".into(),
            metric: Some(Metric { name: "test/accuracy".into(), value: 0.9123, interval: None }),
            seconds: Some(75.0),
        };
        assert_eq!(
            table(Path::new("runs"), &[run]),
            "run       started           method  model  data  result                time    state\n\
             a/seed-1  2023-11-14 22:13  lora    trunk  trec  test accuracy 91.2 %  1m 15s  finished\n"
        );
    }

    #[test]
    fn a_comparison_says_what_it_comes_to() {
        let difference = Difference {
            first: 0.8,
            second: 0.85,
            difference: 0.05,
            interval: Some([0.01, 0.09]),
            second_better: 0.99,
        };
        let example = Differing {
            place: "line 3".into(),
            text: "what ?".into(),
            label: "x".into(),
            first: "y".into(),
            first_probability: Some(0.5),
            second: "x".into(),
            second_probability: None,
        };
        let compared = Compared {
            first: "runs/a".into(),
            second: "runs/b".into(),
            evaluated: Evaluated { split: "test".into(), examples: 500, ..Evaluated::default() },
            comparison: Comparison {
                examples: 500,
                metrics: ["accuracy", "macro_f1"].map(|name| (name.to_owned(), difference)).into(),
                mcnemar: Some(McNemar { only_first: 10, only_second: 35, exact: false, p: 0.0004 }),
            },
            differing: vec![example.clone(), example],
        };
        let text = compared_text(&compared, 1);
        for part in [
            "500 test examples, the same for both\n",
            "accuracy, %  80.0  85.0    5.0         1.0  9.0\n",
            "only A is right: 10, only B: 35; McNemar's test (chi-square): p = 4.00e-4; B is better\n",
            "they answer 2 examples differently\n",
            "line 3  x      y 0.50  x  what ?\n",
            "(1 more: --examples N, or --json)\n",
        ] {
            assert!(text.contains(part), "{part}\n{text}");
        }
        let numbers = Comparison {
            metrics: [("pearson".to_owned(), difference)].into(),
            mcnemar: None,
            ..compared.comparison.clone()
        };
        let text = compared_text(&Compared { comparison: numbers, ..compared }, 1);
        assert!(text.contains("pearson  0.8") && text.contains("\nB is better: the interval"), "{text}");
    }
}
