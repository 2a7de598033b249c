//! Tunes the boosted trees of the heads: where a search looks next, how soon a poor trial is given up, and what was found.
//!
//! A trial is measured on rolling-origin folds of one history ([`TreeFolds`](super::heads::TreeFolds)); everything a search
//! decides follows from the measurements so far and the seed, so that a search that was stopped goes on as if it had not been.

mod plot;
mod run;
mod search;
mod space;
mod tpe;

pub use self::{
    plot::plot,
    run::{TuneError, TuneOptions, Tuned, tune},
    search::{Measured, Plan, Row, SearchError, Trial, search, trials},
    space::{Method, PARAMETERS, Parameter, Point, default_point, settings_at},
};
