//! Pre-training of the sequence encoder on what users did, before any label is looked at.
//!
//! - **Masked events** (Sun et al., *`BERT4Rec`*, 2019, with one hidden event a user and step, because the network sums a sequence up
//!   in one vector): item, kind and value of an event are hidden, and the network's own heads for items and kinds tell which they were.
//! - **Contrastive** (Babaev et al., *`CoLES`: Contrastive Learning for Event Sequences*, SIGMOD 2022): two random slices of one user's
//!   events should get near vectors, those of other users far ones, by a contrastive loss on unit vectors with the hardest negatives.
//!
//! The graph is left out of both (it holds the hidden event, and tells users apart at once); contrastive learning sees no
//! features and no calendar either, for the same reason. Optimiser, learned loss weights and whatever was not trained begin anew.

use candle_core::{Result, Tensor};
use rand::Rng;
use serde::{Deserialize, Serialize};

use crate::{
    event::EventKind,
    features::{CONTEXT_WIDTH, EncodedUser},
};

/// What the sequence encoder learns before the tasks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pretraining {
    /// Nothing.
    #[default]
    None,
    /// To tell a hidden event.
    Masked,
    /// To tell users apart by slices of their events.
    Contrastive,
}

impl Pretraining {
    /// All ways.
    pub const ALL: [Self; 3] = [Self::None, Self::Masked, Self::Contrastive];

    /// The name on the command line and in files.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Masked => "masked",
            Self::Contrastive => "contrastive",
        }
    }

    /// The way called `name`.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|way| way.name() == name)
    }
}

/// Events a user needs for two slices that differ.
const FEWEST_EVENTS: usize = 4;
/// Distance of unit vectors from which other users are far enough.
const MARGIN: f64 = 0.5;
/// Nearest other users' slices that count, per slice.
const HARD_NEGATIVES: usize = 5;

/// Parameters that begin the tasks as they were before: none of them is learned in pre-training, and decay must not shrink them.
pub(super) fn begins_anew(name: &str, pretraining: Pretraining) -> bool {
    let always = ["wide.", "head.binary.", "loss."].iter().any(|part| name.starts_with(part));
    // The vectors that are compared are made by the query's head, which is thrown away: what is before it is more general
    // (Chen et al., SimCLR, 2020).
    let heads = pretraining == Pretraining::Contrastive && name.starts_with("head.");
    always || heads
}

/// The user without the graph.
fn sequence_only(user: &EncodedUser) -> EncodedUser {
    EncodedUser { nodes: Vec::new(), edges: Vec::new(), ..user.clone() }
}

/// The user with one event hidden, its item's row (0 where it has none) and its kind. A user without events stays as is.
pub(super) fn hide_one(user: &EncodedUser, random: &mut impl Rng) -> (EncodedUser, u32, Option<EventKind>) {
    let mut hidden = sequence_only(user);
    if hidden.events.is_empty() {
        return (hidden, 0, None);
    }
    let place = random.random_range(0..hidden.events.len());
    let event = &mut hidden.events[place];
    let (row, kind) = (event.item_row, event.kind);
    // Row 0 is 'no item'; the value would give the item away.
    (event.name, event.item_row, event.kind) = (None, 0, EventKind::Other);
    if let Some(value) = event.numbers.last_mut() {
        *value = 0.0;
    }
    (hidden, row, Some(kind))
}

/// Two random slices of the user's events, each a quarter to three quarters of them; `None` where there are too few.
pub(super) fn two_slices(user: &EncodedUser, random: &mut impl Rng) -> Option<[EncodedUser; 2]> {
    let count = user.events.len();
    if count < FEWEST_EVENTS {
        return None;
    }
    let mut slice = || {
        let length = random.random_range(count / 4..=count - count / 4).max(2);
        let start = random.random_range(0..=count - length);
        let events = user.events[start..start + length].to_vec();
        EncodedUser { events, context: [0.0; CONTEXT_WIDTH], ..sequence_only(user) }
    };
    Some([slice(), slice()])
}

