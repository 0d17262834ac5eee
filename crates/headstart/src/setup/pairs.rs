//! `finetune --method contrastive`: which texts are compared with which.
//!
//! Owns: as many pairs as there are texts, times a number; never all of them. Never: what is computed of a pair (`objective`).
//!
//! SetFit (Tunstall et al. 2022) tunes a trunk on pairs of the labelled texts: those of one class are to have vectors in one direction, those
//! of two classes at right angles. Here each text gets so many partners of its class, in turn through the others of it, and as many of
//! other classes, drawn anew; so their number grows with the texts and not with its square.

use headstart_engine::rng::{self, Stream};

use crate::batch::{Examples, Label, Pair};
use crate::config::{FinetuneConfig, HeadPooling};
use crate::error::{Error, Result};
use crate::event::{Event, Listener};
use crate::train::thousands;

/// Pairs of each kind to a text: enough for about so many pairs in all, within these bounds.
const PAIRS: usize = 5_120;
const MOST_TO_A_TEXT: usize = 20;

/// Pairs the examples up, says how, and notes it.
///
/// # Errors
/// [`Error::Config`] where there is one class, or no class with two examples; or where several poolings stand side by side.
pub(crate) fn pair_up(
    config: &FinetuneConfig,
    pooling: HeadPooling,
    examples: &mut Examples<'_>,
    notes: &mut Vec<String>,
    listener: &mut Listener<'_>,
) -> Result<()> {
    if pooling.parts().len() > 1 {
        return Err(Error::Config {
            key: "pooling".into(),
            what: format!("`{}` is several rows, and pairs are compared by one of each text", pooling.name()),
            fix: "use --pooling mean, max, cls or last".into(),
        });
    }
    let classes: Vec<usize> = examples
        .labels
        .iter()
        .map(|label| match label {
            Label::Class(class) => *class as usize,
            Label::Values(_) => 0,
        })
        .collect();
    let chosen = to_each_text(classes.len());
    let to_a_text = config.pairs_per_text.unwrap_or(chosen);
    examples.pairs = pairs(&classes, to_a_text, config.train.seed)?;
    let alike = examples.pairs.iter().filter(|pair| pair.alike).count();
    let line = format!(
        "{} pairs of one class and {} of two, {to_a_text} of each to a text, drawn with the seed",
        thousands(alike),
        thousands(examples.pairs.len() - alike)
    );
    listener(Event::Message(&line));
    notes.push(line);
    Ok(())
}

/// Pairs of each kind that each of so many texts gets where nobody says it.
pub(crate) fn to_each_text(texts: usize) -> usize {
    (PAIRS / (2 * texts.max(1))).clamp(1, MOST_TO_A_TEXT)
}

/// So many pairs of each kind to each of the examples, whose classes these are. A text that is alone in its class is compared with
/// others only.
fn pairs(classes: &[usize], to_a_text: usize, seed: u64) -> Result<Vec<Pair>> {
    let count = classes.iter().max().map_or(0, |most| most + 1);
    let mut members = vec![Vec::new(); count];
    for (at, class) in classes.iter().enumerate() {
        members[*class].push(at as u32);
    }
    let refused = |what: &str, fix: &str| {
        Err(Error::Config { key: "method".into(), what: what.into(), fix: fix.into() })
    };
    if members.iter().filter(|members| !members.is_empty()).count() < 2 {
        return refused(
            "`contrastive` compares texts of different classes, and the training data have one class",
            "use data with two classes at least",
        );
    }
    if members.iter().all(|members| members.len() < 2) {
        return refused(
            "`contrastive` compares texts of the same class, and the training data have one text of each",
            "use two examples of a class at least (--shots 2, better 8), or --method features",
        );
    }
    let mut draws = Stream::new(rng::derive(seed, 6));
    for members in &mut members {
        draws.shuffle(members);
    }
    let mut place = vec![0; classes.len()];
    for (at, example) in members.iter().flat_map(|members| members.iter().enumerate()) {
        place[*example as usize] = at;
    }
    let mut pairs = Vec::with_capacity(2 * to_a_text * classes.len());
    for (first, class) in classes.iter().enumerate() {
        let own = &members[*class];
        let start = draws.below(own.len());
        for turn in 0..to_a_text {
            if own.len() > 1 {
                // Every step but that of its own length around leads to another.
                let ahead = 1 + (start + turn) % (own.len() - 1);
                let second = own[(place[first] + ahead) % own.len()];
                pairs.push(Pair { first: first as u32, second, alike: true });
            }
            let mut second = draws.below(classes.len());
            while classes[second] == *class {
                second = draws.below(classes.len());
            }
            pairs.push(Pair { first: first as u32, second: second as u32, alike: false });
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn pairs_are_balanced_and_as_many_as_texts_times_a_number() {
        let classes: Vec<usize> = (0..30).map(|n| n % 3).collect();
        let found = pairs(&classes, 4, 7).unwrap();
        assert_eq!(found.len(), 30 * 8);
        for Pair { first, second, alike } in &found {
            assert_ne!(first, second);
            assert_eq!(classes[*first as usize] == classes[*second as usize], *alike);
        }
        assert_eq!(found.iter().filter(|pair| pair.alike).count(), 30 * 4);
        // No partner of its class twice before all have been.
        let seen: HashSet<(u32, u32)> =
            found.iter().filter(|pair| pair.alike).map(|pair| (pair.first, pair.second)).collect();
        assert_eq!(seen.len(), 30 * 4);
        assert_eq!(pairs(&classes, 4, 7).unwrap(), found);
        assert_ne!(pairs(&classes, 4, 8).unwrap(), found);
    }

    #[test]
    fn what_cannot_be_paired_is_refused_and_a_lone_text_is_not() {
        let cases: [(&[usize], &str); 3] =
            [(&[0, 0, 0], "one class"), (&[0, 1, 2], "one text of each"), (&[], "one class")];
        for (classes, words) in cases {
            let error = pairs(classes, 3, 1).unwrap_err();
            assert!(error.is_usage() && error.to_string().contains(words), "{error}");
        }
        let found = pairs(&[0, 0, 1], 2, 1).unwrap();
        assert_eq!(found.iter().filter(|pair| pair.alike).count(), 4);
        assert_eq!(found.iter().filter(|pair| pair.first == 2).count(), 2);
    }
}
