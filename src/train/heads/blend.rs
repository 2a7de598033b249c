//! What is made of the members of a head: which of them count, and how their log-odds become honest. All of it is chosen
//! on a window that the members did not learn from, by log-loss, and what is simpler stays unless it is clearly worse. One
//! window says little of the next: what it says of calibration is believed in part only.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "counts of users; served in single precision"
)]

use crate::model::{Curve, Habit, Platt, Weights};

/// Log-odds of each member (network, trees, BG/NBD) for one user of the window, and what happened.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Judged {
    pub(super) members: [f32; 3],
    pub(super) label: bool,
    /// Which half the user is in: what is fitted on one half is judged on the other.
    pub(super) half: bool,
}

/// What was chosen; the base rate of one half by default.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub(super) struct Choice {
    pub(super) weights: Weights,
    pub(super) curve: Curve,
}

/// Fewest outcomes of either kind that say which members are better. With fewer, the plainest one counts, and another must
/// be better beyond doubt.
const ENOUGH_OUTCOMES: usize = 40;

/// Standard errors by which losses must differ. Users are in a window several times, so that one error is less than it looks.
const CLEARLY: f64 = 2.0;

/// Chooses members and calibration. `available` says which members exist.
pub(super) fn choose(window: &[Judged], available: [bool; 3]) -> Choice {
    let happened = window.iter().filter(|judged| judged.label).count();
    let rarer = happened.min(window.len() - happened);
    let [network, trees, habit] = available;
    // From the richest to the plainest. Fixed shares of log-odds: learned ones were never better on a later window, and
    // trees had the lead over the network on every set tried.
    let mut candidates: Vec<Weights> = [
        (network && trees, [0.3, 0.7, 0.0]),
        (network && trees && habit, [0.3, 0.5, 0.2]),
        (trees, [0.0, 1.0, 0.0]),
        (network, [1.0, 0.0, 0.0]),
        (trees && habit, [0.0, 0.5, 0.5]),
        (habit, [0.0, 0.0, 1.0]),
        (true, [0.0, 0.0, 0.0]),
    ]
    .into_iter()
    .filter(|(exists, _)| *exists)
    .map(|(_, [network, trees, habit])| Weights { network, trees, habit })
    .collect();
    if rarer < ENOUGH_OUTCOMES {
        candidates.reverse();
    }
    let losses: Vec<Vec<f64>> =
        candidates.iter().map(|weights| crossed(&pairs(window, *weights), Some(false))).collect();
    let mut best = 0;
    for candidate in 1..candidates.len() {
        // What never, or always, happened tells no member from another.
        if rarer > 0
            && clearly_less(&losses[candidate], &losses[0], CLEARLY)
            && mean(&losses[candidate]) < mean(&losses[best])
        {
            best = candidate;
        }
    }
    let weights = candidates[best];
    Choice { weights, curve: curve(&pairs(window, weights), rarer, weights == Weights::default()) }
}

/// The calibration of blended log-odds: none, Platt's or beta, the simplest that is not clearly worse.
fn curve(pairs: &[Pair], rarer: usize, base_rate: bool) -> Curve {
    if base_rate {
        let happened = pairs.iter().filter(|pair| pair.label).count() as f64;
        let offset = ((happened + 0.5) / (pairs.len() as f64 - happened + 0.5)).ln() as f32;
        // Blended log-odds are 0 here; both softplus terms cancel, the offset stays.
        return Curve { offset, ..Curve::default() };
    }
    if rarer < ENOUGH_OUTCOMES {
        return Curve::default();
    }
    let [plain, platt, beta] = [None, Some(false), Some(true)].map(|form| crossed(pairs, form));
    let mut chosen = (plain, None);
    for (losses, form) in [(platt, Some(false)), (beta, Some(true))] {
        if clearly_less(&losses, &chosen.0, CLEARLY) {
            chosen = (losses, form);
        }
    }
    chosen.1.map_or_else(Curve::default, |beta| believed(fit_curve(pairs, beta)))
}

