//! Posting parked alerts again, as they were: same id, same body, a signature of now.

use std::{collections::HashSet, io};

use super::{Parked, ParkedAlert, Poster, Signer};
use crate::clock::Clock;

/// Failures in a row after which the receiver is taken to be away and the rest is left for later.
const FAILURES_IN_ROW: usize = 3;

/// Alerts that arrived are taken out of the file so many at a time, because that writes the whole file.
const TAKEN_OUT_AT_ONCE: usize = 100;

/// What became of the alerts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// Taken by the receiver, and no longer parked.
    pub delivered_count: usize,
    /// Those the receiver did not take, with the reason. They stay parked.
    pub failed: Vec<(String, String)>,
    /// Not tried, because the receiver failed several times in a row. They stay parked.
    pub left_count: usize,
}

/// Posts `alerts` once each, in order, and takes those out of `parked` that arrive, a hundred at a time: a crash in between repeats
/// that many at most, which their ids tell. Blocks on the file between two posts.
pub async fn resend(
    parked: &Parked,
    alerts: &[ParkedAlert],
    poster: &Poster,
    signer: &Signer,
    clock: &dyn Clock,
) -> io::Result<Resent> {
    let mut resent = Resent::default();
    let mut failures_in_row = 0;
    let mut arrived = HashSet::new();
    for (place, alert) in alerts.iter().enumerate() {
        if failures_in_row == FAILURES_IN_ROW {
            resent.left_count = alerts.len() - place;
            break;
        }
        match poster.post(&alert.message, signer, clock.now_ms()).await {
            Ok(()) => {
                arrived.insert(alert.message.id.clone());
                resent.delivered_count += 1;
                failures_in_row = 0;
                if arrived.len() == TAKEN_OUT_AT_ONCE {
                    parked.remove_blocking(&std::mem::take(&mut arrived))?;
                }
            }
            Err(failure) => {
                resent.failed.push((alert.message.id.clone(), failure.text));
                failures_in_row += 1;
            }
        }
    }
    if !arrived.is_empty() {
        parked.remove_blocking(&arrived)?;
    }
    Ok(resent)
}
