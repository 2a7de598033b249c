//! Exponential decay with equal bits on every machine: plain IEEE additions and multiplications, no libm.

/// Returns `2^(-age_s / half_life_s)`, within 3e-8 of the exact value.
pub(super) fn decay(age_s: u32, half_life_s: f64) -> f64 {
    let halvings = f64::from(age_s) / half_life_s;
    if halvings >= 1_000.0 {
        return 0.0;
    }
    let whole = halvings.floor();
    power_of_half(halvings - whole) * inverse_power_of_two(whole)
}

/// `2^(-x)` for `x` in `[0, 1)`: the Taylor polynomial of `2^(-(x - 1/2))` around 1/2, scaled by `2^(-1/2)`.
fn power_of_half(x: f64) -> f64 {
    let y = (0.5 - x) * std::f64::consts::LN_2;
    let tail = 1.0 / 720.0 + y * (1.0 / 5_040.0);
    let sum = 1.0 + y * (1.0 + y * (0.5 + y * (1.0 / 6.0 + y * (1.0 / 24.0 + y * (1.0 / 120.0 + y * tail)))));
    sum * std::f64::consts::FRAC_1_SQRT_2
}

/// `2^(-whole)` for a whole number in `[0, 1000]`.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a whole number in [0, 1000]")]
fn inverse_power_of_two(whole: f64) -> f64 {
    f64::from_bits((1_023 - whole as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::decay;

    #[test]
    fn agrees_with_libm() {
        for age_s in (0..40_000_000).step_by(12_345) {
            for half_life_s in [86_400.0, 1_209_600.0, 7_776_000.0] {
                let exact = (-f64::from(age_s) / half_life_s).exp2();
                assert!((decay(age_s, half_life_s) - exact).abs() <= 3e-8 * exact, "{age_s} {half_life_s}");
            }
        }
    }

    #[test]
    fn vanishes_after_a_thousand_halvings() {
        assert!(decay(u32::MAX, 1.0).abs() < f64::MIN_POSITIVE);
    }
}
