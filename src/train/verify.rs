//! Users as training sees them, one at a time and at any moment: what serving is held against.

use std::collections::HashMap;

use super::{
    evaluate::{EvaluateError, EvaluateOptions, read},
    history::FileHistory,
};
use crate::{event::UserId, graph::UserGraph};

/// Event files the way training reads them.
#[derive(Debug)]
pub struct TrainingView {
    history: FileHistory,
    number_of: HashMap<UserId, usize>,
}

impl TrainingView {
    /// Reads the files of `options` up to its cutoff, as `evaluate` and `train` do.
    pub fn read(options: &EvaluateOptions, report: &mut dyn FnMut(&str)) -> Result<Self, EvaluateError> {
        let (history, ..) = read(options, report)?;
        let users = history.corpus.users().iter().cloned();
        Ok(Self { number_of: users.zip(0..).collect(), history })
    }

    /// All users, in order of first appearance.
    pub fn users(&self) -> &[UserId] {
        self.history.corpus.users()
    }

    /// The user's graph of all events at or before `as_of_ms`; `None` for a user without one.
    pub fn graph(&self, user: &UserId, as_of_ms: i64) -> Option<UserGraph> {
        let number = *self.number_of.get(user)?;
        let mut found = None;
        let moments_ms = [as_of_ms.saturating_add(1)];
        self.history.corpus.replay(number, &moments_ms, &self.history.params, |_, graph| found = Some(graph.clone()));
        found
    }
}
