//! Tree-structured Parzen estimator (Bergstra, Bardenet, Bengio & Kégl 2011, "Algorithms for Hyper-Parameter Optimization",
//! section 4): draws from where good trials are dense, and keeps the draw at which they are densest against the others.
//! Kernels span all parameters at once, as in BOHB (Falkner, Klein & Hutter 2018), so that what belongs together stays so.

#![expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss, reason = "few trials")]

use rand::{Rng, seq::IndexedRandom};
use rand_xoshiro::Xoshiro256PlusPlus;

use super::space::{Point, generator};

/// Trials drawn anywhere before the estimator has its say.
pub(super) const START_TRIALS: usize = 8;
/// Share of the trials that are good.
const GOOD_SHARE: f64 = 0.2;
/// Draws of which the best is kept.
const CANDIDATES: usize = 32;
/// Share of the kernels' mass spread evenly: nowhere is ruled out.
const EVEN_SHARE: f64 = 0.1;

/// The next point after `ranked` trials, best first. With few of them any point.
pub(super) fn next_point(ranked: &[&Point], dimensions: usize, seed: u64, number: usize) -> Point {
    let mut random = generator(seed, number);
    let anywhere = |random: &mut Xoshiro256PlusPlus| (0..dimensions).map(|_| random.random()).collect::<Point>();
    if ranked.len() < START_TRIALS {
        return anywhere(&mut random);
    }
    let good_count = ((ranked.len() as f64 * GOOD_SHARE).ceil() as usize).max(2);
    let (good, poor) = ranked.split_at(good_count);
    let (good, poor) = (Kernels::new(good, dimensions), Kernels::new(poor, dimensions));
    let mut best: Option<(f64, Point)> = None;
    for _ in 0..CANDIDATES {
        let candidate = if random.random_bool(EVEN_SHARE) { anywhere(&mut random) } else { good.draw(&mut random) };
        let gain = good.density(&candidate).ln() - poor.density(&candidate).ln();
        if best.as_ref().is_none_or(|(known, _)| gain > *known) {
            best = Some((gain, candidate));
        }
    }
    best.map_or_else(|| anywhere(&mut random), |(_, point)| point)
}

/// Normal kernels of one width around points, mirrored at the sides of the cube.
struct Kernels<'a> {
    centres: &'a [&'a Point],
    width: f64,
}

impl<'a> Kernels<'a> {
    fn new(centres: &'a [&'a Point], dimensions: usize) -> Self {
        // Scott's rule for a cube of side 1, where values spread by about 0.3; never so narrow that a draw repeats its centre.
        let width = 0.3 * (centres.len() as f64).powf(-1.0 / (dimensions as f64 + 4.0));
        Self { centres, width: width.max(0.03) }
    }

    fn draw(&self, random: &mut Xoshiro256PlusPlus) -> Point {
        let Some(centre) = self.centres.choose(random) else { return Point::new() };
        centre.iter().map(|place| mirrored(place + self.width * normal(random))).collect()
    }

    fn density(&self, point: &[f64]) -> f64 {
        let scale = 1.0 / (self.width * (std::f64::consts::TAU).sqrt());
        let bell = |distance: f64| scale * (-0.5 * (distance / self.width).powi(2)).exp();
        let kernel = |centre: &&Point| {
            let along = |(centre, place): (&f64, &f64)| {
                bell(place - centre) + bell(place + centre) + bell(2.0 - place - centre)
            };
            centre.iter().zip(point).map(along).product::<f64>()
        };
        let mean = self.centres.iter().map(kernel).sum::<f64>() / self.centres.len().max(1) as f64;
        EVEN_SHARE + (1.0 - EVEN_SHARE) * mean
    }
}

/// Folds a number into 0 to 1 at the sides.
fn mirrored(place: f64) -> f64 {
    let turn = place.rem_euclid(2.0);
    if turn > 1.0 { 2.0 - turn } else { turn }
}

/// A draw from the standard normal distribution (Box & Muller 1958).
fn normal(random: &mut Xoshiro256PlusPlus) -> f64 {
    let (first, second): (f64, f64) = (random.random(), random.random());
    (-2.0 * (1.0 - first).ln()).sqrt() * (std::f64::consts::TAU * second).cos()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn draws_stay_in_the_cube_and_near_good_trials() {
        let good: Vec<Point> = (0..4).map(|place| vec![0.8, 0.02 * f64::from(place)]).collect();
        let poor: Vec<Point> = (0..16).map(|place| vec![0.05 * f64::from(place) / 2.0, 0.9]).collect();
        let ranked: Vec<&Point> = good.iter().chain(&poor).collect();
        let drawn: Vec<Point> = (0..50).map(|number| next_point(&ranked, 2, 3, number)).collect();
        assert!(drawn.iter().flatten().all(|place| (0.0..=1.0).contains(place)));
        let near = drawn.iter().filter(|point| (point[0] - 0.8).abs() < 0.35 && point[1] < 0.5).count();
        assert!(near > 40, "{near} of 50");
        assert!((mirrored(-0.2) - 0.2).abs() < 1e-12 && (mirrored(1.3) - 0.7).abs() < 1e-12);
    }

    #[test]
    fn densities_hold_the_mass_of_one() {
        let centre = vec![0.1];
        let centres = [&centre];
        let kernels = Kernels::new(&centres, 1);
        let steps = 10_000;
        let mass: f64 = (0..steps)
            .map(|step| kernels.density(&[(f64::from(step) + 0.5) / f64::from(steps)]) / f64::from(steps))
            .sum();
        assert!((mass - 1.0).abs() < 1e-3, "{mass}");
    }
}
