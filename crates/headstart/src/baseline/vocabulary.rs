//! Which n-grams texts have, and what a text is as a sparse row: tf-idf of norm 1.
//!
//! Owns: how a text is cut into words, pairs of words and characters within words, and the weights of these. Never: labels.
//!
//! As scikit-learn's `TfidfVectorizer` with `sublinear_tf`, words being what stands between spaces, in small letters; the
//! characters are its `char_wb`. Words with pairs are one vectorizer, characters another: each part of a row has norm 1.

use std::collections::HashMap;

use rayon::prelude::*;

/// Characters of an n-gram within a word, the spaces around it counted.
const CHARACTERS: std::ops::RangeInclusive<usize> = 2..=5;

/// What texts are taken apart into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NGrams {
    /// Words and pairs of neighbours.
    Words,
    /// These, and two to five characters within words.
    WordsAndCharacters,
}

/// A text's n-grams: their numbers, ascending, and their weights.
pub(super) type Row = Vec<(u32, f32)>;

/// The n-grams of the training texts. Their numbers: first the words, then the pairs, then the characters, each in the order
/// they come in.
#[derive(Clone, Debug, Default)]
pub(super) struct Vocabulary {
    words: HashMap<Box<str>, u32>,
    pairs: HashMap<(u32, u32), u32>,
    characters: HashMap<Box<str>, u32>,
    /// Those of each word; empty where characters do not count.
    of_words: Vec<Box<[u32]>>,
    /// The inverse document frequency of each n-gram.
    pub idf: Vec<f32>,
}

impl Vocabulary {
    /// The n-grams of texts, and the texts as rows of them.
    pub fn of(texts: &[&str], ngrams: NGrams) -> (Self, Vec<Row>) {
        let mut vocabulary = Self::default();
        for chunk in texts.chunks(4096) {
            let lower: Vec<String> = chunk.par_iter().map(|text| text.to_lowercase()).collect();
            for text in &lower {
                vocabulary.add(text, ngrams);
            }
        }
        let counts: Vec<Vec<(u32, u32)>> = texts.par_iter().map(|text| vocabulary.counts(text)).collect();
        let mut texts_with = vec![0_u32; vocabulary.count()];
        for (number, _) in counts.iter().flatten() {
            texts_with[*number as usize] += 1;
        }
        let all = 1.0 + texts.len() as f64;
        let idf = |with: &u32| ((all / (1.0 + f64::from(*with))).ln() + 1.0) as f32;
        vocabulary.idf = texts_with.iter().map(idf).collect();
        let rows = counts.par_iter().map(|counts| vocabulary.weighed(counts)).collect();
        (vocabulary, rows)
    }

    /// One that was stored: the words, the pairs as two of their numbers, the characters. `None` where something stands there
    /// twice, or a pair has no words.
    pub fn stored(
        words: &[String],
        pairs: &[(u32, u32)],
        characters: &[String],
        idf: Vec<f32>,
    ) -> Option<Self> {
        let counts = [words.len(), pairs.len(), characters.len()];
        let numbered = |names: &[String]| -> HashMap<Box<str>, u32> {
            names.iter().enumerate().map(|(number, name)| (name.as_str().into(), number as u32)).collect()
        };
        let mut vocabulary = Self {
            words: numbered(words),
            pairs: pairs.iter().enumerate().map(|(number, pair)| (*pair, number as u32)).collect(),
            characters: numbered(characters),
            of_words: Vec::new(),
            idf,
        };
        let found = [vocabulary.words.len(), vocabulary.pairs.len(), vocabulary.characters.len()];
        let known = |number: u32| (number as usize) < words.len();
        if found != counts || !pairs.iter().all(|&(first, second)| known(first) && known(second)) {
            return None;
        }
        if !characters.is_empty() {
            let of_word = |word: &String| vocabulary.known_characters(word).collect();
            vocabulary.of_words = words.iter().map(of_word).collect();
        }
        (vocabulary.idf.len() == vocabulary.count()).then_some(vocabulary)
    }

