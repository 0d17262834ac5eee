//! Axes and the numbers at them.
//!
//! Owns: the range of an axis, its ticks, how numbers are written. Never: knows where on the page they stand.

/// Values beyond this are not drawn, so that differences of two of them stay finite.
pub(super) const LARGEST: f64 = 1e300;

/// The part of the number line that a chart shows.
#[derive(Clone, Debug)]
pub(super) struct Axis {
    pub(super) low: f64,
    pub(super) high: f64,
    /// Multiples of 1, 2 or 5 times a power of ten, from `low` to `high`.
    pub(super) ticks: Vec<f64>,
    step: f64,
    /// Whether equal ratios are equal ways.
    ratios: bool,
}

impl Axis {
    /// The axis along: from the first value to the last; whole numbers get no ticks between them.
    pub(super) fn along(values: impl Iterator<Item = f64> + Clone, most_ticks: usize) -> Self {
        let whole = values.clone().all(|v| v.fract().abs() < 1e-9);
        let (low, high) = range(values, 0.1);
        let step = step(low, high, most_ticks);
        Self::new(low, high, if whole { step.max(1.0) } else { step })
    }

    /// The axis along by ratios, with ticks at the values themselves as far as they are apart. Values from 0 down stand at the low
    /// end.
    pub(super) fn of_ratios(values: impl Iterator<Item = f64>, most_ticks: usize) -> Self {
        let mut ticks: Vec<f64> = values.filter(|value| *value > 0.0).collect();
        ticks.sort_by(f64::total_cmp);
        let (low, high) = match (ticks.first(), ticks.last()) {
            (Some(&low), Some(&high)) if low < high => (low, high),
            (Some(&one), _) => (one / 2.0, one * 2.0),
            _ => (1.0, 10.0),
        };
        let mut axis = Self { low, high, ticks: Vec::new(), step: 1.0, ratios: true };
        for tick in ticks {
            let apart = |last: &f64| axis.share(tick) - axis.share(*last) >= 0.8 / most_ticks as f64;
            if axis.ticks.last().is_none_or(apart) {
                axis.ticks.push(tick);
            }
        }
        axis
    }

    /// The axis upwards: from a tick below all values to one above them.
    pub(super) fn upwards(values: impl Iterator<Item = f64>, most_ticks: usize) -> Self {
        let (low, high) = range(values, 0.35);
        let step = step(low, high, most_ticks);
        let (below, above) = ((low / step + 1e-9).floor() * step, (high / step - 1e-9).ceil() * step);
        Self::new(below, above, step)
    }

    fn new(low: f64, high: f64, step: f64) -> Self {
        let (first, last) = ((low / step - 1e-9).ceil(), (high / step + 1e-9).floor());
        // Not `low + k * step`: rounding errors would pile up, and zero would not be zero.
        let ticks = (0..=(last - first).max(0.0) as usize).map(|k| (first + k as f64) * step).collect();
        Self { low, high, ticks, step, ratios: false }
    }

    /// Where a value is, from 0 at the low end to 1 at the high one.
    pub(super) fn share(&self, value: f64) -> f64 {
        if self.ratios {
            let (low, high) = (self.low.ln(), self.high.ln());
            return ((value.max(self.low).ln() - low) / (high - low)).clamp(0.0, 1.0);
        }
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// What stands at a tick.
    pub(super) fn label(&self, tick: f64) -> String {
        if self.ratios {
            return number(tick);
        }
        if tick.abs() < self.step * 0.5 {
            return "0".into();
        }
        let largest = self.low.abs().max(self.high.abs());
        if !(1e-4..1e7).contains(&largest) {
            let digits = (tick.abs().log10().floor() - self.step.log10().floor()).max(0.0);
            return scientific(tick, digits as usize);
        }
        let decimals = (-(self.step * 1.000_001).log10().floor()).max(0.0) as usize;
        grouped(tick, decimals)
    }
}

/// Lowest and highest value, set apart if they are one, and down to zero if that is not `far`: a share of the highest.
fn range(values: impl Iterator<Item = f64>, far: f64) -> (f64, f64) {
    let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
    for value in values {
        (low, high) = (low.min(value), high.max(value));
    }
    if low > high {
        return (0.0, 1.0);
    }
    let size = low.abs().max(high.abs());
    if high - low <= size * 1e-9 {
        let margin = if size > 0.0 { size * 0.1 } else { 1.0 };
        return (low - margin, high + margin);
    }
    (if low > 0.0 && low < far * high { 0.0 } else { low }, high)
}

/// The smallest of 1, 2 and 5 times a power of ten that makes at most so many steps.
fn step(low: f64, high: f64, most: usize) -> f64 {
    let least = ((high - low) / most as f64).max(f64::MIN_POSITIVE);
    let power = 10f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0].into_iter().map(|m| m * power).find(|step| *step >= least).unwrap_or(10.0 * power)
}

/// A measured value as tables show it: four digits that count, more where a number is whole.
pub(super) fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        return "\u{2013}".into();
    }
    if size < 1e15 && value.fract().abs() < f64::MIN_POSITIVE {
        return grouped(value, 0);
    }
    match size {
        _ if !(1e-3..1e9).contains(&size) => scientific(value, 3),
        _ if size >= 1e3 => grouped(value, 0),
        _ if size >= 1e2 => grouped(value, 1),
        _ if size >= 1e1 => grouped(value, 2),
        _ if size >= 1.0 => grouped(value, 3),
        _ => grouped(value, 4),
    }
}

/// 12345.678 with one decimal -> "12,345.7".
fn grouped(value: f64, decimals: usize) -> String {
    let digits = format!("{:.decimals$}", value.abs());
    let whole = digits.split('.').next().unwrap_or_default().len();
    // A number that was rounded to zero has no sign.
    let negative = value < 0.0 && digits.contains(|c: char| ('1'..='9').contains(&c));
    let mut out = String::from(if negative { "\u{2212}" } else { "" });
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && i < whole && (whole - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// 0.000025 with three digits behind the point -> "2.5e-5".
fn scientific(value: f64, digits: usize) -> String {
    if value.abs() < f64::MIN_POSITIVE {
        return "0".into();
    }
    let text = format!("{value:.digits$e}").replace('-', "\u{2212}");
    match text.split_once('e') {
        Some((mantissa, exponent)) if mantissa.contains('.') => {
            format!("{}e{exponent}", mantissa.trim_end_matches('0').trim_end_matches('.'))
        }
        _ => text,
    }
}
