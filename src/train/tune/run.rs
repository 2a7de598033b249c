//! A search on one history, from its files to the trials written down.

use std::path::Path;

use super::{
    Method,
    plot::plot,
    search::{Measured, Plan, SearchError, Trial, ranked, search},
    space::{PARAMETERS, default_point, settings_at},
};
use crate::{
    clock::Clock,
    train::{
        dataset::{DatasetError, read_trials, write_trials},
        evaluate::{EvaluateError, EvaluateOptions, nobody, read},
        heads::{HeadOptions, HeadsError, TreeFolds, TreeSettings},
        history::History,
        schedule::Schedule,
    },
};

/// How to search.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TuneOptions {
    /// Where to look next.
    pub method: Method,
    /// Trials at most.
    pub trials: usize,
    /// Folds at most: fewer where the history is too short for them.
    pub folds: usize,
    /// No measurement begins after this moment, milliseconds since the Unix epoch.
    pub until_ms: i64,
}

/// What a search found.
#[derive(Debug, Clone, PartialEq)]
pub struct Tuned {
    /// The best trial of those measured on all folds; absent when time was over before one was.
    pub best: Option<(Trial, TreeSettings)>,
    /// The trial with the shipped settings; its losses are of the folds it got to.
    pub shipped: Option<Trial>,
    /// All trials in the order they were begun.
    pub trials: Vec<Trial>,
    /// Folds of a trial that was measured to the end.
    pub folds: usize,
    /// Measurements taken from an earlier run.
    pub resumed: usize,
}

/// Why tuning failed.
#[derive(Debug, thiserror::Error)]
pub enum TuneError {
    /// The history cannot be read.
    #[error(transparent)]
    Read(#[from] EvaluateError),
    /// The history cannot be learned from.
    #[error(transparent)]
    Heads(#[from] HeadsError),
    /// The trials of the folder are of another search.
    #[error(transparent)]
    Search(#[from] SearchError),
    /// The trials cannot be read or written.
    #[error(transparent)]
    Trials(#[from] DatasetError),
    /// The folder or the plot cannot be written.
    #[error("cannot write `{path}`: {source}")]
    Write {
        /// The file.
        path: String,
        /// The system's answer.
        source: std::io::Error,
    },
}

/// Searches for the settings of the trees on what is before the cutoff of `options`. Trials go into `trials.parquet` of its
/// folder after each measurement, and what is there already counts as measured; `trials.html` shows them.
pub fn tune(
    options: &EvaluateOptions,
    tuning: &TuneOptions,
    clock: &dyn Clock,
    report: &mut dyn FnMut(&str),
) -> Result<Tuned, TuneError> {
    let written = |path: &Path| {
        let path = path.display().to_string();
        move |source| TuneError::Write { path, source }
    };
    std::fs::create_dir_all(&options.out).map_err(written(&options.out))?;
    let path = options.out.join("trials.parquet");
    let known = match read_trials(&path)? {
        Some((method, rows)) if method == tuning.method.name() => rows,
        Some(_) => return Err(SearchError::Other { trial: 0 }.into()),
        None => Vec::new(),
    };
    let resumed = known.len();
    let (history, _, _, survey) = read(options, report)?;
    if history.corpus.row_count() == 0 {
        return Err(nobody(options, &survey).into());
    }
    let schedule = Schedule::new(history.first_ms(), options.cutoff_ms, options.horizons).shown_by(&history);
    let head_options = HeadOptions {
        seed: options.seed,
        threads: options.threads,
        missing: options.missing,
        ..HeadOptions::default()
    };
    let folds = TreeFolds::new(&history, &schedule, &head_options, tuning.folds, report)?;
    let plan = Plan { method: tuning.method, trials: tuning.trials, folds: folds.count(), seed: options.seed };
    let mut measurements = resumed;
    let mut measure = |point: &Vec<f64>, fold: usize| {
        let started_ms = clock.now_ms();
        if started_ms >= tuning.until_ms {
            return Ok(None);
        }
        let [churn, purchase] = folds.losses(fold, &settings_at(point));
        #[expect(clippy::cast_precision_loss, reason = "milliseconds of one measurement")]
        let seconds = (clock.now_ms() - started_ms) as f64 / 1_000.0;
        measurements += 1;
        report(&format!("measurement {measurements}: fold {fold}, loss {:.5}", f64::midpoint(churn, purchase)));
        Ok::<_, TuneError>(Some(Measured { churn, purchase, seconds }))
    };
    let mut keep = |rows: &[super::Row]| Ok(write_trials(&path, tuning.method.name(), rows)?);
    let rows = search(&plan, &default_point(), known, &mut measure, &mut keep)?;
    let trials = super::trials(&rows);
    let best = ranked(&rows).into_iter().next().filter(|trial| trial.losses.len() == plan.folds);
    let page_path = options.out.join("trials.html");
    let page = plot(tuning.method, &PARAMETERS, &trials, plan.folds);
    std::fs::write(&page_path, page).map_err(written(&page_path))?;
    Ok(Tuned {
        best: best.map(|trial| {
            let settings = settings_at(&trial.point);
            (trial, settings)
        }),
        shipped: trials.first().cloned(),
        trials,
        folds: plan.folds,
        resumed,
    })
}
