//! Made-up encoded users for tests: right shapes, random content.

#![expect(clippy::cast_precision_loss, reason = "at most some thousand samples")]
#![expect(clippy::cast_possible_truncation, reason = "small test numbers")]

use rand::Rng;

use super::{
    CATEGORY_BUCKETS, CONTEXT_WIDTH, EdgeToken, EncodedUser, EventToken, FeatureSettings, FeatureSpec, ItemVocabulary,
    NodeToken,
};
use crate::event::{EventKind, NameHash, NameKind, View};

/// A specification with `items` admitted items and no fitted quantiles.
pub(crate) fn spec(items: u64) -> FeatureSpec {
    let mut spec = FeatureSpec::new(FeatureSettings::default(), None, None);
    spec.set_vocabulary(ItemVocabulary::admit((1..=items).map(|item| (NameHash(item), items - item + 1)), 10_000, 1));
    spec
}

/// A random user with `node_count` nodes and `event_count` events; features 0 and 1 are `signals`.
pub(crate) fn user(
    random: &mut impl Rng,
    spec: &FeatureSpec,
    node_count: usize,
    event_count: usize,
    signals: [f32; 2],
) -> EncodedUser {
    let items = spec.vocabulary().items().len() as u64;
    let mut raw: Vec<f32> = (0..spec.features().len()).map(|_| random.random::<f32>() - 0.5).collect();
    raw[..2].copy_from_slice(&signals);
    raw[2] = f32::NAN;
    let nodes: Vec<NodeToken> = (0..node_count)
        .map(|place| {
            let (view, name) = (View::ALL[place % 3], NameHash(1 + random.random_range(0..items)));
            NodeToken {
                name,
                item_row: spec.vocabulary().row(name).unwrap_or(0),
                category_row: random.random_range(0..CATEGORY_BUCKETS),
                view,
                kind: view as u8 * 3 + NameKind::Item as u8,
                numbers: std::array::from_fn(|_| random.random::<f32>()),
            }
        })
        .collect();
    let edges = (1..node_count)
        .map(|to| EdgeToken {
            from: to as u8 - 1,
            to: to as u8,
            kind: 2 + (to % 9) as u8,
            gap: (to % 8) as u8,
            count: 1,
        })
        .collect();
    let events = (0..event_count)
        .map(|place| EventToken {
            name: Some(NameHash(1)),
            time_s: 1_000_000 - place as u32,
            item_row: random.random_range(0..=items) as u32,
            kind: EventKind::ALL[place % EventKind::ALL.len()],
            numbers: [0.1 * place as f32, random.random(), random.random()],
        })
        .collect();
    let features = raw.iter().map(|value| if value.is_nan() { 0.0 } else { *value }).collect();
    EncodedUser { as_of_ms: 1_000_000_000, raw, features, nodes, edges, events, context: [0.1; CONTEXT_WIDTH] }
}
