//! `AdamW` over flat arrays, and its lazy form for the rows of the item table a step touched.

/// Constants of the optimiser.
#[derive(Debug, Clone, Copy)]
pub(super) struct AdamSettings {
    pub(super) beta1: f32,
    pub(super) beta2: f32,
    pub(super) epsilon: f32,
}

impl Default for AdamSettings {
    fn default() -> Self {
        Self { beta1: 0.9, beta2: 0.98, epsilon: 1e-8 }
    }
}

/// First and second moments of one array.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    first: Vec<f32>,
    second: Vec<f32>,
}

impl Moments {
    pub(super) fn new(length: usize) -> Self {
        Self { first: vec![0.0; length], second: vec![0.0; length] }
    }

    /// Moves `values[range]` against `gradient` (as long as the range). `step` counts from 1 and corrects the bias of the
    /// young moments; `decay` is the decoupled weight decay.
    #[expect(clippy::too_many_arguments, reason = "one update rule, all of its numbers")]
    pub(super) fn step(
        &mut self,
        settings: &AdamSettings,
        values: &mut [f32],
        start: usize,
        gradient: &[f32],
        rate: f32,
        decay: f32,
        step: i32,
    ) {
        let correction1 = 1.0 - settings.beta1.powi(step);
        let correction2 = 1.0 - settings.beta2.powi(step);
        let end = start + gradient.len();
        let places = values[start..end].iter_mut().zip(&mut self.first[start..end]).zip(&mut self.second[start..end]);
        for (((value, first), second), gradient) in places.zip(gradient) {
            *first = settings.beta1 * *first + (1.0 - settings.beta1) * gradient;
            *second = settings.beta2 * *second + (1.0 - settings.beta2) * gradient * gradient;
            let direction = (*first / correction1) / ((*second / correction2).sqrt() + settings.epsilon);
            *value -= rate * (direction + decay * *value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_minimum_of_a_bowl() {
        let (mut values, settings) = (vec![5.0_f32, -3.0], AdamSettings::default());
        let mut moments = Moments::new(2);
        for step in 1..=2_000 {
            let gradient: Vec<f32> = values.iter().map(|value| 2.0 * (value - 1.0)).collect();
            moments.step(&settings, &mut values, 0, &gradient, 0.02, 0.0, step);
        }
        assert!(values.iter().all(|value| (value - 1.0).abs() < 1e-2), "{values:?}");
    }
}