    /// What [`Self::stored`] takes: the words, the pairs, the characters, each in order.
    pub fn parts(&self) -> (Vec<&str>, Vec<(u32, u32)>, Vec<&str>) {
        fn ordered<K>(map: &HashMap<K, u32>) -> impl Iterator<Item = &K> {
            let mut all: Vec<(&K, u32)> = map.iter().map(|(key, &number)| (key, number)).collect();
            all.sort_unstable_by_key(|&(_, number)| number);
            all.into_iter().map(|(key, _)| key)
        }
        (
            ordered(&self.words).map(|word| &**word).collect(),
            ordered(&self.pairs).copied().collect(),
            ordered(&self.characters).map(|gram| &**gram).collect(),
        )
    }

    /// How many n-grams there are.
    pub fn count(&self) -> usize {
        self.words.len() + self.pairs.len() + self.characters.len()
    }

    /// A text as a row; what the training texts have not is nothing.
    pub fn row(&self, text: &str) -> Row {
        self.weighed(&self.counts(text))
    }

    /// Numbers what is new in a text, which is in small letters.
    fn add(&mut self, lower: &str, ngrams: NGrams) {
        let mut before = None;
        for word in words(lower) {
            let number = match self.words.get(word) {
                Some(&number) => number,
                None => self.add_word(word, ngrams),
            };
            if let Some(before) = before {
                let next = self.pairs.len() as u32;
                self.pairs.entry((before, number)).or_insert(next);
            }
            before = Some(number);
        }
    }

    fn add_word(&mut self, word: &str, ngrams: NGrams) -> u32 {
        let number = self.words.len() as u32;
        self.words.insert(word.into(), number);
        if ngrams == NGrams::WordsAndCharacters {
            let mut found = Vec::new();
            each_characters(word, |gram| {
                let next = self.characters.len() as u32;
                let known = self.characters.get(gram).copied();
                found.push(known.unwrap_or_else(|| {
                    self.characters.insert(gram.into(), next);
                    next
                }));
            });
            self.of_words.push(found.into());
        }
        number
    }

    /// The numbers of a word's characters, as far as they are known.
    fn known_characters(&self, word: &str) -> impl Iterator<Item = u32> + use<> {
        let mut found = Vec::new();
        if !self.characters.is_empty() {
            each_characters(word, |gram| found.extend(self.characters.get(gram).copied()));
        }
        found.into_iter()
    }

    /// How often each n-gram stands in a text, in the order of their numbers.
    fn counts(&self, text: &str) -> Vec<(u32, u32)> {
        let lower = text.to_lowercase();
        let pairs_from = self.words.len() as u32;
        let characters_from = pairs_from + self.pairs.len() as u32;
        let mut numbers: Vec<u32> = Vec::new();
        let mut before = None;
        for word in words(&lower) {
            let number = self.words.get(word).copied();
            match number {
                Some(number) => {
                    numbers.push(number);
                    let grams = self.of_words.get(number as usize).into_iter().flatten();
                    numbers.extend(grams.map(|gram| characters_from + gram));
                }
                None => numbers.extend(self.known_characters(word).map(|gram| characters_from + gram)),
            }
            if let (Some(before), Some(number)) = (before, number) {
                numbers.extend(self.pairs.get(&(before, number)).map(|pair| pairs_from + pair));
            }
            before = number;
        }
        numbers.sort_unstable();
        let mut counts: Vec<(u32, u32)> = Vec::with_capacity(numbers.len());
        for number in numbers {
            match counts.last_mut() {
                Some((last, count)) if *last == number => *count += 1,
                _ => counts.push((number, 1)),
            }
        }
        counts
    }

