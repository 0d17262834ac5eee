//! The tables `[trials]` and `[adapt]`: what `finetune` does around a run: several seeds, several sizes, a search for the rate, a
//! language model adapted beforehand.
//!
//! Owns: names, ranges, what contradicts what. Never: runs anything.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::{FinetuneConfig, Method, check};
use crate::error::Result;

/// More runs than this are a mistake.
const MOST_RUNS: usize = 1000;

/// The seeds of several runs: how many from the run's own seed on, or which.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Seeds {
    /// The run's seed and the ones behind it.
    Count(u64),
    /// These.
    List(Vec<u64>),
}

impl FromStr for Seeds {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text.contains(',') {
            numbers(text).map(Self::List)
        } else {
            let count = text.trim().parse().map_err(|_| "use a number of seeds, or a list such as 1,2,3");
            Ok(Self::Count(count?))
        }
    }
}

impl fmt::Display for Seeds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => write!(f, "{count}"),
            Self::List(seeds) => f.write_str(&listed(seeds)),
        }
    }
}

/// Sizes of training data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sizes(pub Vec<Size>);

/// A size of training data: so many examples, or the word `all`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Size {
    /// So many.
    Count(usize),
    /// As many as the data has.
    Word(AllExamples),
}

/// The word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AllExamples {
    /// `all`.
    All,
}

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::Word(AllExamples::All));
        }
        let wrong = |_| format!("`{text}` is no whole number and not `all`; write sizes as 50,500,all");
        text.parse().map(Self::Count).map_err(wrong)
    }
}

impl FromStr for Sizes {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.split(',').map(str::trim).map(Size::from_str).collect::<Result<_, _>>().map(Self)
    }
}

fn numbers<N: FromStr>(text: &str) -> Result<Vec<N>, String> {
    let wrong = |part: &str| format!("`{part}` is no whole number; write them as 50,100,500");
    text.split(',').map(str::trim).map(|part| part.parse().map_err(|_| wrong(part))).collect()
}

fn listed(numbers: &[u64]) -> String {
    numbers.iter().map(u64::to_string).collect::<Vec<_>>().join(",")
}

/// Several runs in place of one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TrialsConfig {
    /// One run for each of these seeds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seeds: Option<Seeds>,
    /// Runs on so many training examples, with the head start and from scratch.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub curve: Option<Sizes>,
    /// Whether short runs choose the learning rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lr_auto: Option<bool>,
}

/// Language modelling before the classifier.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdaptConfig {
    /// The text: `task` for the task's own training texts, else a text file, a folder or a named data set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapt_on: Option<String>,
    /// Optimizer steps; absent: `adapt_epochs` decides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapt_steps: Option<u64>,
    /// Passes over the text; absent: the recipe's, or what `adapt_steps` needs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapt_epochs: Option<usize>,
}

/// What stands for the task's own training texts.
pub const TASK_TEXTS: &str = "task";

impl TrialsConfig {
    /// Whether nothing is asked for.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }

    /// Whether short runs choose the learning rate.
    pub fn searches_rate(&self) -> bool {
        self.lr_auto == Some(true)
    }

    /// The seeds of the runs, `own` being the one in the table `[train]`.
    ///
    /// # Errors
    /// [`crate::Error::Config`] for repeats, and for numbers of them that make no sense.
    pub fn seeds(&self, own: u64) -> Result<Vec<u64>> {
        let most = i64::MAX as u64;
        let seeds = match &self.seeds {
            None => vec![own],
            Some(Seeds::Count(count)) => {
                check("seeds", (2..=MOST_RUNS as u64).contains(count), || {
                    let what = match count {
                        1 => "1 seed is asked for, and that is one run".into(),
                        _ => format!("{count} seeds are asked for"),
                    };
                    (what, format!("use a number from 2 to {MOST_RUNS}, or leave it out for one run"))
                })?;
                check("seeds", own <= most - count, || {
                    (format!("the seeds behind {own} are too large"), "use a smaller --seed".into())
                })?;
                (own..own + count).collect()
            }
            Some(Seeds::List(seeds)) => seeds.clone(),
        };
        check("seeds", !seeds.is_empty() && seeds.len() <= MOST_RUNS, || {
            (format!("{} seeds are listed", seeds.len()), format!("list from 1 to {MOST_RUNS}"))
        })?;
        for (at, seed) in seeds.iter().enumerate() {
            check("seeds", !seeds[..at].contains(seed), || {
                let what = format!(
                    "{seed} is listed twice, and would be counted twice: the same seed gives the same run"
                );
                (what, "list each seed once".into())
            })?;
            check("seeds", *seed <= most, || {
                (format!("{seed} is too large for a settings file"), format!("use up to {most}"))
            })?;
        }
        Ok(seeds)
    }

