use candle_core::Device;
use rand::SeedableRng;
use rand_xoshiro::Xoshiro256PlusPlus;

use super::*;
use crate::{features::samples, model::CandleForward};

fn users() -> (Model, Vec<EncodedUser>) {
    let spec = samples::spec(100);
    let config = NetworkConfig { layers: 2, ..NetworkConfig::for_spec(&spec) };
    let mut model = Model::initialise(config, 5);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(9);
    // Nothing may stay at a value that hides a mistake.
    for (_, parameter) in model.parameters.iter_mut() {
        for value in &mut parameter.values {
            *value += 0.2 * (rand::Rng::random::<f32>(&mut random) - 0.5);
        }
    }
    let sizes = [(0, 0), (1, 1), (24, 32), (24, 5), (7, 32), (16, 16), (3, 0), (0, 4), (23, 31)];
    let users = sizes
        .iter()
        .cycle()
        .take(40)
        .map(|(nodes, events)| samples::user(&mut random, &spec, *nodes, *events, [0.3, -1.2]));
    (model, users.collect())
}

#[test]
fn equals_candle() {
    let (model, users) = users();
    let users: Vec<&EncodedUser> = users.iter().collect();
    let candle = CandleForward::new(&model, Device::Cpu).unwrap().predict(&users).unwrap();
    let fused = FusedForward::new(&model).unwrap().predict(&users);
    for (place, (candle, fused)) in candle.iter().zip(&fused).enumerate() {
        let close = |left: f32, right: f32| (left - right).abs() < 1e-4 * (1.0 + left.abs());
        assert!(close(candle.churn_log_odds, fused.churn_log_odds), "{place}: {candle:?} {fused:?}");
        assert!(close(candle.purchase_log_odds, fused.purchase_log_odds), "{place}");
        let pairs = candle.attention.iter().zip(&fused.attention);
        assert!(
            pairs
                .chain(candle.kind.iter().zip(&fused.kind))
                .chain(candle.query.iter().zip(&fused.query))
                .all(|(left, right)| close(*left, *right)),
            "{place}"
        );
    }
}

#[test]
fn company_changes_no_bit() {
    let (model, users) = users();
    let users: Vec<&EncodedUser> = users.iter().collect();
    let mut forward = FusedForward::new(&model).unwrap();
    let together = forward.predict(&users);
    for (user, expected) in users.iter().zip(&together) {
        assert_eq!(forward.predict(&[*user]), std::slice::from_ref(expected));
    }
    let reversed: Vec<&EncodedUser> = users.iter().rev().copied().collect();
    let mut backwards = forward.predict(&reversed);
    backwards.reverse();
    assert!(backwards == together);
}

#[test]
fn the_gated_form_is_refused() {
    let spec = samples::spec(3);
    let config = NetworkConfig { graph_form: GraphForm::Gated, ..NetworkConfig::for_spec(&spec) };
    assert_eq!(FusedForward::new(&Model::initialise(config, 1)).unwrap_err(), FusedError::Form);
}
