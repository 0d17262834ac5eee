//! Which of the training examples a run uses, and how much each class counts.
//!
//! Owns: subsets, the same for one seed. Never: reads data.

use headstart_engine::rng;

use crate::batch::{Examples, Label};
use crate::config::{ClassWeights, FinetuneConfig};
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::train::thousands;

/// Keeps only as many training examples as are asked for; returns which, and says so.
///
/// # Errors
/// [`Error::Config`] where more are asked for of each class than any has.
pub(crate) fn few(
    config: &FinetuneConfig,
    examples: &mut Examples<'_>,
    labels: &[String],
    notes: &mut Vec<String>,
    listener: &mut Listener<'_>,
) -> Result<Option<Vec<usize>>> {
    let (all, most) = (usize::MAX, config.data.max_train_examples);
    let Some(shots) = config.shots else {
        return Ok(most.map(|most| subset(examples, most, all, config.train.seed)));
    };
    let before = examples.len();
    let kept = subset(examples, all, shots, config.train.seed);
    let mut counts = vec![0_usize; labels.len()];
    for label in &examples.labels {
        if let Label::Class(class) = label {
            counts[*class as usize] += 1;
        }
    }
    let scarce: Vec<String> = labels
        .iter()
        .zip(&counts)
        .filter(|(_, count)| **count < shots)
        .map(|(label, count)| format!("{label} {count}"))
        .collect();
    if scarce.len() == labels.len() {
        return Err(Error::Config {
            key: "shots".into(),
            what: format!(
                "{shots} training examples of each class are asked for, there are {}",
                scarce.join(", ")
            ),
            fix: "ask for fewer, or leave it out to use all examples".into(),
        });
    }
    let fewer = if scarce.is_empty() {
        String::new()
    } else {
        format!("; there are no more of {}", scarce.join(", "))
    };
    let line = format!(
        "{shots} shots: {} of {} training examples are used{fewer}",
        examples.len(),
        thousands(before)
    );
    listener(Event::Message(&line));
    notes.push(line);
    Ok(Some(kept))
}

/// Keeps `most` examples, drawn evenly over the classes, and of each class `of_class` at most; returns which.
pub(crate) fn subset(examples: &mut Examples<'_>, most: usize, of_class: usize, seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..examples.len()).collect();
    rng::Stream::new(rng::derive(seed, 5)).shuffle(&mut order);
    let class_of = |i: usize| match &examples.labels[i] {
        Label::Class(class) => *class,
        Label::Values(_) => 0,
    };
    // The n-th example of each class comes before any class's (n+1)-th.
    let mut seen = std::collections::HashMap::new();
    let mut ranked: Vec<(usize, usize)> = order
        .into_iter()
        .map(|i| {
            let rank = seen.entry(class_of(i)).or_insert(0_usize);
            *rank += 1;
            (*rank, i)
        })
        .collect();
    ranked.retain(|&(rank, _)| rank <= of_class);
    ranked.sort_by_key(|&(rank, _)| rank);
    let mut kept: Vec<usize> = ranked.into_iter().take(most).map(|(_, i)| i).collect();
    kept.sort_unstable();
    examples.keep(&kept);
    kept
}

pub(crate) fn class_weights(
    config: &FinetuneConfig,
    train: &Examples<'_>,
    classes: usize,
) -> Option<Vec<f32>> {
    if config.class_weights == ClassWeights::None {
        return None;
    }
    let mut counts = vec![0.0_f32; classes];
    for label in &train.labels {
        if let Label::Class(class) = label {
            counts[*class as usize] += 1.0;
        }
    }
    let total: f32 = counts.iter().sum();
    Some(counts.into_iter().map(|n| if n > 0.0 { total / (classes as f32 * n) } else { 0.0 }).collect())
}