    /// The sizes of a curve over so many examples, ascending; none where no curve is asked for.
    pub fn sizes(&self, examples: usize) -> Vec<usize> {
        let listed = self.curve.iter().flat_map(|Sizes(sizes)| sizes);
        let mut sizes: Vec<usize> = listed
            .map(|size| match *size {
                Size::Count(count) => count,
                Size::Word(AllExamples::All) => examples,
            })
            .collect();
        sizes.sort_unstable();
        sizes
    }
}

impl AdaptConfig {
    /// Whether nothing is asked for.
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl FinetuneConfig {
    /// Whether this is more than one run: seeds, a curve, a search for the rate, a model adapted beforehand.
    pub fn is_several(&self) -> bool {
        let TrialsConfig { seeds, curve, lr_auto: _ } = &self.trials;
        seeds.is_some() || curve.is_some() || self.trials.searches_rate() || self.adapt.adapt_on.is_some()
    }

    /// Checks the tables `[trials]` and `[adapt]`.
    pub(super) fn check_trials(&self) -> Result<()> {
        self.trials.seeds(self.train.seed)?;
        let (searches, adapt) = (self.trials.searches_rate(), &self.adapt);
        let bow = self.method == Method::Bow;
        for (key, given) in [
            ("seeds", self.trials.seeds.is_some()),
            ("curve", self.trials.curve.is_some()),
            ("lr_auto", searches),
            ("adapt_on", adapt.adapt_on.is_some()),
        ] {
            check(key, !given || !bow, || {
                let what = "a bag of words has no seed, no learning rate and no model to start from".into();
                (what, format!("leave {key} out; other methods have a bag of words beside them"))
            })?;
        }
        check("lr_auto", !searches || self.method != Method::Features, || {
            let what = "the method `features` takes no steps, so that it has no learning rate".into();
            (what, "leave --lr auto out, or use --method head, lora or full".into())
        })?;
        self.check_curve()?;
        check("lr_auto", !searches || self.train.lr.is_none(), || {
            let what = "a learning rate is given, and short runs are to choose one".into();
            (what, "leave one of the two out".into())
        })?;
        check("lr_auto", !searches || self.train.n_epochs != Some(0), || {
            ("nothing is trained in 0 epochs".into(), "leave it out".into())
        })?;
        check("lr_auto", !searches || self.train.budget.is_none(), || {
            let what = "a budget is for one run, and the search is more".into();
            (what, "give --max_steps or --n_epochs in place of --budget".into())
        })?;
        check("adapt_on", adapt.adapt_on.is_none() || !self.from_scratch, || {
            let what = "weights that are drawn afresh keep nothing of what was adapted".into();
            (what, "leave --from_scratch out".into())
        })?;
        for (key, given) in
            [("adapt_steps", adapt.adapt_steps.is_some()), ("adapt_epochs", adapt.adapt_epochs.is_some())]
        {
            check(key, !given || adapt.adapt_on.is_some(), || {
                ("no text is named to adapt on".into(), "add --adapt_on task, or --adapt_on TEXT".into())
            })?;
        }
        check("adapt_steps", adapt.adapt_steps != Some(0) && adapt.adapt_epochs != Some(0), || {
            ("0 steps or epochs adapt nothing".into(), "leave --adapt_on out".into())
        })
    }

    fn check_curve(&self) -> Result<()> {
        let Some(Sizes(sizes)) = &self.trials.curve else { return Ok(()) };
        check("curve", !sizes.is_empty() && sizes.len() <= MOST_RUNS, || {
            ("no sizes are listed".into(), "list some, as in 50,100,500".into())
        })?;
        for (at, size) in sizes.iter().enumerate() {
            let told = match size {
                Size::Count(count) => count.to_string(),
                Size::Word(AllExamples::All) => "all".into(),
            };
            check("curve", *size > Size::Count(1), || {
                (format!("nothing is learned from {told} examples"), "use sizes from 2 on".into())
            })?;
            check("curve", !sizes[..at].contains(size), || {
                (format!("{told} is listed twice"), "list each size once".into())
            })?;
        }
        check("curve", !self.from_scratch, || {
            let what =
                "a curve compares the head start with none, and from_scratch leaves no head start".into();
            (what, "leave --from_scratch out".into())
        })?;
        check("curve", self.shots.is_none(), || {
            let what = "the sizes of a curve and shots both say how many examples there are".into();
            (what, "leave --shots or --curve out".into())
        })?;
        check("curve", self.data.max_train_examples.is_none(), || {
            let what =
                "the sizes of a curve and max_train_examples both say how many examples there are".into();
            (what, "leave --max_train_examples out".into())
        })?;
        check("lr_auto", !self.trials.searches_rate(), || {
            let what = "a curve compares the head start with none, each at the rate of its recipe".into();
            (what, "search for the rate without --curve, then give it with --lr".into())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut FinetuneConfig), key: &str, words: &str) {
        let mut config = FinetuneConfig { model: Some("m".into()), ..FinetuneConfig::default() };
        change(&mut config);
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains(&format!("`{key}`")) && error.contains(words), "{error}");
    }

    #[test]
    fn seeds_are_counted_or_listed() {
        let trials =
            |seeds: &str| TrialsConfig { seeds: Some(seeds.parse().unwrap()), ..TrialsConfig::default() };
        assert_eq!(trials("3").seeds(42).unwrap(), [42, 43, 44]);
        assert_eq!(trials("7, 1,5").seeds(42).unwrap(), [7, 1, 5]);
        assert_eq!(TrialsConfig::default().seeds(9).unwrap(), [9]);
        assert!(trials("1,2,1").seeds(0).unwrap_err().to_string().contains("1 is listed twice"));
        let one = trials("1").seeds(0).unwrap_err().to_string();
        assert!(one.contains("1 seed is asked for") && one.contains("from 2"), "{one}");
        assert!(trials("3").seeds(i64::MAX as u64).is_err());
        assert!("1,x".parse::<Seeds>().is_err() && "".parse::<Seeds>().is_err());
        let sizes =
            |text: &str| TrialsConfig { curve: Some(text.parse().unwrap()), ..TrialsConfig::default() };
        assert_eq!(sizes("500,50").sizes(900), [50, 500]);
        assert_eq!(sizes("all, 50").sizes(900), [50, 900]);
        assert!("50,most".parse::<Sizes>().unwrap_err().contains("not `all`"));
    }

    #[test]
    fn they_are_read_as_they_are_written() {
        let mut config = FinetuneConfig::default();
        let plain = toml::to_string(&config).unwrap();
        assert!(!plain.contains("trials") && !plain.contains("adapt]"), "{plain}");
        config.trials = TrialsConfig {
            seeds: Some(Seeds::List(vec![1, 2])),
            curve: Some("5,10,all".parse().unwrap()),
            lr_auto: Some(true),
        };
        config.adapt =
            AdaptConfig { adapt_on: Some("task".into()), adapt_steps: Some(5), adapt_epochs: Some(2) };
        let text = toml::to_string(&config).unwrap();
        assert!(text.contains("seeds = [1, 2]") && text.contains("curve = [5, 10, \"all\"]"), "{text}");
        assert_eq!(toml::from_str::<FinetuneConfig>(&text).unwrap(), config);
        let counted: TrialsConfig = toml::from_str("seeds = 4").unwrap();
        assert_eq!(counted.seeds, Some(Seeds::Count(4)));
    }

    #[test]
    fn contradictions_are_refused() {
        let curve = || Some("10,20".parse().unwrap());
        refused(|c| c.trials.curve = Some("10,10".parse().unwrap()), "curve", "10 is listed twice");
        refused(|c| c.trials.curve = Some("all,5,all".parse().unwrap()), "curve", "all is listed twice");
        refused(|c| c.trials.curve = Some("1".parse().unwrap()), "curve", "from 1 examples");
        refused(|c| (c.trials.curve, c.from_scratch) = (curve(), true), "curve", "no head start");
        refused(
            |c| (c.trials.curve, c.data.max_train_examples) = (curve(), Some(5)),
            "curve",
            "max_train_examples",
        );
        refused(|c| (c.trials.curve, c.shots) = (curve(), Some(4)), "curve", "shots");
        refused(|c| (c.trials.curve, c.trials.lr_auto) = (curve(), Some(true)), "lr_auto", "--curve");
        refused(
            |c| (c.trials.lr_auto, c.method) = (Some(true), Method::Features),
            "lr_auto",
            "no learning rate",
        );
        refused(
            |c| (c.trials.lr_auto, c.train.lr) = (Some(true), Some(0.1)),
            "lr_auto",
            "leave one of the two",
        );
        refused(|c| c.adapt.adapt_steps = Some(5), "adapt_steps", "--adapt_on");
        refused(|c| (c.adapt.adapt_on, c.from_scratch) = (Some("task".into()), true), "adapt_on", "afresh");
        refused(
            |c| (c.trials.seeds, c.method, c.model) = (Some(Seeds::Count(3)), Method::Bow, None),
            "seeds",
            "bag of words",
        );
    }
}
