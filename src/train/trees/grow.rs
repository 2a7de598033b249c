//! One tree: leaves are split where it gains most, best first.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "bins, leaf values and counts are small"
)]

use super::bins::Bins;
use crate::model::TreeNode;

/// How a tree may grow.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct GrowSettings {
    pub(super) max_leaves: usize,
    pub(super) max_depth: usize,
    /// Sum of curvatures a leaf needs at least.
    pub(super) min_curvature: f64,
    /// Rows a leaf needs at least.
    pub(super) min_rows: usize,
    /// Added to a leaf's curvature.
    pub(super) ridge: f64,
    /// Factor of leaf values.
    pub(super) rate: f64,
    /// With a seed, one cut of each feature and leaf is drawn instead of looking for the best: extremely randomised trees
    /// (Geurts, Ernst & Wehenkel 2006).
    pub(super) drawn_cuts: Option<u64>,
    pub(super) threads: usize,
}

/// Sums of slope and curvature by bin, of all features one after the other.
type Histogram = Vec<[f64; 2]>;

/// The best cut of a leaf.
#[derive(Debug, Clone, Copy)]
struct Cut {
    gain: f64,
    /// Place among the tree's features.
    column: usize,
    /// The highest bin that goes left.
    bin: u8,
    missing_left: bool,
    left: [f64; 2],
}

struct Leaf {
    /// Its rows are `order[start..end]`.
    start: usize,
    end: usize,
    depth: usize,
    /// Place in the tree.
    node: usize,
    sums: [f64; 2],
    histogram: Histogram,
    cut: Option<Cut>,
}

/// Grows a tree on `order` (row numbers of `bins`; put into another order here), with the gradients of each row by row
/// number, over `features`. Returns its nodes.
pub(super) fn grow(
    bins: &Bins,
    order: &mut [u32],
    gradients: &[[f32; 2]],
    features: &[u32],
    settings: &GrowSettings,
) -> Vec<TreeNode> {
    let mut growing = Growing::new(bins, gradients, features, *settings);
    let sums = order.iter().fold([0.0; 2], |sum, row| {
        let [slope, curvature] = gradients[*row as usize];
        [sum[0] + f64::from(slope), sum[1] + f64::from(curvature)]
    });
    let mut nodes = vec![TreeNode::Leaf(growing.value(sums))];
    let root = Leaf { start: 0, end: order.len(), depth: 0, node: 0, sums, histogram: Vec::new(), cut: None };
    let mut leaves = growing.look(order, root, None).into_iter().collect::<Vec<_>>();
    while leaves.len() < settings.max_leaves {
        // The first of equals: leaves are in the order of their making.
        let Some(best) = (0..leaves.len()).filter(|leaf| leaves[*leaf].cut.is_some()).max_by(|left, right| {
            let gain = |leaf: &usize| leaves[*leaf].cut.map_or(0.0, |cut| cut.gain);
            gain(left).total_cmp(&gain(right)).then(right.cmp(left))
        }) else {
            break;
        };
        let parent = leaves.swap_remove(best);
        let Some(cut) = parent.cut else { break };
        let feature = features[cut.column] as usize;
        let middle = parent.start
            + partition(&mut order[parent.start..parent.end], bins.column(feature), cut, &mut growing.spare);
        let right_sums = [parent.sums[0] - cut.left[0], parent.sums[1] - cut.left[1]];
        let (left, right) = (nodes.len(), nodes.len() + 1);
        nodes[parent.node] = TreeNode::Split {
            feature: features[cut.column],
            threshold: bins.upper(feature, cut.bin),
            missing_left: cut.missing_left,
            left,
            right,
        };
        nodes.push(TreeNode::Leaf(growing.value(cut.left)));
        nodes.push(TreeNode::Leaf(growing.value(right_sums)));
        let depth = parent.depth + 1;
        let leaf = |start, end, node, sums| Leaf { start, end, depth, node, sums, histogram: Vec::new(), cut: None };
        let left = leaf(parent.start, middle, left, cut.left);
        let right = leaf(middle, parent.end, right, right_sums);
        if leaves.len() + 2 >= settings.max_leaves {
            leaves.extend([left, right]);
            continue;
        }
        let (small, large) =
            if left.end - left.start <= right.end - right.start { (left, right) } else { (right, left) };
        leaves.extend(growing.look(order, small, Some((large, parent.histogram))));
    }
    nodes
}

