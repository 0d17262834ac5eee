//! What a pretrained model must beat: logistic regression on words and pairs of words, weighted by tf-idf.
//!
//! Owns: the features, the fit, the same bits each time. Never: reads data, or knows of transformers.
//!
//! The weights W minimise `|W|^2 / 2 + strength * sum of the examples' cross-entropies`, which has one minimum. Nesterov's
//! method for such functions finds it with full gradients alone, so nothing depends on chance or on threads.

use std::collections::HashMap;

/// Steps of the fit, at most; it has ended when the gradient is this share of what it was at first.
const MOST_STEPS: usize = 3_000;
const SMALL_GRADIENT: f64 = 1e-4;

/// The weights of a text's n-grams: their numbers, ascending, and values of norm 1 with a constant behind them.
type Features = Vec<(usize, f64)>;

/// A fitted classifier.
#[derive(Clone, Debug)]
pub struct Baseline {
    /// The numbers of the n-grams of the training texts, in the order they come in.
    ngrams: HashMap<String, usize>,
    /// The inverse document frequency of each.
    idf: Vec<f64>,
    classes: usize,
    /// A row of classes for each n-gram, and one for the constant.
    weights: Vec<f64>,
}

impl Baseline {
    /// Fits the classes `0..classes` of texts. `strength`: how much an example counts beside the penalty on the weights, as
    /// scikit-learn's `C`.
    ///
    /// # Panics
    /// When a class is not below `classes`.
    pub fn fit(examples: &[(&str, usize)], classes: usize, strength: f64) -> Self {
        let mut ngrams: HashMap<String, usize> = HashMap::new();
        let mut texts_with: Vec<u32> = Vec::new();
        for (text, _) in examples {
            let mut seen: Vec<usize> = Vec::new();
            for ngram in words_and_pairs(text) {
                let next = ngrams.len();
                let number = *ngrams.entry(ngram).or_insert(next);
                texts_with.resize(ngrams.len(), 0);
                if !seen.contains(&number) {
                    seen.push(number);
                    texts_with[number] += 1;
                }
            }
        }
        let count = examples.len() as f64;
        let idf =
            texts_with.iter().map(|with| ((1.0 + count) / (1.0 + f64::from(*with))).ln() + 1.0).collect();
        let mut baseline = Self { ngrams, idf, classes, weights: Vec::new() };
        let rows: Vec<(Features, usize)> =
            examples.iter().map(|(text, class)| (baseline.features(text), *class)).collect();
        baseline.weights = fitted(&rows, (baseline.idf.len() + 1) * classes, classes, strength);
        baseline
    }

    /// The most likely class of a text; of equal ones the first.
    pub fn predict(&self, text: &str) -> usize {
        let scores = scores(&self.weights, &self.features(text), self.classes);
        let better = |best: usize, class: usize| if scores[class] > scores[best] { class } else { best };
        (1..self.classes).fold(0, better)
    }

    /// The share of the examples whose class is predicted.
    pub fn accuracy(&self, examples: &[(&str, usize)]) -> f64 {
        let right = examples.iter().filter(|(text, class)| self.predict(text) == *class).count();
        right as f64 / examples.len() as f64
    }

    /// What the training texts have not is nothing.
    fn features(&self, text: &str) -> Features {
        let mut numbers: Vec<usize> =
            words_and_pairs(text).filter_map(|ngram| self.ngrams.get(&ngram).copied()).collect();
        numbers.sort_unstable();
        let mut features: Features = Vec::with_capacity(numbers.len() + 1);
        for number in numbers {
            match features.last_mut() {
                Some((last, value)) if *last == number => *value += self.idf[number],
                _ => features.push((number, self.idf[number])),
            }
        }
        let norm = features.iter().map(|(_, value)| value * value).sum::<f64>().sqrt();
        for (_, value) in &mut features {
            *value /= norm;
        }
        features.push((self.idf.len(), 1.0));
        features
    }
}

/// The words of a text in small letters, then its pairs of neighbours.
fn words_and_pairs(text: &str) -> impl Iterator<Item = String> {
    let lower = text.to_lowercase();
    let words: Vec<String> =
        lower.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(Into::into).collect();
    let pairs: Vec<String> = words.windows(2).map(|pair| pair.join(" ")).collect();
    words.into_iter().chain(pairs)
}

fn scores(weights: &[f64], features: &Features, classes: usize) -> Vec<f64> {
    let mut scores = vec![0.0; classes];
    for (number, value) in features {
        let row = &weights[number * classes..][..classes];
        scores.iter_mut().zip(row).for_each(|(score, weight)| *score += value * weight);
    }
    scores
}

/// The gradient of what [`fitted`] minimises.
fn gradient(weights: &[f64], rows: &[(Features, usize)], classes: usize, strength: f64) -> Vec<f64> {
    let mut gradient = weights.to_vec();
    for (features, class) in rows {
        let mut slopes = scores(weights, features, classes);
        let highest = slopes.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        slopes.iter_mut().for_each(|score| *score = (*score - highest).exp());
        let sum: f64 = slopes.iter().sum();
        slopes.iter_mut().for_each(|slope| *slope *= strength / sum);
        slopes[*class] -= strength;
        for (number, value) in features {
            let row = &mut gradient[number * classes..][..classes];
            row.iter_mut().zip(&slopes).for_each(|(sum, slope)| *sum += value * slope);
        }
    }
    gradient
}

