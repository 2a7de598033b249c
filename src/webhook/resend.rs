//! Posting parked alerts again, as they were: same id, same body, a signature of now.

use std::{collections::HashSet, io};

use super::{Parked, ParkedAlert, Poster, Signer};
use crate::clock::Clock;

/// Failures in a row after which the receiver is taken to be away and the rest is left for later.
const FAILURES_IN_ROW: usize = 3;

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

/// Posts `alerts` once each, in order, and takes those out of `parked` that arrive: each at once, so that a crash in between
/// repeats one alert at most, which its id tells. Blocks on the file between two posts.
pub async fn resend(
    parked: &Parked,
    alerts: &[ParkedAlert],
    poster: &Poster,
    signer: &Signer,
    clock: &dyn Clock,
) -> io::Result<Resent> {
    let mut resent = Resent::default();
    let mut failures_in_row = 0;
    for (place, alert) in alerts.iter().enumerate() {
        if failures_in_row == FAILURES_IN_ROW {
            resent.left_count = alerts.len() - place;
            break;
        }
        match poster.post(&alert.message, signer, clock.now_ms()).await {
            Ok(()) => {
                parked.remove_blocking(&HashSet::from([alert.message.id.clone()]))?;
                resent.delivered_count += 1;
                failures_in_row = 0;
            }
            Err(failure) => {
                resent.failed.push((alert.message.id.clone(), failure.text));
                failures_in_row += 1;
            }
        }
    }
    Ok(resent)
}
