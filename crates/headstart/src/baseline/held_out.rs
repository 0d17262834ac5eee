//! What a classifier says of texts that it was not fitted to: cross-validation.
//!
//! Owns: that no example is among those its own probabilities were fitted to, nor one of the same text or group. Never: judges them.

use super::matrix::Rows;
use super::{BagOfWords, Examples, NGrams, Prepared, ROUGH, columns, to_probabilities};

impl BagOfWords {
    /// The probabilities of the classes of each example by a classifier that was fitted to the other `parts - 1` of `parts`
    /// parts of the examples. The n-grams' frequencies are those of all examples, and so is the strength of the penalty.
    /// `None` when `go_on` said no.
    ///
    /// # Panics
    /// When there are not as many classes as texts, fewer than two classes have texts, or there are fewer than two parts.
    pub fn held_out_probabilities(
        examples: Examples<'_>,
        ngrams: NGrams,
        parts: usize,
        go_on: &mut dyn FnMut() -> bool,
    ) -> Option<Vec<Vec<f64>>> {
        assert!(parts > 1, "something has to be left to fit to");
        let prepared = Prepared::new(examples, ngrams);
        assert!(prepared.known.len() > 1, "one class alone has nothing to tell apart");
        let strength = prepared.best_strength(go_on)?;
        let (folds, k) = (prepared.folds(parts), columns(prepared.known.len()));
        let mut all = vec![vec![0.0; examples.count]; examples.texts.len()];
        for fold in 0..parts {
            let counts: Vec<bool> = folds.iter().map(|of| *of != fold).collect();
            // From nothing each time: the weights of another part have seen these examples.
            let mut weights = prepared.zeros();
            if !prepared.problem(&counts, strength, ROUGH).fit(&mut weights, go_on) {
                return None;
            }
            let mut scores = vec![0.0; prepared.x.rows() * k];
            prepared.x.times(&weights, k, &mut scores);
            for (row, scores) in scores.chunks_exact(k).enumerate().filter(|(row, _)| folds[*row] == fold) {
                let mut scores = scores.to_vec();
                to_probabilities(&mut scores);
                if let [second] = scores[..] {
                    scores = vec![1.0 - second, second];
                }
                for (class, probability) in prepared.known.iter().zip(scores) {
                    all[row][*class as usize] = probability;
                }
            }
        }
        Some(all)
    }
}
