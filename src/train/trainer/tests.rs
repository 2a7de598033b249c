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
