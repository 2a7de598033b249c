//! Nelder–Mead: minimises a function of a few numbers without derivatives.

/// Minimises `objective` from `start` with a first simplex of size `step`. Stops after `max_rounds` or when the simplex
/// is flat.
pub(super) fn minimise(objective: impl Fn(&[f64]) -> f64, start: &[f64], step: f64, max_rounds: usize) -> Vec<f64> {
    let value_of = |point: &[f64]| {
        let value = objective(point);
        if value.is_finite() { value } else { f64::MAX }
    };
    let mut simplex: Vec<(f64, Vec<f64>)> = vec![(value_of(start), start.to_vec())];
    for axis in 0..start.len() {
        let mut corner = start.to_vec();
        corner[axis] += step;
        simplex.push((value_of(&corner), corner));
    }
    for _ in 0..max_rounds {
        simplex.sort_by(|left, right| left.0.total_cmp(&right.0));
        let worst = simplex.len() - 1;
        if simplex[worst].0 - simplex[0].0 < 1e-9 {
            break;
        }
        let centre = centre_of(&simplex[..worst]);
        let along = |factor: f64| -> (f64, Vec<f64>) {
            let point: Vec<f64> =
                centre.iter().zip(&simplex[worst].1).map(|(centre, far)| centre + factor * (far - centre)).collect();
            (value_of(&point), point)
        };
        let reflected = along(-1.0);
        let next = if reflected.0 < simplex[0].0 {
            let expanded = along(-2.0);
            if expanded.0 < reflected.0 { Some(expanded) } else { Some(reflected) }
        } else if reflected.0 < simplex[worst - 1].0 {
            Some(reflected)
        } else {
            let contracted = if reflected.0 < simplex[worst].0 { along(-0.5) } else { along(0.5) };
            (contracted.0 < simplex[worst].0.min(reflected.0)).then_some(contracted)
        };
        if let Some(corner) = next {
            simplex[worst] = corner;
        } else {
            let best = simplex[0].1.clone();
            for corner in &mut simplex[1..] {
                for (value, best) in corner.1.iter_mut().zip(&best) {
                    *value = best + 0.5 * (*value - best);
                }
                corner.0 = value_of(&corner.1);
            }
        }
    }
    simplex.sort_by(|left, right| left.0.total_cmp(&right.0));
    simplex.swap_remove(0).1
}

fn centre_of(corners: &[(f64, Vec<f64>)]) -> Vec<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a handful of corners")]
    let share = 1.0 / corners.len() as f64;
    let mut centre = vec![0.0; corners[0].1.len()];
    for (_, corner) in corners {
        for (sum, value) in centre.iter_mut().zip(corner) {
            *sum += share * value;
        }
    }
    centre
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_floor_of_rosenbrocks_valley() {
        let valley = |point: &[f64]| (1.0 - point[0]).powi(2) + 100.0 * (point[1] - point[0] * point[0]).powi(2);
        let found = minimise(valley, &[-1.2, 1.0], 0.5, 2_000);
        assert!((found[0] - 1.0).abs() < 1e-2 && (found[1] - 1.0).abs() < 1e-2, "{found:?}");
    }
}
