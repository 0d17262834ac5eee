//! How far a metric might have been off: 95 % intervals by the bootstrap (Efron 1979), the same each time.
//!
//! Owns: drawing examples again, and the share of the draws that is left out at either end. Never: a metric.

use headstart_engine::rng::{Stream, derive};

/// How often the examples are drawn again.
pub const RESAMPLES: usize = 1_000;
/// The interval leaves out this share of the draws at either end.
const TAIL: f64 = 0.025;
/// Normal deviations to either side that hold 95 %.
const DEVIATIONS: f64 = 1.959_963_984_540_054;
/// All intervals are drawn with it.
const SEED: u64 = 0x0068_6561_6473_7461;

/// From and to.
pub type Interval = [f64; 2];

/// The random numbers of draw `which`.
pub fn stream(which: usize) -> Stream {
    Stream::new(derive(SEED, which as u64))
}

/// The interval that holds the middle 95 % of values, which are put in order; between two neighbours as NumPy's `percentile`.
/// `None` where there are none, or some are no numbers.
pub fn middle(values: &mut [f64]) -> Option<Interval> {
    if values.is_empty() || values.iter().any(|value| value.is_nan()) {
        return None;
    }
    values.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| {
        let place = share * (values.len() - 1) as f64;
        let (below, above) = (place.floor() as usize, place.ceil() as usize);
        values[below] + (values[above] - values[below]) * place.fract()
    };
    Some([at(TAIL), at(1.0 - TAIL)])
}

/// Wilson's interval (1927) of a share that is 0 or 1, of which drawing again learns nothing.
pub fn of_no_exception(share: f64, n: u64) -> Interval {
    let far = DEVIATIONS.powi(2);
    let least = far / (n as f64 + far);
    if share > 0.5 { [1.0 - least, 1.0] } else { [0.0, least] }
}

/// Draws as many examples as there are, with replacement: how many come from each cell, whose `counts` say how many it has. Cell by cell
/// from the binomial distribution of what is left, which costs the same for any number of examples.
pub fn draw_cells(counts: &[u64], random: &mut Stream, drawn: &mut [u64]) {
    let mut left: u64 = counts.iter().sum();
    let mut of = left;
    for (count, drawn) in counts.iter().zip(drawn) {
        *drawn = if *count == of { left } else { binomial(left, *count as f64 / of as f64, random) };
        left -= *drawn;
        of -= count;
    }
}

/// How many of `n` trials succeed, each with probability `p`: outwards from the most likely number, until the probabilities add up to a random
/// one.
fn binomial(n: u64, p: f64, random: &mut Stream) -> u64 {
    if n == 0 || p <= 0.0 {
        return 0;
    }
    if p > 0.5 {
        return n - binomial(n, 1.0 - p, random);
    }
    let odds = p / (1.0 - p);
    let middle = ((n + 1) as f64 * p).floor().min(n as f64) as u64;
    let chance = (ln_factorial(n) - ln_factorial(middle) - ln_factorial(n - middle)
        + middle as f64 * p.ln()
        + (n - middle) as f64 * (-p).ln_1p())
    .exp();
    let mut rest = random.uniform() - chance;
    let (mut low, mut low_chance) = (middle, chance);
    let (mut high, mut high_chance) = (middle, chance);
    while rest >= 0.0 {
        // What is left is rounding.
        if low_chance + high_chance < 1e-300 {
            return middle;
        }
        high_chance *= (n - high) as f64 / (high + 1) as f64 * odds;
        high += u64::from(high < n);
        rest -= high_chance;
        if rest < 0.0 {
            return high;
        }
        low_chance *= low as f64 / ((n - low + 1) as f64 * odds);
        low = low.saturating_sub(1);
        rest -= low_chance;
        if rest < 0.0 {
            return low;
        }
    }
    middle
}

/// Stirling's series from 16 on, which is exact to the last digits there.
fn ln_factorial(n: u64) -> f64 {
    if n < 16 {
        return (2..=n).map(|k| k as f64).product::<f64>().ln();
    }
    let x = n as f64;
    let series = 1.0 / (12.0 * x) - 1.0 / (360.0 * x.powi(3)) + 1.0 / (1260.0 * x.powi(5));
    x * x.ln() - x + 0.5 * (std::f64::consts::TAU * x).ln() + series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binomials_have_their_mean_and_spread() {
        for (n, p) in [(1, 0.5), (7, 0.1), (500, 0.02), (500, 0.93), (100_000, 0.3)] {
            let mut random = stream(1);
            let draws: Vec<f64> = (0..20_000).map(|_| binomial(n, p, &mut random) as f64).collect();
            let mean = draws.iter().sum::<f64>() / draws.len() as f64;
            let spread = draws.iter().map(|d| (d - mean).powi(2)).sum::<f64>() / draws.len() as f64;
            let (expected, variance) = (n as f64 * p, n as f64 * p * (1.0 - p));
            assert!((mean - expected).abs() < 4.0 * (variance / 20_000.0).sqrt(), "{n} {p}: {mean}");
            assert!((spread / variance - 1.0).abs() < 0.05, "{n} {p}: {spread} {variance}");
        }
    }

    /// The oracle: `math.lgamma` and `numpy.percentile`.
    #[test]
    fn factorials_and_percentiles() {
        for (n, expected) in [
            (1, 0.0),
            (15, 27.899_271_383_840_89),
            (16, 30.671_860_106_080_675),
            (1000, 5_912.128_178_488_163),
        ] {
            assert!((ln_factorial(n) - expected).abs() < 1e-9 * expected.max(1.0), "{n}");
        }
        let mut values = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0];
        let [low, high] = middle(&mut values).unwrap();
        assert!((low - 1.0).abs() < 1e-12 && (high - 8.475).abs() < 1e-12, "{low} {high}");
        assert_eq!(middle(&mut [1.0, f64::NAN]), None);
    }

    /// The oracle: `proportion_confint(method="wilson")` of statsmodels.
    #[test]
    fn what_has_no_exception_is_not_certain() {
        let [low, high] = of_no_exception(1.0, 50);
        assert!((low - 0.928_651_936_158_489).abs() < 1e-6 && (high - 1.0).abs() < 1e-15, "{low}");
        assert!((of_no_exception(0.0, 50)[1] - 0.071_348_063_841_511).abs() < 1e-6);
    }

    #[test]
    fn a_draw_has_as_many_examples() {
        let counts = [3, 0, 90, 7];
        let (mut drawn, mut sums) = ([0; 4], [0.0; 4]);
        for which in 0..2_000 {
            draw_cells(&counts, &mut stream(which), &mut drawn);
            assert_eq!(drawn.iter().sum::<u64>(), 100);
            sums.iter_mut().zip(drawn).for_each(|(sum, n)| *sum += n as f64 / 2_000.0);
        }
        for (mean, count) in sums.iter().zip(counts) {
            assert!((mean - count as f64).abs() < 0.4, "{sums:?}");
        }
        assert_eq!(drawn[1], 0);
    }
}