/// Brings the rows that go left to the front, keeping their order, and returns how many they are.
fn partition(rows: &mut [u32], column: &[u8], cut: Cut, spare: &mut Vec<u32>) -> usize {
    spare.clear();
    let mut left = 0;
    for place in 0..rows.len() {
        let row = rows[place];
        let bin = column[row as usize];
        if if bin == 0 { cut.missing_left } else { bin <= cut.bin } {
            rows[left] = row;
            left += 1;
        } else {
            spare.push(row);
        }
    }
    rows[left..].copy_from_slice(spare);
    left
}

struct Growing<'a> {
    bins: &'a Bins,
    gradients: &'a [[f32; 2]],
    features: &'a [u32],
    /// Place of each feature's bins in a histogram, and the end.
    starts: Vec<usize>,
    settings: GrowSettings,
    spare: Vec<u32>,
    /// Gradients of the leaf being summed, in the order of its rows.
    gathered: Vec<[f32; 2]>,
}

impl<'a> Growing<'a> {
    fn new(bins: &'a Bins, gradients: &'a [[f32; 2]], features: &'a [u32], settings: GrowSettings) -> Self {
        let mut starts = Vec::with_capacity(features.len() + 1);
        starts.push(0);
        for feature in features {
            starts.push(starts[starts.len() - 1] + bins.bin_count(*feature as usize));
        }
        Self { bins, gradients, features, starts, settings, spare: Vec::new(), gathered: Vec::new() }
    }

    fn value(&self, sums: [f64; 2]) -> f32 {
        (-self.settings.rate * sums[0] / (sums[1] + self.settings.ridge)) as f32
    }

    /// Sums up `small` and finds its best cut, and that of its sibling, whose sums are the parent's less the small one's.
    fn look(&mut self, order: &[u32], mut small: Leaf, sibling: Option<(Leaf, Histogram)>) -> Vec<Leaf> {
        const WORK_A_THREAD: usize = 400_000;
        let may_split = |leaf: &Leaf| {
            leaf.depth < self.settings.max_depth && leaf.end - leaf.start >= 2 * self.settings.min_rows.max(1)
        };
        if !may_split(&small) && sibling.as_ref().is_none_or(|(large, _)| !may_split(large)) {
            return std::iter::once(small).chain(sibling.map(|(large, _)| large)).collect();
        }
        let rows = &order[small.start..small.end];
        self.gathered.clear();
        self.gathered.extend(rows.iter().map(|row| self.gradients[*row as usize]));
        small.histogram = vec![[0.0; 2]; self.starts[self.features.len()]];
        let (mut large, mut parent) = sibling.map_or((None, Vec::new()), |(large, parent)| (Some(large), parent));
        let threads = (rows.len() * self.features.len() / WORK_A_THREAD + 1).min(self.settings.threads.max(1));
        let pieces = self.pieces(threads);
        let this = &*self;
        let known = (&small, large.as_ref());
        let (small_size, small_sums) = (known.0.end - known.0.start, known.0.sums);
        let large_facts = known.1.map(|leaf| (leaf.end - leaf.start, leaf.sums, may_split(leaf), leaf.node));
        let (small_may, small_node) = (may_split(known.0), known.0.node);
        let work = |piece: std::ops::Range<usize>, own: &mut [[f64; 2]], other: &mut [[f64; 2]]| {
            let mut best: [Option<Cut>; 2] = [None; 2];
            let offset = this.starts[piece.start];
            for column in piece {
                let range = this.starts[column] - offset..this.starts[column + 1] - offset;
                let sums = &mut own[range.clone()];
                let bins = this.bins.column(this.features[column] as usize);
                for (row, [slope, curvature]) in rows.iter().zip(&this.gathered) {
                    let sum = &mut sums[usize::from(bins[*row as usize])];
                    sum[0] += f64::from(*slope);
                    sum[1] += f64::from(*curvature);
                }
                if small_may {
                    best[0] = better(best[0], this.cut(column, sums, small_sums, small_size, small_node));
                }
                if let Some((size, total, may, node)) = large_facts {
                    let rest = &mut other[range];
                    for (rest, sum) in rest.iter_mut().zip(sums.iter()) {
                        *rest = [rest[0] - sum[0], rest[1] - sum[1]];
                    }
                    if may {
                        best[1] = better(best[1], this.cut(column, rest, total, size, node));
                    }
                }
            }
            best
        };
        let found = in_pieces(&pieces, &this.starts, &mut small.histogram, &mut parent, &work);
        let best =
            found.into_iter().fold([None; 2], |best, piece| [better(best[0], piece[0]), better(best[1], piece[1])]);
        small.cut = best[0];
        if let Some(large) = &mut large {
            large.cut = best[1];
            large.histogram = parent;
        }
        std::iter::once(small).chain(large).collect()
    }

