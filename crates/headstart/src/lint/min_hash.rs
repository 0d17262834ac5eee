//! Texts that are almost the same, found in linear time: MinHash of character shingles, in bands.
//!
//! Owns: what "almost the same" is: the sets of five-character pieces of two texts, in small letters and without punctuation,
//! share at least [`ALIKE`] of their union. Never: labels, splits.

use std::collections::HashMap;

use rayon::prelude::*;

/// Jaccard similarity of two texts that are nearly one.
pub(super) const ALIKE: f64 = 0.8;
/// Characters of a shingle.
const SHINGLE: usize = 5;
/// Two texts are compared when two bands of four hashes are equal: at a similarity of 0.8 that is missed three times in a
/// thousand, at 0.5 it happens in one of four.
const BANDS: usize = 16;
const ROWS: usize = 4;
const EQUAL_BANDS: usize = 2;
/// Characters of a text that are looked at.
const MOST_CHARACTERS: usize = 20_000;

type Bands = [u32; BANDS];

/// Groups of texts each of which is almost the same as another of its group, as ascending indices, in the order of their
/// first texts. Texts without letters or digits are in none.
pub(super) fn clusters(texts: &[String]) -> Vec<Vec<usize>> {
    let bands: Vec<Option<Bands>> = texts.par_iter().map(|text| bands(&shingles(text))).collect();
    let mut sets = Sets::new(texts.len());
    for band in 0..BANDS {
        // Of each bucket the first text and the last so far: no bucket costs more than it has texts.
        let mut buckets: HashMap<u32, (usize, usize)> = HashMap::new();
        for (at, own) in bands.iter().enumerate() {
            let Some(own) = own else { continue };
            let Some((first, last)) = buckets.get_mut(&own[band]) else {
                buckets.insert(own[band], (at, at));
                continue;
            };
            for other in [*first, *last] {
                if sets.root(other) != sets.root(at)
                    && bands[other].is_some_and(|other| equal(&other, own) >= EQUAL_BANDS)
                    && similarity(&shingles(&texts[other]), &shingles(&texts[at])) >= ALIKE
                {
                    sets.join(other, at);
                }
            }
            *last = at;
        }
    }
    sets.groups()
}

/// How many bands are the same.
fn equal(one: &Bands, other: &Bands) -> usize {
    one.iter().zip(other).filter(|(one, other)| one == other).count()
}

/// The Jaccard similarity of two sets, which are sorted.
fn similarity(one: &[u32], other: &[u32]) -> f64 {
    let (mut at, mut with, mut both) = (0, 0, 0);
    while at < one.len() && with < other.len() {
        match one[at].cmp(&other[with]) {
            std::cmp::Ordering::Less => at += 1,
            std::cmp::Ordering::Greater => with += 1,
            std::cmp::Ordering::Equal => (at, with, both) = (at + 1, with + 1, both + 1),
        }
    }
    f64::from(both) / (one.len() + other.len() - both as usize).max(1) as f64
}

/// The hashes of a text's shingles, sorted, each once.
fn shingles(text: &str) -> Vec<u32> {
    let mut plain: Vec<char> = Vec::new();
    for c in text.chars().take(MOST_CHARACTERS).flat_map(char::to_lowercase) {
        match c.is_alphanumeric() {
            true => plain.push(c),
            false if plain.last().is_some_and(|last| *last != ' ') => plain.push(' '),
            false => {}
        }
    }
    if plain.last() == Some(&' ') {
        plain.pop();
    }
    let hash = |piece: &[char]| {
        let mixed = piece.iter().fold(0xCBF2_9CE4_8422_2325_u64, |hash, &c| {
            (hash ^ u64::from(u32::from(c))).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(23)
        });
        (mixed ^ mixed >> 32) as u32
    };
    let mut all: Vec<u32> = match plain.len() {
        0 => Vec::new(),
        1..SHINGLE => vec![hash(&plain)],
        _ => plain.windows(SHINGLE).map(hash).collect(),
    };
    all.sort_unstable();
    all.dedup();
    all
}