fn fitted(rows: &[(Features, usize)], len: usize, classes: usize, strength: f64) -> Vec<f64> {
    // The curvature is 1 at least, from the penalty. A softmax adds a half of the squared norm at most, which is 2.
    let steepest = 1.0 + strength * rows.len() as f64;
    let momentum = (steepest.sqrt() - 1.0) / (steepest.sqrt() + 1.0);
    let norm = |values: &[f64]| values.iter().map(|value| value * value).sum::<f64>().sqrt();
    let (mut weights, mut ahead) = (vec![0.0; len], vec![0.0; len]);
    let mut first_norm = None;
    for _ in 0..MOST_STEPS {
        let gradient = gradient(&ahead, rows, classes, strength);
        if norm(&gradient) <= SMALL_GRADIENT * *first_norm.get_or_insert_with(|| norm(&gradient)) {
            break;
        }
        for ((weight, ahead), slope) in weights.iter_mut().zip(&mut ahead).zip(&gradient) {
            let next = *ahead - slope / steepest;
            *ahead = next + momentum * (next - *weight);
            *weight = next;
        }
    }
    weights
}

#[cfg(test)]
mod tests {
    use super::*;

    const EXAMPLES: [(&str, usize); 6] = [
        ("Who built the bridge?", 0),
        ("Who owns the old mill?", 0),
        ("Where is the mill?", 1),
        ("Where does the river end?", 1),
        ("How many boats has the town?", 2),
        ("How deep is the river?", 2),
    ];

    #[test]
    fn features_are_words_and_pairs_of_norm_one() {
        let ngrams: Vec<String> = words_and_pairs("Who's there? WHO").collect();
        assert_eq!(ngrams, ["who", "s", "there", "who", "who s", "s there", "there who"]);
        let baseline = Baseline::fit(&EXAMPLES, 3, 1.0);
        let features = baseline.features("Who, who knows the mill?");
        let (constant, ngrams) = features.split_last().unwrap();
        assert_eq!(*constant, (baseline.idf.len(), 1.0));
        assert!((ngrams.iter().map(|f| f.1 * f.1).sum::<f64>() - 1.0).abs() < 1e-12);
        // "the" is in all six texts and weighs ln(7 / 7) + 1; "who", which is in two, ln(7 / 3) + 1, twice.
        let value = |word: &str| ngrams.iter().find(|f| f.0 == baseline.ngrams[word]).unwrap().1;
        assert!((value("who") / value("the") - 2.0 * ((7.0_f64 / 3.0).ln() + 1.0)).abs() < 1e-12);
        assert_eq!(baseline.features("unheard of"), [(baseline.idf.len(), 1.0)]);
    }

    #[test]
    fn the_fit_is_the_minimum() {
        for strength in [1.0, 100.0] {
            let baseline = Baseline::fit(&EXAMPLES, 3, strength);
            let rows: Vec<_> =
                EXAMPLES.iter().map(|(text, class)| (baseline.features(text), *class)).collect();
            let slope = gradient(&baseline.weights, &rows, 3, strength);
            let start = gradient(&vec![0.0; slope.len()], &rows, 3, strength);
            let norm = |values: &[f64]| values.iter().map(|v| v * v).sum::<f64>().sqrt();
            assert!(norm(&slope) < 1e-3 * norm(&start), "{strength}: {}", norm(&slope));
            assert!((baseline.accuracy(&EXAMPLES) - 1.0).abs() < 1e-12);
            let again = Baseline::fit(&EXAMPLES, 3, strength);
            assert_eq!(baseline.weights, again.weights);
        }
    }

    #[test]
    fn the_gradient_is_that_of_the_loss() {
        let baseline = Baseline::fit(&EXAMPLES, 3, 1.0);
        let rows: Vec<_> = EXAMPLES.iter().map(|(text, class)| (baseline.features(text), *class)).collect();
        let loss = |weights: &[f64]| {
            let of = |(features, class): &(Features, usize)| {
                let scores = scores(weights, features, 3);
                scores.iter().map(|s| s.exp()).sum::<f64>().ln() - scores[*class]
            };
            weights.iter().map(|w| w * w).sum::<f64>() / 2.0 + 5.0 * rows.iter().map(of).sum::<f64>()
        };
        let weights: Vec<f64> = (0..baseline.weights.len()).map(|i| (i as f64 * 0.7).sin()).collect();
        let slope = gradient(&weights, &rows, 3, 5.0);
        for at in [0, 7, weights.len() - 1] {
            let moved = |by: f64| {
                let mut moved = weights.clone();
                moved[at] += by;
                loss(&moved)
            };
            assert!((slope[at] - (moved(1e-5) - moved(-1e-5)) / 2e-5).abs() < 1e-6, "{at}");
        }
    }

    #[test]
    fn what_was_learned_is_predicted_of_other_texts() {
        let baseline = Baseline::fit(&EXAMPLES, 3, 10.0);
        assert_eq!(["Who sank it?", "Where?", "How many?"].map(|text| baseline.predict(text)), [0, 1, 2]);
    }
}
