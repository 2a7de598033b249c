//! Boosted trees for many rows at once: every row of a block is asked every question of a tree, side by side in vector
//! registers, and what a question rules out is taken from a set of leaves. No step waits for another or depends on a row,
//! which for trees of some dozens of leaves is several times faster than walking down.
//!
//! The sets of leaves are those of `QuickScorer` (Lucchese et al., SIGIR 2015, section 3.1), a row a lane as in its vector
//! form (SIGIR 2016); there the questions are sorted by feature, here by tree, so that a set stays in a register.

#![expect(clippy::inline_always, reason = "the instruction set is the caller's, and only inlined code gets it")]

use std::ops::{BitAnd, BitOr};

use super::{Forest, TreeNode};

/// Rows of a block.
const LANES: usize = 16;

/// A forest made ready to score blocks of rows.
#[derive(Debug, Clone, PartialEq)]
pub struct LaneForest {
    base: f64,
    width: usize,
    trees: Trees,
}

#[derive(Debug, Clone, PartialEq)]
enum Trees {
    /// No tree has more than 32 leaves.
    Narrow(Questions<u32>),
    /// No tree has more than 64 leaves.
    Wide(Questions<u64>),
    /// Trees that are walked.
    Walked(Forest),
}

/// The questions of all trees.
#[derive(Debug, Clone, PartialEq, Default)]
struct Questions<B> {
    trees: Vec<Tree>,
    asked: Vec<Question<B>>,
    /// Values of the leaves, tree after tree, from left to right.
    values: Vec<f32>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
struct Tree {
    /// End of the questions that send a missing value to the right; they come first.
    right_end: usize,
    /// End of all its questions, and the start of the next tree's.
    end: usize,
    /// Place of its first leaf's value.
    values: usize,
}

/// An inner node.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Question<B> {
    feature: u32,
    /// Values above go to the right.
    threshold: f32,
    /// Leaves left when the answer is right: all but those of the left subtree.
    if_right: B,
}

/// A set of leaves, the leftmost in the lowest bit.
trait Leaves: Copy + BitAnd<Output = Self> + BitOr<Output = Self> {
    const ALL: Self;
    /// Leaves a set has room for.
    const ROOM: usize;

    /// All but those from `start` to before `end`.
    fn without(start: usize, end: usize) -> Self;

    /// All if so, none if not; without a branch.
    fn all_if(is_so: bool) -> Self;

    /// The leftmost leaf.
    fn leftmost(self) -> usize;
}

macro_rules! leaves {
    ($bits:ty) => {
        impl Leaves for $bits {
            const ALL: Self = Self::MAX;
            const ROOM: usize = Self::BITS as usize;

            fn without(start: usize, end: usize) -> Self {
                (start..end).fold(Self::MAX, |leaves, leaf| leaves & !(1 << leaf))
            }

            #[inline(always)]
            fn all_if(is_so: bool) -> Self {
                Self::from(is_so).wrapping_neg()
            }

            #[inline(always)]
            fn leftmost(self) -> usize {
                self.trailing_zeros() as usize
            }
        }
    };
}

leaves!(u32);
leaves!(u64);

impl LaneForest {
    /// Makes a forest ready.
    pub fn new(forest: &Forest) -> Self {
        let narrow = Questions::<u32>::of(forest).map(Trees::Narrow);
        let fitting = narrow.or_else(|| Questions::<u64>::of(forest).map(Trees::Wide));
        let trees = fitting.unwrap_or_else(|| Trees::Walked(forest.clone()));
        Self { base: forest.base(), width: forest.width(), trees }
    }

    /// The scores of many rows, equal to those of [`Forest::score`] bit for bit.
    ///
    /// # Panics
    /// When a row is shorter than the forest's width.
    pub fn scores(&self, rows: &[&[f32]]) -> Vec<f64> {
        match &self.trees {
            Trees::Narrow(questions) => self.block_scores(questions, rows),
            Trees::Wide(questions) => self.block_scores(questions, rows),
            Trees::Walked(forest) => rows.iter().map(|row| forest.score(row)).collect(),
        }
    }