    /// Counts as weights; words with pairs, and characters, of norm 1 each.
    fn weighed(&self, counts: &[(u32, u32)]) -> Row {
        let characters_from = (self.words.len() + self.pairs.len()) as u32;
        let (of_words, of_characters) =
            counts.split_at(counts.partition_point(|(number, _)| *number < characters_from));
        let mut row = Row::with_capacity(counts.len());
        for part in [of_words, of_characters] {
            let weight = |&(number, count): &(u32, u32)| {
                (1.0 + f64::from(count).ln()) * f64::from(self.idf[number as usize])
            };
            let norm = part.iter().map(|count| weight(count).powi(2)).sum::<f64>().sqrt();
            row.extend(part.iter().map(|count| (count.0, (weight(count) / norm) as f32)));
        }
        row
    }
}

/// What stands between spaces, as Python knows them.
fn words(text: &str) -> impl Iterator<Item = &str> {
    let space = |c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c);
    text.split(space).filter(|word| !word.is_empty())
}

/// The n-grams of a word with a space on both sides; a word that is not longer than some length is an n-gram once.
fn each_characters(word: &str, mut then: impl FnMut(&str)) {
    let spaced = format!(" {word} ");
    let ends: Vec<usize> =
        spaced.char_indices().map(|(at, _)| at).chain(std::iter::once(spaced.len())).collect();
    for length in CHARACTERS {
        for gram in ends.windows((length + 1).min(ends.len())) {
            if let (Some(&from), Some(&to)) = (gram.first(), gram.last()) {
                then(&spaced[from..to]);
            }
        }
        if length + 1 >= ends.len() {
            break;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ngrams_are_those_of_the_texts() {
        let (vocabulary, rows) = Vocabulary::of(&["Who's there?\tWHO", "", "who"], NGrams::Words);
        let (words, pairs, characters) = vocabulary.parts();
        assert_eq!(words, ["who's", "there?", "who"]);
        assert_eq!((pairs, characters.len()), (vec![(0, 1), (1, 2)], 0));
        assert_eq!((rows[0].len(), rows[1].len(), rows[2].len()), (5, 0, 1));
        assert_eq!(vocabulary.row("unheard of"), []);
        // "who" is in two of three texts and weighs ln(4 / 3) + 1, the others ln(4 / 2) + 1.
        let weights: Vec<f64> = rows[0].iter().map(|&(_, weight)| f64::from(weight)).collect();
        assert!((weights.iter().map(|w| w * w).sum::<f64>() - 1.0).abs() < 1e-6);
        let expected = ((4.0_f64 / 2.0).ln() + 1.0) / ((4.0_f64 / 3.0).ln() + 1.0);
        assert!((weights[0] / weights[2] - expected).abs() < 1e-6);
    }

    #[test]
    fn characters_stand_within_words() {
        let of = |word: &str| {
            let mut found = Vec::new();
            each_characters(word, |gram| found.push(gram.to_owned()));
            found
        };
        assert_eq!(of("a"), [" a", "a ", " a "]);
        assert_eq!(of("\u{e9}b"), [" \u{e9}", "\u{e9}b", "b ", " \u{e9}b", "\u{e9}b ", " \u{e9}b "]);
        assert_eq!(of("abc").len(), 4 + 3 + 2 + 1);
    }

    #[test]
    fn a_stored_vocabulary_is_the_same() {
        let texts = ["the sea the sea", "a hill by the sea"];
        let (vocabulary, rows) = Vocabulary::of(&texts, NGrams::WordsAndCharacters);
        let (words, pairs, characters) = vocabulary.parts();
        let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
        let (words, characters) = (owned(&words), owned(&characters));
        let stored = |words: &[String], pairs: &[(u32, u32)]| {
            Vocabulary::stored(words, pairs, &characters, vocabulary.idf.clone())
        };
        let again = stored(&words, &pairs).unwrap();
        assert_eq!(texts.map(|text| again.row(text)).to_vec(), rows);
        assert_eq!(again.row("seaside"), vocabulary.row("seaside"));
        assert!(!again.row("seaside").is_empty());
        let mut twice = words.clone();
        twice[1] = twice[0].clone();
        assert!(stored(&twice, &pairs).is_none());
        let mut outside = pairs.clone();
        outside[0].1 = words.len() as u32;
        assert!(stored(&words, &outside).is_none());
        assert!(stored(&words[1..], &[]).is_none());
    }
}
