//! Drawing the next token from logits.
//!
//! Owns: temperature, top-k, top-p, the order of ids. Never: runs a model.

use headstart_engine::rng;

use crate::infer::GenerateConfig;

/// Draws a token: temperature, then top-k, then top-p (nucleus; Holtzman et al. 2020), then a draw.
pub(super) fn sample(logits: &[f32], config: &GenerateConfig, draws: &mut rng::Stream) -> usize {
    let mut ranking = Ranking::new(logits);
    let best = ranking.get(0);
    if config.temperature == 0.0 {
        return best;
    }
    let count = if config.top_k > 0 { config.top_k.min(logits.len()) } else { logits.len() };
    let highest = f64::from(logits[best]);
    let weight = |i: usize| ((f64::from(logits[i]) - highest) / config.temperature).exp();
    let total: f64 = if count < logits.len() {
        (0..count).map(|rank| weight(ranking.get(rank))).sum()
    } else {
        (0..count).map(weight).sum()
    };
    let (mut kept, mut sum) = (count, total);
    if config.top_p < 1.0 {
        (kept, sum) = (0, 0.0);
        while kept < count && (kept == 0 || sum / total < config.top_p) {
            sum += weight(ranking.get(kept));
            kept += 1;
        }
    }
    let mut rest = draws.uniform() * sum;
    for rank in 0..kept {
        let id = ranking.get(rank);
        rest -= weight(id);
        if rest < 0.0 {
            return id;
        }
    }
    ranking.get(kept - 1)
}

/// Ids by falling logit, equal ones by rising id; sorted only as far as somebody looks.
struct Ranking<'a> {
    logits: &'a [f32],
    order: Vec<usize>,
    sorted: usize,
}

impl<'a> Ranking<'a> {
    fn new(logits: &'a [f32]) -> Self {
        Self { logits, order: (0..logits.len()).collect(), sorted: 0 }
    }

    fn get(&mut self, rank: usize) -> usize {
        while rank >= self.sorted {
            let logits = self.logits;
            let falling = |a: &usize, b: &usize| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b));
            let rest = &mut self.order[self.sorted..];
            let next = (7 * self.sorted).max(64).min(rest.len());
            if next < rest.len() {
                rest.select_nth_unstable_by(next, falling);
            }
            rest[..next].sort_unstable_by(falling);
            self.sorted += next;
        }
        self.order[rank]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(temperature: f64, top_k: usize, top_p: f64) -> GenerateConfig {
        GenerateConfig { max_new_tokens: 1, temperature, top_k, top_p, seed: 0 }
    }

    #[test]
    fn sampling_keeps_to_its_limits() {
        let logits = [0.0_f32, 3.0, 1.0, 2.0, -4.0];
        let mut draws = rng::Stream::new(1);
        let mut seen = |config: &GenerateConfig| {
            let mut seen = [0; 5];
            for _ in 0..2_000 {
                seen[sample(&logits, config, &mut draws)] += 1;
            }
            seen
        };
        assert_eq!(seen(&config(0.0, 0, 1.0)), [0, 2_000, 0, 0, 0]);
        let two = seen(&config(1.0, 2, 1.0));
        assert!(two[1] > two[3] && two[3] > 300 && two[0] + two[2] + two[4] == 0, "{two:?}");
        let nucleus = seen(&config(1.0, 0, 0.8));
        assert!(nucleus[3] > 0 && nucleus[2] == 0, "{nucleus:?}");
        let all = seen(&config(1.0, 0, 1.0));
        let share = 2_000.0 * 1.0_f64.exp()
            / (1.0 + 3.0_f64.exp() + 1.0_f64.exp() + 2.0_f64.exp() + (-4.0_f64).exp());
        assert!((f64::from(all[2]) - share).abs() < 60.0, "{all:?} {share}");
    }

    #[test]
    fn a_ranking_is_a_stable_sort() {
        let mut draws = rng::Stream::new(2);
        let logits: Vec<f32> = (0..5_000).map(|_| draws.below(700) as f32).collect();
        let mut sorted: Vec<usize> = (0..logits.len()).collect();
        sorted.sort_by(|&a, &b| logits[b].total_cmp(&logits[a]));
        let mut ranking = Ranking::new(&logits);
        for rank in [0, 63, 64, 70, 511, 512, 4_999] {
            assert_eq!(ranking.get(rank), sorted[rank], "rank {rank}");
        }
        assert_eq!(ranking.order, sorted);
    }
}