/// The contrastive loss of `vectors: [2·n, D]`: the slices of user `i` are in the rows `i` and `n + i`. A number.
///
/// `mean d(a, b)²` over slices of one user, plus `mean max(0, margin − d)²` over the nearest slices of others.
pub(super) fn contrastive_loss(vectors: &Tensor) -> Result<Tensor> {
    const TINY: f64 = 1e-6;
    let count = vectors.dim(0)?;
    let users = count / 2;
    let lengths = (vectors.sqr()?.sum_keepdim(1)? + TINY)?.sqrt()?;
    let unit = vectors.broadcast_div(&lengths)?;
    let cosines = unit.matmul(&unit.t()?.contiguous()?)?;
    let squares = ((cosines * -2.0)? + 2.0)?.relu()?;
    let known = squares.detach().to_vec2::<f32>()?;
    let (mut own, mut hard) = (vec![0.0_f32; count * count], vec![0.0_f32; count * count]);
    let (mut own_count, mut hard_count) = (0.0_f64, 0.0_f64);
    for (row, distances) in known.iter().enumerate() {
        own[row * count + (row + users) % count] = 1.0;
        own_count += 1.0;
        let mut others: Vec<usize> = (0..count).filter(|other| other % users != row % users).collect();
        others.sort_by(|left, right| distances[*left].total_cmp(&distances[*right]).then(left.cmp(right)));
        for other in others.into_iter().take(HARD_NEGATIVES) {
            hard[row * count + other] = 1.0;
            hard_count += 1.0;
        }
    }
    let mask = |values: Vec<f32>| Tensor::from_vec(values, (count, count), vectors.device());
    let near = (squares.mul(&mask(own)?)?.sum_all()? / own_count.max(1.0))?;
    let gap = ((squares + TINY)?.sqrt()?.neg()? + MARGIN)?.relu()?.sqr()?;
    let far = (gap.mul(&mask(hard)?)?.sum_all()? / hard_count.max(1.0))?;
    near + far
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Var};
    use rand::SeedableRng;
    use rand_xoshiro::Xoshiro256PlusPlus;

    use super::*;
    use crate::features::samples;

    #[test]
    fn a_hidden_event_is_told_by_nothing_that_is_left() {
        let spec = samples::spec(40);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let user = samples::user(&mut random, &spec, 5, 9, [0.0; 2]);
        let mut places = std::collections::HashSet::new();
        for _ in 0..100 {
            let (hidden, row, kind) = hide_one(&user, &mut random);
            assert!(hidden.nodes.is_empty() && hidden.edges.is_empty());
            let changed: Vec<usize> = (0..9).filter(|place| hidden.events[*place] != user.events[*place]).collect();
            let [place] = changed[..] else { panic!("{changed:?}") };
            let (before, after) = (&user.events[place], &hidden.events[place]);
            assert_eq!((before.item_row, Some(before.kind)), (row, kind));
            assert_eq!((after.name, after.item_row, after.kind, after.numbers[2]), (None, 0, EventKind::Other, 0.0));
            assert_eq!(after.numbers[..2], before.numbers[..2], "when it was is known");
            places.insert(place);
        }
        assert_eq!(places.len(), 9, "any event may be hidden");
        let nobody = samples::user(&mut random, &spec, 5, 0, [0.0; 2]);
        assert_eq!(hide_one(&nobody, &mut random).2, None);
    }

    #[test]
    fn slices_are_runs_of_the_users_own_events() {
        let spec = samples::spec(40);
        let mut random = Xoshiro256PlusPlus::seed_from_u64(3);
        let user = samples::user(&mut random, &spec, 5, 12, [0.0; 2]);
        for _ in 0..100 {
            for slice in two_slices(&user, &mut random).unwrap() {
                assert!((3..=9).contains(&slice.events.len()));
                assert!(user.events.windows(slice.events.len()).any(|run| run == slice.events));
                assert!(slice.nodes.is_empty() && slice.context.iter().all(|value| value.abs() < f32::EPSILON));
            }
        }
        let short = samples::user(&mut random, &spec, 5, 3, [0.0; 2]);
        assert!(two_slices(&short, &mut random).is_none());
    }

    #[test]
    fn the_contrastive_loss_is_as_by_hand_and_has_a_gradient() {
        let loss = |rows: &[[f32; 2]]| {
            let flat: Vec<f32> = rows.as_flattened().to_vec();
            let vectors = Var::from_vec(flat, (rows.len(), 2), &Device::Cpu).unwrap();
            let loss = contrastive_loss(vectors.as_tensor()).unwrap();
            let gradient = loss.backward().unwrap().get(vectors.as_tensor()).unwrap().to_vec2::<f32>().unwrap();
            (loss.to_scalar::<f32>().unwrap(), gradient)
        };
        let check = |rows: &[[f32; 2]], expected: f32| {
            let found = loss(rows).0;
            assert!((found - expected).abs() < 1e-3, "{found} instead of {expected}");
        };
        // Each user's slices alike, the two users opposite: nothing to do.
        check(&[[1.0, 0.0], [-2.0, 0.0], [3.0, 0.0], [-1.0, 0.0]], 0.0);
        // Each user's slices at right angles (distance² 2), and each alike with one of the other user's: half of the four
        // negatives of a row are at distance 0, half at √2, beyond the margin.
        check(&[[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], 2.0 + 0.25 / 2.0);
        let (_, gradient) = loss(&[[1.0, 0.2], [0.3, 1.0], [0.1, 1.0], [1.0, -0.4]]);
        assert!(gradient.iter().all(|row| row.iter().any(|value| value.abs() > 1e-4)), "{gradient:?}");
    }
}