    fn block_scores<B: Leaves>(&self, questions: &Questions<B>, rows: &[&[f32]]) -> Vec<f64> {
        let arch = pulp::Arch::new();
        let mut columns = vec![[f32::NAN; LANES]; self.width];
        let mut scores = Vec::with_capacity(rows.len());
        for block in rows.chunks(LANES) {
            for (lane, row) in block.iter().enumerate() {
                for (column, value) in columns.iter_mut().zip(&row[..self.width]) {
                    column[lane] = if value.is_finite() { *value } else { f32::NAN };
                }
            }
            let mut sums = [0.0; LANES];
            arch.dispatch(Pass { questions, columns: &columns, sums: &mut sums });
            scores.extend(sums[..block.len()].iter().map(|sum| self.base + sum));
        }
        scores
    }
}

impl<B: Leaves> Questions<B> {
    /// The questions of a forest; `None` when a tree has more leaves than a set has room for.
    fn of(forest: &Forest) -> Option<Self> {
        let mut all = Self { trees: Vec::new(), asked: Vec::new(), values: Vec::new() };
        for root in forest.roots() {
            let mut tree = Unfolded { forest, right: Vec::new(), left: Vec::new(), values: Vec::new() };
            tree.take(*root as usize, 0)?;
            all.asked.extend(tree.right);
            let right_end = all.asked.len();
            all.asked.extend(tree.left);
            all.trees.push(Tree { right_end, end: all.asked.len(), values: all.values.len() });
            all.values.extend(tree.values);
        }
        Some(all)
    }
}

/// One tree as it is taken apart.
struct Unfolded<'a, B> {
    forest: &'a Forest,
    /// Questions that send a missing value to the right, and to the left.
    right: Vec<Question<B>>,
    left: Vec<Question<B>>,
    values: Vec<f32>,
}

impl<B: Leaves> Unfolded<'_, B> {
    /// Takes the leaves below a node from left to right, and its questions; `None` when there is no room for its leaves.
    /// A tree that fits is no deeper than it has leaves, which bounds the recursion whatever a file says.
    fn take(&mut self, node: usize, depth: usize) -> Option<()> {
        if depth >= B::ROOM {
            return None;
        }
        match self.forest.node(node) {
            TreeNode::Leaf(value) => self.values.push(value),
            TreeNode::Split { feature, threshold, missing_left, left, right } => {
                let start = self.values.len();
                self.take(left, depth + 1)?;
                let question = Question { feature, threshold, if_right: B::without(start, self.values.len()) };
                let questions = if missing_left { &mut self.left } else { &mut self.right };
                questions.push(question);
                self.take(right, depth + 1)?;
            }
        }
        (self.values.len() <= B::ROOM).then_some(())
    }
}

/// One block through all trees. A type and no closure, so that all of it is inlined into the function that has the wider
/// instruction set.
struct Pass<'a, B> {
    questions: &'a Questions<B>,
    /// Features by place, a row a lane; NaN where missing.
    columns: &'a [[f32; LANES]],
    sums: &'a mut [f64; LANES],
}

