//! Confident learning: which labels the other examples contradict (Northcutt, Jiang, Chuang 2021).
//!
//! Owns: how many labels are in doubt and which, as cleanlab's `find_label_issues` with its default
//! `filter_by="prune_by_noise_rate"`, ranked by `"self_confidence"`. Never: fits anything.

/// What rounding may do to a probability.
const ROUNDING: f64 = 1e-6;

/// A label that may be wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Doubt {
    /// The example.
    pub example: usize,
    /// The class that it looks like.
    pub suggested: u32,
    /// The probability of its own label: the lower, the worse.
    pub given: f64,
    /// That of the suggested class.
    pub other: f64,
}

/// The examples whose label is in doubt, the worst first. `probabilities` are of classifiers that have not seen the example.
///
/// A class's threshold is the mean probability of it among the examples with its label. An example is confidently of a class when
/// it reaches that class's threshold; of several, of the likeliest. The counts of these, label by class, are scaled up to all
/// examples of each label: so many of a label are doubted for a class, those with the largest margin between the two. None is
/// whose label is its likeliest class.
///
/// # Panics
/// When there are not as many labels as rows of probabilities, or a label is no class.
pub fn doubts(probabilities: &[Vec<f64>], labels: &[u32]) -> Vec<Doubt> {
    assert_eq!(probabilities.len(), labels.len(), "a label for each row");
    let count = probabilities.first().map_or(0, Vec::len);
    let mut of_label: Vec<Vec<usize>> = vec![Vec::new(); count];
    for (example, &label) in labels.iter().enumerate() {
        of_label[label as usize].push(example);
    }
    let thresholds: Vec<f64> = of_label
        .iter()
        .enumerate()
        .map(|(class, examples)| {
            let sum: f64 = examples.iter().map(|&example| probabilities[example][class]).sum();
            // No probability reaches that of a class without examples.
            if examples.is_empty() { 2.0 } else { (sum / examples.len() as f64).max(ROUNDING) }
        })
        .collect();
    let mut doubted = vec![false; labels.len()];
    let all_scaled = scaled(probabilities, &of_label, &thresholds);
    for ((label, examples), doubts) in of_label.iter().enumerate().zip(all_scaled) {
        if examples.len() < 2 {
            continue;
        }
        for (class, &many) in doubts.iter().enumerate().filter(|(class, many)| *class != label && **many > 0)
        {
            let margin = |example: usize| probabilities[example][class] - probabilities[example][label];
            let mut by_margin = examples.clone();
            by_margin.sort_by(|&a, &b| margin(b).total_cmp(&margin(a)));
            by_margin.iter().take(many).for_each(|&example| doubted[example] = true);
        }
    }
    let mut found: Vec<Doubt> = probabilities
        .iter()
        .zip(labels)
        .enumerate()
        .filter(|(example, _)| doubted[*example])
        .map(|(example, (row, &label))| {
            let given = row[label as usize];
            let suggested = likeliest(row);
            Doubt { example, suggested: suggested as u32, given, other: row[suggested] }
        })
        .filter(|doubt| doubt.suggested != labels[doubt.example] && doubt.other > doubt.given + ROUNDING)
        .collect();
    found.sort_by(|a, b| a.given.total_cmp(&b.given).then(a.example.cmp(&b.example)));
    found
}

/// How many examples of each label are of each class: the confident ones, scaled up to all.
fn scaled(probabilities: &[Vec<f64>], of_label: &[Vec<usize>], thresholds: &[f64]) -> Vec<Vec<usize>> {
    let count = thresholds.len();
    let row = |(label, examples): (usize, &Vec<usize>)| -> Vec<f64> {
        let mut counts = vec![0.0; count];
        for &example in examples {
            let row = &probabilities[example];
            let mut confident = (0..count).filter(|&class| row[class] >= thresholds[class] - ROUNDING);
            match (confident.next(), confident.next()) {
                (Some(one), None) => counts[one] += 1.0,
                (Some(_), Some(_)) => counts[likeliest(row)] += 1.0,
                (None, _) => {}
            }
        }
        // At least one example of each label is taken to be right.
        counts[label] = f64::max(counts[label], 1.0);
        let sum: f64 = counts.iter().sum();
        counts.iter().map(|counted| counted / sum * examples.len() as f64).collect()
    };
    of_label.iter().enumerate().map(row).map(|counts| rounded(&counts)).collect()
}

/// Whole numbers with the same sum: those that rounding took most from get back what is missing.
fn rounded(counts: &[f64]) -> Vec<usize> {
    let mut whole: Vec<f64> = counts.iter().map(|count| count.round_ties_even()).collect();
    let sum = counts.iter().sum::<f64>().round_ties_even();
    loop {
        let missing = sum - whole.iter().sum::<f64>();
        if missing.abs() < 0.5 {
            break;
        }
        let lost = |at: &usize| (counts[*at] - whole[*at]) * missing.signum();
        let mut order: Vec<usize> = (0..counts.len()).collect();
        // Of equal ones, the last is raised first and the first is lowered first, as there.
        if missing > 0.0 {
            order.reverse();
        }
        order.sort_by(|a, b| lost(b).total_cmp(&lost(a)));
        for &at in order.iter().take(missing.abs() as usize) {
            whole[at] += missing.signum();
        }
    }
    whole.iter().map(|count| count.max(0.0) as usize).collect()
}

/// The class with the highest probability; of equal ones the first.
fn likeliest(row: &[f64]) -> usize {
    (1..row.len()).fold(0, |best, class| if row[class] > row[best] { class } else { best })
}