/// What is kept of a calibration that one window asks for: a quarter where it is within what windows of one history differ by
/// anyway, all of it where it is twice as large, for then a member is broken, and a share between.
///
/// Measured on rolling origins of two histories, log-loss of the window after: a calibration kept whole was worse than none on
/// both, a quarter was never worse than none by more than the fifth digit; factors ranged from 0.87 to 1.12, offsets to 0.4.
fn believed(curve: Curve) -> Curve {
    const QUARTER: f32 = 0.25;
    const USUAL_LOG_FACTOR: f32 = 0.15;
    const USUAL_OFFSET: f32 = 0.4;
    let factors = curve.rise.ln().abs().max(curve.fall.ln().abs()) / USUAL_LOG_FACTOR;
    let times_usual = factors.max(curve.offset.abs() / USUAL_OFFSET);
    let share = QUARTER + (1.0 - QUARTER) * (times_usual - 1.0).clamp(0.0, 1.0);
    Curve { rise: curve.rise.powf(share), fall: curve.fall.powf(share), offset: share * curve.offset }
}

/// Blended log-odds of one user with what happened.
#[derive(Debug, Clone, Copy)]
struct Pair {
    log_odds: f64,
    label: bool,
    half: bool,
}

fn pairs(window: &[Judged], weights: Weights) -> Vec<Pair> {
    let blend = |[network, trees, habit]: [f32; 3]| {
        f64::from(weights.network * network) + f64::from(weights.trees * trees) + f64::from(weights.habit * habit)
    };
    let pair = |judged: &Judged| Pair { log_odds: blend(judged.members), label: judged.label, half: judged.half };
    window.iter().map(pair).collect()
}

/// Log-loss of each pair under a calibration fitted on the other half: none, or Platt's (`false`) or beta (`true`).
fn crossed(pairs: &[Pair], form: Option<bool>) -> Vec<f64> {
    let curves = [false, true].map(|half| {
        let others: Vec<Pair> = pairs.iter().filter(|pair| pair.half != half).copied().collect();
        form.map_or_else(Curve::default, |beta| fit_curve(&others, beta))
    });
    let loss = |pair: &Pair| {
        let x = curves[usize::from(pair.half)].log_odds(pair.log_odds);
        let wrong = if pair.label { -x } else { x };
        wrong.max(0.0) + (-wrong.abs()).exp().ln_1p()
    };
    pairs.iter().map(loss).collect()
}