impl<B: Leaves> pulp::WithSimd for Pass<'_, B> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: pulp::Simd>(self, _: S) {
        let Questions { trees, asked, values } = self.questions;
        let mut start = 0;
        for tree in trees {
            let mut leaves = [B::ALL; LANES];
            for question in &asked[start..tree.right_end] {
                let Question { feature, threshold, if_right } = *question;
                for (leaves, value) in leaves.iter_mut().zip(&self.columns[feature as usize]) {
                    // NaN is not below anything.
                    *leaves = *leaves & (if_right | B::all_if(*value <= threshold));
                }
            }
            for question in &asked[tree.right_end..tree.end] {
                let Question { feature, threshold, if_right } = *question;
                for (leaves, value) in leaves.iter_mut().zip(&self.columns[feature as usize]) {
                    #[expect(clippy::neg_cmp_op_on_partial_ord, reason = "NaN is not above anything either")]
                    let is_left = !(*value > threshold);
                    *leaves = *leaves & (if_right | B::all_if(is_left));
                }
            }
            let values = &values[tree.values..];
            for (sum, leaves) in self.sums.iter_mut().zip(leaves) {
                *sum += f64::from(values[leaves.leftmost()]);
            }
            start = tree.end;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A tree of `leaves` leaves over four features, as `seed` draws it.
    fn grow(leaves: usize, seed: &mut u64) -> Vec<TreeNode> {
        let mut draw = |below: u64| {
            *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (*seed >> 33) % below
        };
        let mut nodes = vec![TreeNode::Leaf(0.0)];
        for leaf in 1..leaves {
            let ends: Vec<usize> = (0..nodes.len()).filter(|node| matches!(nodes[*node], TreeNode::Leaf(_))).collect();
            let end = ends[usize::try_from(draw(ends.len() as u64)).unwrap()];
            let (left, right) = (nodes.len(), nodes.len() + 1);
            nodes[end] = TreeNode::Split {
                feature: u32::try_from(draw(4)).unwrap(),
                threshold: f32::from(u8::try_from(draw(9)).unwrap()),
                missing_left: draw(2) == 0,
                left,
                right,
            };
            nodes.extend([leaf, leaf + 100].map(|leaf| TreeNode::Leaf(f32::from(u8::try_from(leaf).unwrap()) * 0.37)));
        }
        nodes
    }

    #[test]
    fn blocks_score_as_walks_do_bit_for_bit() {
        for (most_leaves, is_walked) in
            [(1_usize, false), (7, false), (32, false), (33, false), (64, false), (65, true)]
        {
            let mut seed = most_leaves as u64;
            let mut forest = Forest::new(4, 0.25);
            for leaves in [most_leaves, most_leaves.div_ceil(2), 1, most_leaves] {
                forest.push(&grow(leaves, &mut seed));
            }
            let lanes = LaneForest::new(&forest);
            assert_eq!(matches!(lanes.trees, Trees::Walked(_)), is_walked, "{most_leaves}");
            assert_eq!(matches!(lanes.trees, Trees::Narrow(_)), most_leaves <= 32, "{most_leaves}");
            let special = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -1.0, 0.0, 3.0, 3.5, 8.0, 9.0];
            let rows: Vec<[f32; 4]> =
                (0..100_usize).map(|row| std::array::from_fn(|place| special[row * (place + 3) % 9])).collect();
            for count in [0, 1, LANES, 100] {
                let rows: Vec<&[f32]> = rows[..count].iter().map(<[f32; 4]>::as_slice).collect();
                let expected: Vec<u64> = rows.iter().map(|row| forest.score(row).to_bits()).collect();
                assert_eq!(lanes.scores(&rows).into_iter().map(f64::to_bits).collect::<Vec<_>>(), expected);
            }
        }
    }

    #[test]
    fn a_chain_deeper_than_a_set_is_walked() {
        let chain: Vec<TreeNode> = (0..1_000_usize)
            .flat_map(|link| {
                let (left, right) = (2 * link + 2, 2 * link + 1);
                [TreeNode::Split { feature: 0, threshold: 1.0, missing_left: true, left, right }, TreeNode::Leaf(1.0)]
            })
            .chain([TreeNode::Leaf(2.0)])
            .collect();
        let mut forest = Forest::new(1, 0.0);
        forest.push(&chain);
        let lanes = LaneForest::new(&forest);
        assert!(matches!(lanes.trees, Trees::Walked(_)));
        assert_eq!(lanes.scores(&[&[0.0], &[2.0]]), [2.0, 1.0]);
    }
}
