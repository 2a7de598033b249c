//! The search itself: trials in brackets of nine, of which the better third is measured on more folds (successive halving,
//! Jamieson & Talwalkar 2016), and rows of measurements from which a stopped search goes on.

use super::{
    space::{Method, Point, grid_point, random_point},
    tpe,
};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plan {
    /// Where to look next.
    pub method: Method,
    /// Trials at most.
    pub trials: usize,
    /// Folds of a trial that is measured to the end.
    pub folds: usize,
    /// Seed of all draws.
    pub seed: u64,
}

/// Losses of one trial on one fold; less is better.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Measured {
    /// Loss of churn.
    pub churn: f64,
    /// Loss of purchase.
    pub purchase: f64,
    /// Seconds it took.
    pub seconds: f64,
}

impl Measured {
    /// What is made small: the mean of both.
    pub fn loss(&self) -> f64 {
        f64::midpoint(self.churn, self.purchase)
    }
}

/// One measurement: what is written, and read again.
#[derive(Debug, Clone, PartialEq)]
pub struct Row {
    /// Number of the trial, from 0: the one with the shipped settings.
    pub trial: usize,
    /// The fold, 0 for the newest.
    pub fold: usize,
    /// The point of the trial.
    pub point: Point,
    /// What was measured.
    pub measured: Measured,
}

/// One trial with the folds it was measured on.
#[derive(Debug, Clone, PartialEq)]
pub struct Trial {
    /// Its number.
    pub number: usize,
    /// Its point.
    pub point: Point,
    /// Losses by fold, from the newest on.
    pub losses: Vec<f64>,
}

impl Trial {
    /// Mean loss over its folds.
    pub fn loss(&self) -> f64 {
        mean(&self.losses)
    }
}

/// Why a search cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SearchError {
    /// The rows are of another search.
    #[error(
        "trial {trial} of the file was made by another search (method, seed, folds or shipped settings differ): choose another folder"
    )]
    Other {
        /// The first trial that differs.
        trial: usize,
    },
}

/// Trials of a bracket; a third of them goes on from rung to rung.
const BRACKET: usize = 9;

/// Measures a point on a fold; nothing when time is over.
type Measure<'a, E> = dyn FnMut(&Point, usize) -> Result<Option<Measured>, E> + 'a;

/// Searches from `first` on. `known` are the rows of an earlier run in their order: they are taken as measured. `measure` is
/// asked for one trial on one fold, and answers nothing when time is over; `keep` sees all rows after each new one.
pub fn search<E: From<SearchError>>(
    plan: &Plan,
    first: &Point,
    known: Vec<Row>,
    measure: &mut Measure<'_, E>,
    keep: &mut dyn FnMut(&[Row]) -> Result<(), E>,
) -> Result<Vec<Row>, E> {
    let mut run = Run { known: known.into(), rows: Vec::new(), measure, keep };
    let rungs = rungs(plan.folds);
    for start in (0..plan.trials).step_by(BRACKET) {
        let bracket = start..plan.trials.min(start + BRACKET);
        let mut alive: Vec<(usize, Point)> = Vec::new();
        for (rung, folds) in rungs.iter().enumerate() {
            let from = if rung == 0 { 0 } else { rungs[rung - 1] };
            if rung == 0 {
                for number in bracket.clone() {
                    let point = point_of(plan, first, &run.rows, number);
                    if !run.folds(number, &point, from..*folds)? {
                        return Ok(run.rows);
                    }
                    alive.push((number, point));
                }
            } else {
                for (number, point) in &alive {
                    if !run.folds(*number, point, from..*folds)? {
                        return Ok(run.rows);
                    }
                }
            }
            let losses = trials(&run.rows);
            let loss = |number: usize| losses.iter().find(|trial| trial.number == number).map_or(f64::MAX, Trial::loss);
            alive.sort_by(|left, right| loss(left.0).total_cmp(&loss(right.0)).then(left.0.cmp(&right.0)));
            alive.truncate(alive.len().div_ceil(3));
        }
    }
    Ok(run.rows)
}

/// Folds at the end of each rung: one, a third, all.
fn rungs(folds: usize) -> Vec<usize> {
    let mut rungs = vec![1, folds.div_ceil(2), folds];
    rungs.dedup();
    rungs
}

fn point_of(plan: &Plan, first: &Point, rows: &[Row], number: usize) -> Point {
    let dimensions = first.len();
    if number == 0 {
        return first.clone();
    }
    match plan.method {
        Method::Random => random_point(dimensions, plan.seed, number),
        Method::Grid => grid_point(dimensions, plan.seed, number - 1),
        Method::Tpe => {
            let trials = ranked(rows);
            let points: Vec<&Point> = trials.iter().map(|trial| &trial.point).collect();
            tpe::next_point(&points, dimensions, plan.seed, number)
        }
    }
}