/// Whether the first losses are less by more than `margin` standard errors of the difference.
fn clearly_less(first: &[f64], second: &[f64], margin: f64) -> bool {
    let count = first.len() as f64;
    if count < 2.0 {
        return false;
    }
    let differences: Vec<f64> = first.iter().zip(second).map(|(first, second)| first - second).collect();
    let middle = mean(&differences);
    let variance = differences.iter().map(|difference| (difference - middle).powi(2)).sum::<f64>() / (count - 1.0);
    middle < -margin * (variance / count).sqrt() && middle < -1e-9
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Fits a calibration by Newton's method: beta with three numbers, or Platt's, where `rise = fall`.
fn fit_curve(pairs: &[Pair], beta: bool) -> Curve {
    // Worth a handful of outcomes: keeps the numbers finite where the data say little.
    const PULL: f64 = 2.0;
    const LEAST: f64 = 0.05;
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    // Inputs of (rise, fall, offset); tied, the first is x and the second nothing.
    let inputs = |x: f64| if beta { [-softplus(-x), softplus(x), 1.0] } else { [x, 0.0, 1.0] };
    let start = [1.0, if beta { 1.0 } else { 0.0 }, 0.0];
    let mut point = start;
    for _ in 0..50 {
        let mut slope: [f64; 3] = std::array::from_fn(|place| PULL * (point[place] - start[place]));
        let mut bend = [[0.0; 3]; 3];
        for (place, row) in bend.iter_mut().enumerate() {
            row[place] = PULL;
        }
        for pair in pairs {
            let input = inputs(pair.log_odds);
            let x: f64 = input.iter().zip(point).map(|(input, factor)| input * factor).sum();
            let p = 1.0 / (1.0 + (-x).exp());
            for row in 0..3 {
                slope[row] += (p - f64::from(u8::from(pair.label))) * input[row];
                for column in 0..3 {
                    bend[row][column] += p * (1.0 - p) * input[row] * input[column];
                }
            }
        }
        let Some(step) = solve(bend, slope) else { break };
        let largest = step.iter().fold(0.0_f64, |largest, step| largest.max(step.abs()));
        let damping = if largest > 2.0 { 2.0 / largest } else { 1.0 };
        for (value, step) in point.iter_mut().zip(step) {
            *value -= damping * step;
        }
        point[0] = point[0].max(LEAST);
        if beta {
            point[1] = point[1].max(LEAST);
        }
        if largest < 1e-8 {
            break;
        }
    }
    let fall = if beta { point[1] } else { point[0] };
    Curve { rise: point[0] as f32, fall: fall as f32, offset: point[2] as f32 }
}

/// Solves `matrix · x = right` by elimination; `None` when it has no one solution.
fn solve(mut matrix: [[f64; 3]; 3], mut right: [f64; 3]) -> Option<[f64; 3]> {
    for place in 0..3 {
        let pivot = (place..3).max_by(|a, b| matrix[*a][place].abs().total_cmp(&matrix[*b][place].abs()))?;
        if matrix[pivot][place].abs() < 1e-12 {
            return None;
        }
        matrix.swap(place, pivot);
        right.swap(place, pivot);
        for row in place + 1..3 {
            let above = matrix[place];
            let factor = matrix[row][place] / above[place];
            for (value, above) in matrix[row].iter_mut().zip(above) {
                *value -= factor * above;
            }
            right[row] -= factor * right[place];
        }
    }
    let mut found = [0.0; 3];
    for place in (0..3).rev() {
        let known: f64 = (place + 1..3).map(|column| matrix[place][column] * found[column]).sum();
        found[place] = (right[place] - known) / matrix[place][place];
    }
    Some(found)
}

/// Fits BG/NBD's member: the probability of silence in the feature at `feature` as log-odds of the head. `rows` are raw
/// values of the feature with labels; `silence` says whether the head asks for silence.
pub(super) fn fit_habit(feature: usize, rows: &[(f32, bool)], silence: bool) -> Option<Habit> {
    let sign = if silence { 1.0 } else { -1.0 };
    let mut known = Vec::with_capacity(rows.len());
    let mut missing = [0.5_f64; 2];
    for (value, label) in rows {
        match Habit::silence_log_odds(*value) {
            Some(log_odds) => known.push((sign * log_odds, *label)),
            None => missing[usize::from(*label)] += 1.0,
        }
    }
    if known.is_empty() {
        return None;
    }
    let platt = Platt::fit(&known);
    // Nobody without a value: such a user is like the average one.
    if missing[0] + missing[1] < 1.5 {
        for (_, label) in rows {
            missing[usize::from(*label)] += 1.0;
        }
    }
    Some(Habit {
        feature,
        scale: sign * platt.scale,
        offset: platt.offset,
        missing: (missing[1] / missing[0]).ln() as f32,
    })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng};
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;

    /// Users whose outcome follows the true log-odds; each member sees them its own way.
    fn window(count: usize, see: impl Fn(f64, f64) -> [f32; 3]) -> Vec<Judged> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(9);
        (0..count)
            .map(|place| {
                let truth = random.random::<f64>() * 6.0 - 3.0;
                let label = random.random_bool(1.0 / (1.0 + (-truth).exp()));
                let noise = random.random::<f64>() * 4.0 - 2.0;
                Judged { members: see(truth, noise), label, half: place % 2 == 0 }
            })
            .collect()
    }

    #[test]
    fn a_useless_member_is_left_out_and_good_ones_are_averaged() {
        let alike = window(4_000, |truth, noise| [(truth + noise) as f32, (truth - noise) as f32, truth as f32]);
        assert_eq!(choose(&alike, [true, true, false]).weights, Weights { network: 0.3, trees: 0.7, habit: 0.0 });
        let broken = window(4_000, |truth, noise| [(9.0 * noise) as f32, truth as f32, 0.0]);
        assert_eq!(choose(&broken, [true, true, false]).weights, Weights { network: 0.0, trees: 1.0, habit: 0.0 });
    }

    #[test]
    fn noise_alone_says_about_the_base_rate() {
        let mut nothing = window(3_000, |_, noise| [(3.0 * noise) as f32, (-2.0 * noise) as f32, noise as f32]);
        for (place, judged) in nothing.iter_mut().enumerate() {
            judged.label = place % 10 < 3;
            judged.half = place % 7 < 3;
        }
        let Choice { weights, curve } = choose(&nothing, [true; 3]);
        for pair in pairs(&nothing, weights) {
            let p = 1.0 / (1.0 + (-curve.log_odds(pair.log_odds)).exp());
            assert!((p - 0.3).abs() < 0.06, "{p} {weights:?} {curve:?}");
        }
    }

    #[test]
    fn few_outcomes_or_one_kind_or_nobody_stay_finite_and_plain() {
        let few = window(30, |truth, noise| [noise as f32, noise as f32, truth as f32]);
        let choice = choose(&few, [true; 3]);
        assert!(choice.weights.network == 0.0 && choice.curve.log_odds(1.0).is_finite(), "{choice:?}");
        let mut one_kind = few;
        for judged in &mut one_kind {
            judged.label = false;
        }
        let choice = choose(&one_kind, [true, true, false]);
        assert!(choice.curve.log_odds(0.0) < -2.0, "{choice:?}");
        assert!(choose(&[], [false; 3]).curve.log_odds(0.0).abs() < 1e-6);
    }

    #[test]
    fn overconfidence_is_corrected_and_honesty_left_alone() {
        let honest = window(6_000, |truth, _| [truth as f32, truth as f32, 0.0]);
        let curve = choose(&honest, [true, true, false]).curve;
        assert!([-2.0, 0.0, 2.0].iter().all(|truth| (curve.log_odds(*truth) - truth).abs() < 0.15), "{curve:?}");
        let loud = window(6_000, |truth, _| [(3.0 * truth + 1.0) as f32, (3.0 * truth + 1.0) as f32, 0.0]);
        let curve = choose(&loud, [true, true, false]).curve;
        for truth in [-2.0, 0.0, 2.0] {
            assert!((curve.log_odds(3.0 * truth + 1.0) - truth).abs() < 0.25, "{curve:?}");
        }
    }

    #[test]
    fn a_quarter_of_a_usual_correction_is_believed_and_all_of_a_large_one() {
        let usual = believed(Curve { rise: 1.1, fall: 0.9, offset: -0.2 });
        assert!((usual.rise - 1.1_f32.powf(0.25)).abs() < 1e-6 && (usual.fall - 0.9_f32.powf(0.25)).abs() < 1e-6);
        assert!((usual.offset + 0.05).abs() < 1e-6);
        let large = Curve { rise: 0.3, fall: 1.0, offset: 0.1 };
        assert_eq!(believed(large), large);
        let between = believed(Curve { rise: 1.0, fall: 1.0, offset: 0.6 });
        assert!((between.offset - 0.625 * 0.6).abs() < 1e-6);
    }

    #[test]
    fn a_habit_is_read_either_way_round() {
        // 80 % of those with silence 0.8 churn; nobody without a value does.
        let mut rows: Vec<(f32, bool)> = (0..1_000).map(|row| (0.8, row % 5 != 0)).collect();
        rows.extend((0..1_000).map(|row| (0.3, row % 10 < 3)));
        rows.extend((0..100).map(|_| (f32::NAN, false)));
        let churn = fit_habit(0, &rows, true).unwrap();
        assert!((churn.log_odds(&[0.8]) - 4.0_f32.ln()).abs() < 0.05 && churn.log_odds(&[f32::NAN]) < -4.0);
        let opposite: Vec<(f32, bool)> = rows.iter().map(|(value, label)| (*value, !label)).collect();
        let purchase = fit_habit(0, &opposite, false).unwrap();
        assert!((purchase.log_odds(&[0.8]) + 4.0_f32.ln()).abs() < 0.05 && purchase.log_odds(&[f32::NAN]) > 4.0);
        assert_eq!(fit_habit(0, &[(f32::NAN, true)], true), None);
    }
}
