//! The quickstart's page.
//!
//! Owns: its words, tables and charts. Never: a metric that the experiment did not measure.

use crate::data::starter;
use crate::quickstart::{Arm, QuickstartSummary, percent};
use crate::report::{Chart, Confusion, Curve, Report, Table};
use crate::run_log::{Kind, Record};
use crate::train::thousands;

pub(super) const SHIPPED: &str = "from the model in the program";
pub(super) const WITH: &str = "from the trunk just pretrained";
pub(super) const WITHOUT: &str = "from random weights";
const WORDS: &str = "words alone";

/// The page; `trunk`: the records of pretraining.
pub(super) fn page(summary: &QuickstartSummary, trunk: &[Record], confusions: Vec<Confusion>) -> Report {
    Report {
        title: "Headstart quickstart".into(),
        summary: paragraphs(summary),
        tables: vec![result(summary), runs(summary)],
        charts: charts(summary, trunk),
        confusions,
    }
}

fn paragraphs(summary: &QuickstartSummary) -> Vec<String> {
    let QuickstartSummary { pretrained, scratch, shipped, words, .. } = summary;
    let verdict = match pretrained.accuracy_mean.total_cmp(&scratch.accuracy_mean) {
        std::cmp::Ordering::Greater => "The head start wins",
        std::cmp::Ordering::Less => "The head start loses",
        std::cmp::Ordering::Equal => "A draw",
    };
    let (corpus, questions) = (starter::corpus(), starter::questions());
    let (valid, test) = (questions.valid.len(), questions.test.len());
    let seeds = pretrained.accuracies.len();
    vec![
        format!(
            "{verdict}: {} test accuracy with a minute's pretraining, {} without (mean of {seeds} seeds); words alone, without a \
             neural network, reach {}, and the model that comes with the program {}.",
            percent(pretrained.accuracy_mean),
            percent(scratch.accuracy_mean),
            percent(words.accuracy),
            percent(shipped.accuracy_mean)
        ),
        format!(
            "What each cost: words alone {:.1} s; from random weights {:.0} s of training for a model; from the trunk just \
             pretrained as long again, and {:.0} s of pretraining once; from the model in the program {:.0} s for a model, and \
             once, before it was shipped, hours of learning from a larger model (headstart models show shipped).",
            words.seconds,
            each(scratch),
            summary.pretraining_seconds,
            each(shipped),
        ),
        format!(
            "The same small transformer (GPT-2 layout, 128 wide, 4 layers) was fine-tuned on {} questions of six types, once \
             starting from a trunk pretrained on {} KB of the embedded corpus and once from random weights: same budget, same \
             seeds. The {valid} validation questions choose each arm's learning rate and each run's epoch; the {test} test \
             questions share no question frame and no name with the others. Words alone: logistic regression on words and \
             pairs of words, weighted by tf-idf. Pretraining cost {:.0} s and reached a validation perplexity of {:.1}.",
            questions.train.len(),
            thousands(corpus.train.len() / 1000),
            summary.pretraining_seconds,
            summary.pretraining_ppl
        ),
        format!(
            "Validation does not tell the arms apart as the test does: the {valid} validation questions are nearer to the \
             training questions (words alone get {} of them right, and {} of the {test} test questions), and they are few (the \
             standard error of an accuracy is {} points).",
            percent(words.validation),
            percent(words.accuracy),
            points(standard_error(scratch.validation_mean, valid)),
        ),
    ]
}

/// Seconds of one run of an arm.
fn each(arm: &Arm) -> f64 {
    arm.seconds / arm.accuracies.len().max(1) as f64
}

/// The standard error of an accuracy over so many examples.
fn standard_error(accuracy: f64, examples: usize) -> f64 {
    (accuracy * (1.0 - accuracy) / examples as f64).sqrt()
}

fn points(share: f64) -> String {
    format!("{:.1}", share * 100.0)
}

fn result(summary: &QuickstartSummary) -> Table {
    let QuickstartSummary { pretrained, scratch, shipped, words, .. } = summary;
    let row = |name: &str, arm: &Arm| {
        let each: Vec<String> = arm.accuracies.iter().map(|a| points(*a)).collect();
        vec![
            name.to_owned(),
            percent(arm.accuracy_mean),
            percent(arm.accuracy_std),
            each.join(", "),
            percent(arm.validation_mean),
            format!("{:e}", arm.lr),
            format!("{:.0} s", arm.seconds),
        ]
    };
    let alone = vec![
        WORDS.to_owned(),
        percent(words.accuracy),
        String::new(),
        String::new(),
        percent(words.validation),
        String::new(),
        format!("{:.1} s", words.seconds),
    ];
    let header = ["", "test", "spread (std)", "each seed", "validation", "learning rate", "training"];
    Table {
        title: "Accuracy, each run at its best epoch on validation".into(),
        header: header.map(str::to_owned).to_vec(),
        rows: vec![alone, row(WITHOUT, scratch), row(WITH, pretrained), row(SHIPPED, shipped)],
        ..Table::default()
    }
}

/// Every run with the way to its own page.
fn runs(summary: &QuickstartSummary) -> Table {
    let mut rows = vec![vec![
        "trunk".to_owned(),
        String::new(),
        String::new(),
        String::new(),
        String::new(),
        format!("{:.0} s", summary.pretraining_seconds),
    ]];
    let QuickstartSummary { pretrained, scratch, shipped, .. } = summary;
    for run in pretrained.runs.iter().chain(&scratch.runs).chain(&shipped.runs) {
        rows.push(vec![
            run.name.clone(),
            format!("{:e}", run.lr),
            run.step.to_string(),
            percent(run.validation),
            run.test.map_or_else(|| "\u{2013}".into(), percent),
            format!("{:.0} s", run.seconds),
        ]);
    }
    let header = ["run", "learning rate", "best step", "validation", "test", "training"];
    Table {
        title: "All runs".into(),
        header: header.map(str::to_owned).to_vec(),
        links: rows.iter().map(|row| format!("{}/report.html", row[0])).collect(),
        rows,
    }
}

fn charts(summary: &QuickstartSummary, trunk: &[Record]) -> Vec<Chart> {
    let curve = |name: &str, dashed: bool, arm: &Arm| Curve {
        name: name.into(),
        dashed,
        points: arm.validation_curve.iter().enumerate().map(|(i, a)| ((i + 1) as f64, a * 100.0)).collect(),
    };
    let losses = |kind: Kind, key: &str| -> Vec<(f64, f64)> {
        let records = trunk.iter().filter(|r| r.kind == kind);
        records.filter_map(|r| Some((r.step as f64, r.value(key)?))).collect()
    };
    let seeds = summary.pretrained.accuracies.len();
    let questions = starter::questions().valid.len();
    vec![
        Chart {
            title: format!(
                "Accuracy on {questions} validation questions while fine-tuning, mean of {seeds} seeds"
            ),
            x_label: "epoch".into(),
            y_label: "accuracy in %".into(),
            curves: vec![
                curve(SHIPPED, false, &summary.shipped),
                curve(WITH, false, &summary.pretrained),
                curve(WITHOUT, true, &summary.scratch),
            ],
            ..Chart::default()
        },
        Chart {
            title: "Pretraining loss".into(),
            x_label: "optimizer step".into(),
            y_label: "nats per token".into(),
            curves: vec![
                Curve { name: "training".into(), dashed: false, points: losses(Kind::Train, "loss") },
                Curve { name: "validation".into(), dashed: true, points: losses(Kind::Valid, "nll") },
            ],
            ..Chart::default()
        },
    ]
}