/// Trials in the order they were begun.
pub fn trials(rows: &[Row]) -> Vec<Trial> {
    let mut trials: Vec<Trial> = Vec::new();
    for row in rows {
        if let Some(trial) = trials.iter_mut().find(|trial| trial.number == row.trial) {
            trial.losses.push(row.measured.loss());
            continue;
        }
        let losses = vec![row.measured.loss()];
        trials.push(Trial { number: row.trial, point: row.point.clone(), losses });
    }
    trials
}

/// Trials best first: those that got further before, then by loss.
pub(super) fn ranked(rows: &[Row]) -> Vec<Trial> {
    let mut trials = trials(rows);
    trials.sort_by(|left, right| {
        let further = right.losses.len().cmp(&left.losses.len());
        further.then(left.loss().total_cmp(&right.loss())).then(left.number.cmp(&right.number))
    });
    trials
}

fn mean(values: &[f64]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a handful of folds")]
    let count = values.len().max(1) as f64;
    values.iter().sum::<f64>() / count
}

struct Run<'a, 'b, E> {
    known: std::collections::VecDeque<Row>,
    rows: Vec<Row>,
    measure: &'a mut Measure<'b, E>,
    keep: &'a mut dyn FnMut(&[Row]) -> Result<(), E>,
}

impl<E: From<SearchError>> Run<'_, '_, E> {
    /// Measures a trial on folds; false when time is over.
    fn folds(&mut self, trial: usize, point: &Point, folds: std::ops::Range<usize>) -> Result<bool, E> {
        for fold in folds {
            if let Some(row) = self.known.pop_front() {
                let near = row.point.len() == point.len()
                    && row.point.iter().zip(point).all(|(known, point)| (known - point).abs() < 1e-9);
                if row.trial != trial || row.fold != fold || !near {
                    return Err(SearchError::Other { trial: row.trial }.into());
                }
                self.rows.push(row);
                continue;
            }
            let Some(measured) = (self.measure)(point, fold)? else { return Ok(false) };
            self.rows.push(Row { trial, fold, point: point.clone(), measured });
            (self.keep)(&self.rows)?;
        }
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A bowl whose floor is off the middle; folds differ a little.
    fn bowl(point: &[f64], fold: usize) -> f64 {
        let floor = [0.2, 0.7, 0.45, 0.85];
        let depth: f64 = point.iter().zip(floor).map(|(place, floor)| (place - floor).powi(2)).sum();
        depth + 0.01 * f64::from(u32::try_from(fold).unwrap())
    }

    fn run(plan: &Plan, known: Vec<Row>, budget: usize) -> Result<Vec<Row>, SearchError> {
        let mut left = budget;
        let mut measure = |point: &Point, fold: usize| {
            if left == 0 {
                return Ok(None);
            }
            left -= 1;
            let loss = bowl(point, fold);
            Ok(Some(Measured { churn: loss, purchase: loss, seconds: 0.0 }))
        };
        search(plan, &vec![0.5; 4], known, &mut measure, &mut |_| Ok(()))
    }

    fn best(rows: &[Row]) -> f64 {
        ranked(rows)[0].loss()
    }

    #[test]
    fn the_estimator_beats_random_search_and_the_lattice() {
        let found = Method::ALL.map(|method| {
            let of = |seed| best(&run(&Plan { method, trials: 54, folds: 3, seed }, Vec::new(), usize::MAX).unwrap());
            mean(&(1..=12).map(of).collect::<Vec<f64>>())
        });
        let [tpe, random, grid] = found;
        assert!(tpe < 0.6 * random && tpe < grid, "{found:?}");
    }

    #[test]
    fn a_stopped_search_goes_on_as_if_it_had_not_been() {
        for method in Method::ALL {
            let plan = Plan { method, trials: 30, folds: 4, seed: 7 };
            let whole = run(&plan, Vec::new(), usize::MAX).unwrap();
            let mut rows = Vec::new();
            for budget in [1, 9, 4, 17, usize::MAX] {
                rows = run(&plan, rows, budget).unwrap();
            }
            assert_eq!(rows, whole, "{method:?}");
        }
    }

    #[test]
    fn poor_trials_are_given_up_early() {
        let rows = run(&Plan { method: Method::Random, trials: 9, folds: 4, seed: 1 }, Vec::new(), usize::MAX).unwrap();
        let mut folds: Vec<usize> = trials(&rows).iter().map(|trial| trial.losses.len()).collect();
        folds.sort_unstable();
        assert_eq!(folds, [1, 1, 1, 1, 1, 1, 2, 2, 4]);
        let first = ranked(&rows)[0].number;
        let newest = |number: usize| rows.iter().find(|row| row.trial == number).unwrap().measured.loss();
        assert!((0..9).all(|number| newest(first) <= newest(number)));
    }

    #[test]
    fn rows_of_another_search_are_refused() {
        let plan = Plan { method: Method::Random, trials: 9, folds: 2, seed: 1 };
        let rows = run(&plan, Vec::new(), usize::MAX).unwrap();
        let error = run(&Plan { seed: 2, ..plan }, rows, usize::MAX).unwrap_err();
        assert_eq!(error, SearchError::Other { trial: 1 });
    }
}