    /// Cuts the features into `count` runs.
    fn pieces(&self, count: usize) -> Vec<std::ops::Range<usize>> {
        let features = self.features.len();
        (0..count).map(|piece| features * piece / count..features * (piece + 1) / count).collect()
    }

    /// The best cut over one feature, or the drawn one.
    fn cut(&self, column: usize, sums: &[[f64; 2]], total: [f64; 2], size: usize, node: usize) -> Option<Cut> {
        let drawn = self.settings.drawn_cuts.map(|seed| self.drawn_bin(seed, column, sums.len(), node));
        let score = |sums: [f64; 2]| sums[0] * sums[0] / (sums[1] + self.settings.ridge);
        let whole = score(total);
        // Rows of a side are told from its share of the curvature, as histograms do not count them.
        let least = self.settings.min_curvature.max(total[1] * self.settings.min_rows as f64 / size.max(1) as f64);
        let missing = sums[0];
        let ways: &[bool] = if missing[1] > 0.0 { &[true, false] } else { &[false] };
        let mut best: Option<Cut> = None;
        for missing_left in ways {
            let mut left = if *missing_left { missing } else { [0.0; 2] };
            for (bin, sum) in sums.iter().enumerate().take(sums.len() - 1).skip(1) {
                left = [left[0] + sum[0], left[1] + sum[1]];
                let right = [total[0] - left[0], total[1] - left[1]];
                if left[1] < least || drawn.is_some_and(|drawn| drawn != bin) {
                    continue;
                }
                if right[1] < least {
                    break;
                }
                let gain = score(left) + score(right) - whole;
                if gain > best.as_ref().map_or(1e-9, |best| best.gain) {
                    best = Some(Cut { gain, column, bin: bin as u8, missing_left: *missing_left, left });
                }
            }
        }
        best
    }

    /// A bin of a feature that has one above it, by seed, feature and leaf, so that threads draw alike.
    fn drawn_bin(&self, seed: u64, column: usize, bins: usize, node: usize) -> usize {
        let parts = [seed, u64::from(self.features[column]), node as u64];
        let bytes: Vec<u8> = parts.iter().flat_map(|part| part.to_le_bytes()).collect();
        let count = bins.saturating_sub(2).max(1);
        1 + (xxhash_rust::xxh3::xxh3_64(&bytes) % count as u64) as usize
    }
}

/// The cut with more gain; the first of equals.
fn better(first: Option<Cut>, second: Option<Cut>) -> Option<Cut> {
    match (first, second) {
        (Some(a), Some(b)) => Some(if b.gain > a.gain { b } else { a }),
        (a, b) => a.or(b),
    }
}

type Work<'a> = dyn Fn(std::ops::Range<usize>, &mut [[f64; 2]], &mut [[f64; 2]]) -> [Option<Cut>; 2] + Sync + 'a;

/// Runs `work` on each run of features with its part of both histograms, on a thread each where there are several.
#[expect(clippy::expect_used, reason = "a thread that cannot start or panicked leaves nothing to go on with")]
fn in_pieces(
    pieces: &[std::ops::Range<usize>],
    starts: &[usize],
    mut own: &mut [[f64; 2]],
    mut other: &mut [[f64; 2]],
    work: &Work<'_>,
) -> Vec<[Option<Cut>; 2]> {
    if let [piece] = pieces {
        return vec![work(piece.clone(), own, other)];
    }
    let mut parts = Vec::with_capacity(pieces.len());
    let has_other = !other.is_empty();
    for piece in pieces {
        let length = starts[piece.end] - starts[piece.start];
        let (mine, rest) = own.split_at_mut(length);
        let (its, other_rest) = other.split_at_mut(if has_other { length } else { 0 });
        (own, other) = (rest, other_rest);
        parts.push((piece.clone(), mine, its));
    }
    std::thread::scope(|scope| {
        let handles: Vec<_> = parts
            .into_iter()
            .enumerate()
            .map(|(thread, (piece, own, other))| {
                let named = std::thread::Builder::new().name(format!("trees-{thread}"));
                named.spawn_scoped(scope, move || work(piece, own, other)).expect("a thread starts")
            })
            .collect();
        handles.into_iter().map(|handle| handle.join().expect("no piece of work panics")).collect()
    })
}
