use rand::Rng;

use super::*;
use crate::{
    event::{EventKind, NameHash},
    features::samples,
    model::GraphForm,
};

fn examples(spec: &FeatureSpec, count: usize, seed: u64) -> Vec<Example> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
    (0..count)
        .map(|place| {
            let signals = [random.random::<f32>() * 4.0 - 2.0, random.random::<f32>() * 4.0 - 2.0];
            Example {
                encoded: samples::user(&mut random, spec, place % 9, place % 13, signals),
                churned: signals[0] > 0.0,
                purchased: signals[1] > 0.5,
                next_items: vec![NameHash(if signals[0] > 0.0 { 1 } else { 30 })],
                next_kind: Some(if signals[1] > 0.0 { EventKind::View } else { EventKind::Purchase }),
                cutoff_ms: 0,
            }
        })
        .collect()
}

fn settings(threads: usize) -> TrainSettings {
    TrainSettings {
        batch_users: 64,
        chunk_users: 16,
        epochs: 6,
        patience: 6,
        learning_rate: 5e-3,
        threads: NonZeroUsize::new(threads).unwrap(),
        ..TrainSettings::default()
    }
}

#[test]
fn every_parameter_gets_a_gradient_in_both_forms() {
    let spec = samples::spec(40);
    let examples = examples(&spec, 32, 3);
    for graph_form in [GraphForm::TypedBias, GraphForm::Gated] {
        let config = NetworkConfig { graph_form, layers: 2, ..NetworkConfig::for_spec(&spec) };
        let settings = settings(1);
        let trainer = Trainer::new(&examples, &spec, &config, &settings, 1).unwrap();
        let places: Vec<usize> = (0..32).collect();
        let answer = trainer.chunk(&places, 0, 32).unwrap();
        let names = trainer.parameters.iter().map(|(name, _)| name).filter(|name| *name != ITEM_TABLE);
        for (name, gradient) in names.zip(&answer.dense) {
            assert!(gradient.iter().any(|value| *value != 0.0), "`{name}` got no gradient in {graph_form:?}");
        }
        let empty_rows = answer.row_gradients.chunks_exact(config.hidden).filter(|row| row.iter().all(|v| *v == 0.0));
        // Row 0 stands in for absent positives, whose weight is 0.
        assert!(empty_rows.count() <= 1, "{graph_form:?}");
    }
}

#[test]
fn learns_what_decides_the_labels() {
    let spec = samples::spec(40);
    let (train, validation) = (examples(&spec, 2_000, 1), examples(&spec, 200, 2));
    let config = NetworkConfig::for_spec(&spec);
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let trained = fit(&train, &validation, &spec, &config, &settings(2), 7, &mut go_on).unwrap();
    let best = trained.epochs[trained.best_epoch];
    assert!(best.validation_churn < 0.35 && best.validation_purchase < 0.35, "{best:?}");
    assert!(best.losses[2] < trained.epochs[0].losses[2], "next items were not learned: {:?}", trained.epochs);
    assert!(best.losses[3] < 0.6, "next kinds were not learned: {best:?}");
}

#[test]
fn threads_do_not_change_the_result() {
    let spec = samples::spec(40);
    let train = examples(&spec, 128, 1);
    let config = NetworkConfig::for_spec(&spec);
    let settings = |threads| TrainSettings { epochs: 2, ..settings(threads) };
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let one = fit(&train, &train, &spec, &config, &settings(1), 7, &mut go_on).unwrap();
    let three = fit(&train, &train, &spec, &config, &settings(3), 7, &mut go_on).unwrap();
    assert!(one.model == three.model);
}

#[test]
fn a_caller_can_stop_it() {
    let spec = samples::spec(40);
    let train = examples(&spec, 128, 1);
    let config = NetworkConfig::for_spec(&spec);
    let mut steps = 0;
    let mut stop = |_: &Progress| {
        steps += 1;
        ControlFlow::Break(())
    };
    let trained = fit(&train, &[], &spec, &config, &settings(1), 7, &mut stop).unwrap();
    assert_eq!(trained.epochs.len(), 0);
    assert_eq!(steps, 1);
}

/// Users whose sequence says who they are: each has an item of its own, bought again and again.
fn habits(spec: &FeatureSpec, count: usize) -> Vec<Example> {
    let mut examples = examples(spec, count, 5);
    let mut random = Xoshiro256PlusPlus::seed_from_u64(11);
    for (place, example) in examples.iter_mut().enumerate() {
        example.encoded = samples::user(&mut random, spec, 4, 12, [0.0; 2]);
        for event in &mut example.encoded.events {
            (event.item_row, event.kind) = (1 + place as u32 % 20, EventKind::Purchase);
        }
    }
    examples
}

#[test]
fn pretraining_learns_from_sequences_and_leaves_the_tasks_as_they_were() {
    let spec = samples::spec(40);
    let train = habits(&spec, 160);
    let config = NetworkConfig::for_spec(&spec);
    for pretraining in [Pretraining::Masked, Pretraining::Contrastive] {
        let settings = |pretraining_epochs| TrainSettings { pretraining, pretraining_epochs, ..settings(2) };
        let loss_after = |epochs: usize| {
            let settings = settings(epochs);
            let mut trainer = Trainer::new(&train, &spec, &config, &settings, 7).unwrap();
            trainer.pretrain().unwrap();
            assert_eq!((trainer.step, trainer.stage), (0, Pretraining::None));
            let fresh = Parameters::initialise(&config, 7);
            for (name, parameter) in trainer.parameters.iter() {
                let is_fresh = fresh.get(name) == Some(parameter);
                let is_sequence = name.starts_with("sequence.key_value") || name == "event.kind";
                assert!(is_fresh || !begins_anew(name, pretraining), "`{name}` must begin anew");
                assert!(!is_fresh || !is_sequence || epochs == 0, "`{name}` learned nothing");
            }
            trainer.stage = pretraining;
            let losses = (0..4).map(|_| {
                let places: Vec<usize> = (0..train.len()).collect();
                let answer = trainer.chunk(&places, 0, train.len()).unwrap();
                trainer.step += 1;
                answer.losses[if pretraining == Pretraining::Masked { 2 } else { 0 }].0
            });
            losses.sum::<f32>() / 4.0
        };
        let (before, after) = (loss_after(0), loss_after(20));
        assert!(after < 0.8 * before, "{pretraining:?}: {before} before, {after} after");
    }
}

#[test]
fn threads_do_not_change_what_pretraining_makes() {
    let spec = samples::spec(40);
    let train = habits(&spec, 96);
    let config = NetworkConfig::for_spec(&spec);
    let mut go_on = |_: &Progress| ControlFlow::Continue(());
    let mut models = Vec::new();
    for pretraining in [Pretraining::None, Pretraining::Masked, Pretraining::Contrastive] {
        let settings = |threads| TrainSettings { epochs: 1, pretraining, pretraining_epochs: 1, ..settings(threads) };
        let one = fit(&train, &[], &spec, &config, &settings(1), 7, &mut go_on).unwrap();
        let three = fit(&train, &[], &spec, &config, &settings(3), 7, &mut go_on).unwrap();
        assert!(one.model == three.model, "{pretraining:?}");
        models.push(one.model);
    }
    assert!(models[0] != models[1] && models[0] != models[2] && models[1] != models[2]);
}
