//! Features cut into bins: what the learner reads instead of numbers.

/// A matrix of bin numbers, column by column. Bin 0 is 'missing'.
#[derive(Debug, Clone)]
pub struct Bins {
    rows: usize,
    /// `columns[feature * rows + row]`.
    columns: Vec<u8>,
    /// Ascending upper ends of a feature's bins; the last bin has none. Value `v` is in bin 1 + the number of cuts below `v`.
    cuts: Vec<Vec<f32>>,
}

/// Rows looked at to choose the cuts of a feature.
const SAMPLE_ROWS: usize = 100_000;

impl Bins {
    /// Cuts the `rows × width` values, row by row, into at most `max_bins` (2 to 255) bins of about equal mass, one a
    /// distinct value where there are few. Values that are not finite are missing.
    ///
    /// # Panics
    /// When `values` is not a whole number of rows.
    pub fn of(values: &[f32], width: usize, max_bins: usize, threads: usize) -> Self {
        assert!(width > 0 && values.len().is_multiple_of(width), "whole rows");
        let rows = values.len() / width;
        let max_bins = max_bins.clamp(2, 255);
        let made = super::super::parallel::map(threads, width, |feature| {
            let column = || values[feature..].iter().step_by(width).copied();
            let step = rows.div_ceil(SAMPLE_ROWS).max(1);
            let cuts = cuts(column().step_by(step).filter(|value| value.is_finite()).collect(), max_bins);
            let bins: Vec<u8> = column().map(|value| bin(&cuts, value)).collect();
            (cuts, bins)
        });
        let mut bins = Self { rows, columns: Vec::with_capacity(rows * width), cuts: Vec::with_capacity(width) };
        for (cuts, column) in made {
            bins.cuts.push(cuts);
            bins.columns.extend(column);
        }
        bins
    }

    /// Rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Features.
    pub fn width(&self) -> usize {
        self.cuts.len()
    }

    /// Bin numbers of a feature by row.
    pub(super) fn column(&self, feature: usize) -> &[u8] {
        &self.columns[feature * self.rows..(feature + 1) * self.rows]
    }

    /// Bins of a feature, 'missing' included.
    pub(super) fn bin_count(&self, feature: usize) -> usize {
        self.cuts[feature].len() + 2
    }

    /// The bin of a value.
    pub(super) fn bin_of(&self, feature: usize, value: f32) -> u8 {
        bin(&self.cuts[feature], value)
    }

    /// The largest value of a bin that has a bin above it.
    pub(super) fn upper(&self, feature: usize, bin: u8) -> f32 {
        self.cuts[feature][usize::from(bin) - 1]
    }
}

#[expect(clippy::cast_possible_truncation, reason = "at most 254 cuts")]
fn bin(cuts: &[f32], value: f32) -> u8 {
    if value.is_finite() { 1 + cuts.partition_point(|cut| *cut < value) as u8 } else { 0 }
}

/// Ends of at most `max_bins` bins over the values, in order.
fn cuts(mut values: Vec<f32>, max_bins: usize) -> Vec<f32> {
    values.sort_unstable_by(f32::total_cmp);
    let mut distinct: Vec<(f32, usize)> = Vec::new();
    for value in values.iter().map(|value| if *value == 0.0 { 0.0 } else { *value }) {
        match distinct.last_mut() {
            Some((last, count)) if last.to_bits() == value.to_bits() => *count += 1,
            _ => distinct.push((value, 1)),
        }
    }
    // Between two values lies their middle, but never the upper one itself: that belongs above.
    let between = |low: f32, high: f32| {
        let middle = low + (high - low) / 2.0;
        if middle < high && middle.is_finite() { middle } else { low }
    };
    if distinct.len() <= max_bins {
        return distinct.windows(2).map(|pair| between(pair[0].0, pair[1].0)).collect();
    }
    let mut cuts = Vec::with_capacity(max_bins);
    let (mut left, mut in_bin) = (values.len(), 0);
    for pair in distinct.windows(2) {
        in_bin += pair[0].1;
        let bins_left = max_bins - cuts.len();
        if bins_left > 1 && in_bin >= left.div_ceil(bins_left) {
            cuts.push(between(pair[0].0, pair[1].0));
            left -= in_bin;
            in_bin = 0;
        }
    }
    cuts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_have_a_bin_each_and_missing_its_own() {
        let bins = Bins::of(&[3.0, f32::NAN, 1.0, 3.0, 2.0, f32::INFINITY], 1, 255, 1);
        assert_eq!(bins.column(0), [3, 0, 1, 3, 2, 0]);
        assert_eq!((bins.bin_count(0), bins.upper(0, 1), bins.upper(0, 2)), (4, 1.5, 2.5));
    }

    #[test]
    fn many_values_share_bins_of_about_equal_mass() {
        #[expect(clippy::cast_precision_loss, reason = "small numbers")]
        let values: Vec<f32> = (0..10_000).map(|value| (value as f32).sqrt()).collect();
        let bins = Bins::of(&values, 1, 16, 1);
        assert_eq!(bins.bin_count(0), 17);
        let mut counts = [0; 17];
        for bin in bins.column(0) {
            counts[usize::from(*bin)] += 1;
        }
        assert_eq!(counts[0], 0);
        assert!(counts[1..].iter().all(|count| (600..=650).contains(count)), "{counts:?}");
    }

    #[test]
    fn a_constant_or_absent_feature_has_one_bin() {
        let bins = Bins::of(&[7.0, f32::NAN, 7.0, f32::NAN], 2, 255, 1);
        assert_eq!((bins.bin_count(0), bins.bin_count(1)), (2, 2));
        assert_eq!((bins.column(0), bins.column(1)), (&[1, 1][..], &[0, 0][..]));
    }
}