/// Of each hash function the least value over the shingles, four to a band.
fn bands(shingles: &[u32]) -> Option<Bands> {
    let mut least = [u32::MAX; BANDS * ROWS];
    for &shingle in shingles {
        for (number, least) in least.iter_mut().enumerate() {
            // A permutation of 32-bit numbers each: odd factors, and shifts that are undone.
            let mixed = (shingle ^ (number as u32).wrapping_mul(0x9E37_79B1)).wrapping_mul(0x85EB_CA6B);
            let mixed = (mixed ^ mixed >> 15).wrapping_mul(0xC2B2_AE35);
            *least = (*least).min(mixed ^ mixed >> 16);
        }
    }
    if shingles.is_empty() {
        return None;
    }
    let mut bands = [0; BANDS];
    for (band, least) in bands.iter_mut().zip(least.chunks_exact(ROWS)) {
        *band = least
            .iter()
            .fold(0x811C_9DC5, |hash: u32, value| (hash ^ value).wrapping_mul(0x0100_0193).rotate_left(13));
    }
    Some(bands)
}

/// Sets that are joined.
struct Sets {
    parent: Vec<usize>,
}

impl Sets {
    fn new(count: usize) -> Self {
        Self { parent: (0..count).collect() }
    }

    fn root(&mut self, mut at: usize) -> usize {
        while self.parent[at] != at {
            self.parent[at] = self.parent[self.parent[at]];
            at = self.parent[at];
        }
        at
    }

    fn join(&mut self, one: usize, other: usize) {
        let (one, other) = (self.root(one), self.root(other));
        self.parent[one.max(other)] = one.min(other);
    }

    fn groups(mut self) -> Vec<Vec<usize>> {
        let mut of_root: HashMap<usize, Vec<usize>> = HashMap::new();
        for at in 0..self.parent.len() {
            of_root.entry(self.root(at)).or_default().push(at);
        }
        let mut groups: Vec<Vec<usize>> = of_root.into_values().filter(|group| group.len() > 1).collect();
        groups.sort_unstable();
        groups
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_almost_the_same_is_found_and_nothing_else() {
        let texts = [
            "The old mill stood beside the river for two hundred years",
            "the old mill, stood beside the river for two hundred years!",
            "The old mill stood beside the river for three hundred years",
            "A completely different sentence about something else entirely",
            "",
            "?!",
            "No",
            "no.",
        ]
        .map(str::to_owned);
        let alike = similarity(&shingles(&texts[0]), &shingles(&texts[2]));
        assert!((0.7..0.85).contains(&alike), "{alike}");
        let mut groups = clusters(&texts);
        groups[0].retain(|at| *at != 2);
        assert_eq!(groups, [vec![0, 1], vec![6, 7]]);
    }

    #[test]
    fn bands_find_what_every_pair_compared_would_find() {
        // Texts of random words, each with a copy of which some words are others.
        let mut state = 7_u64;
        let mut random = |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        let mut texts = Vec::new();
        for text in 0..300 {
            let words: Vec<String> = (0..30).map(|_| format!("word{}", random(5000))).collect();
            let mut copy = words.clone();
            for _ in 0..text % 4 {
                copy[random(30)] = format!("other{}", random(5000));
            }
            texts.extend([words.join(" "), copy.join(" ")]);
        }
        let sets: Vec<Vec<u32>> = texts.iter().map(|text| shingles(text)).collect();
        let mut expected = Vec::new();
        for at in 0..sets.len() {
            for with in at + 1..sets.len() {
                if similarity(&sets[at], &sets[with]) >= ALIKE {
                    expected.push(vec![at, with]);
                }
            }
        }
        assert!(expected.len() > 100, "{}", expected.len());
        let found = clusters(&texts);
        let missed = expected.iter().filter(|pair| !found.contains(pair)).count();
        assert!(missed <= 3 && found.iter().all(|pair| expected.contains(pair)), "{missed} missed");
    }
}
