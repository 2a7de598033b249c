//! Boosted trees as they are served: flat arrays, a few nanoseconds a node. Training lives in `train::trees`.

/// A sum of decision trees over one row of features; NaN and infinities are missing.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Forest {
    /// Score of a row before any tree.
    base: f64,
    /// Features a row has.
    width: usize,
    /// Place of each tree's root among the nodes.
    roots: Vec<u32>,
    nodes: Vec<Node>,
}

/// An inner node, or a leaf where `feature` is [`LEAF`](Self::LEAF).
#[derive(Debug, Clone, Copy, PartialEq)]
struct Node {
    /// The feature asked for; the highest bit says that a missing value goes left.
    feature: u32,
    /// Values up to and including it go left; a leaf's value.
    threshold: f32,
    /// Place of the left child; the right one follows it.
    left: u32,
}

impl Node {
    const LEAF: u32 = u32::MAX;
    const MISSING_LEFT: u32 = 1 << 31;
}

/// One node of a tree that is built: children by place in the same list.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum TreeNode {
    /// An end with what it adds to the score.
    Leaf(f32),
    /// A question.
    Split {
        /// Place of the feature in a row.
        feature: u32,
        /// Values up to and including it go left.
        threshold: f32,
        /// Whether a missing value goes left.
        missing_left: bool,
        /// Place of the left child.
        left: usize,
        /// Place of the right child.
        right: usize,
    },
}

/// Why stored trees cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForestError {
    /// A root, child or feature points outside, a child comes before its parent, or a number is not finite.
    #[error("node `{node}` of the trees is malformed: {what}")]
    Node {
        /// Place of the node.
        node: usize,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The arrays do not fit together.
    #[error("the trees are malformed: {0}")]
    Shape(&'static str),
}

/// Plain arrays of a forest, for files.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ForestParts {
    /// Score of a row before any tree, and features a row has.
    pub base: f64,
    /// Features a row has.
    pub width: usize,
    /// Place of each tree's root.
    pub roots: Vec<u32>,
    /// Feature word of each node: see [`Forest`].
    pub features: Vec<u32>,
    /// Threshold or leaf value of each node.
    pub thresholds: Vec<f32>,
    /// Left child of each node.
    pub lefts: Vec<u32>,
}

impl Forest {
    /// A forest without trees: every row of `width` features scores `base`.
    pub fn new(width: usize, base: f64) -> Self {
        Self { base, width, roots: Vec::new(), nodes: Vec::new() }
    }

    /// Features a row has.
    pub fn width(&self) -> usize {
        self.width
    }

    /// Trees.
    pub fn tree_count(&self) -> usize {
        self.roots.len()
    }

    /// Nodes of all trees.
    pub fn node_count(&self) -> usize {
        self.nodes.len()
    }

    /// Adds a tree whose root is the first of `nodes`.
    ///
    /// # Panics
    /// When `nodes` is empty or a child lies outside it.
    pub fn push(&mut self, nodes: &[TreeNode]) {
        let start = self.nodes.len();
        self.roots.push(place(start));
        // Children are laid out side by side, so a node needs one place for both.
        let mut pending = std::collections::VecDeque::from([(0_usize, start)]);
        self.nodes.push(Node { feature: Node::LEAF, threshold: 0.0, left: 0 });
        while let Some((from, to)) = pending.pop_front() {
            self.nodes[to] = match nodes[from] {
                TreeNode::Leaf(value) => Node { feature: Node::LEAF, threshold: value, left: 0 },
                TreeNode::Split { feature, threshold, missing_left, left, right } => {
                    let children = self.nodes.len();
                    self.nodes.extend([Node { feature: Node::LEAF, threshold: 0.0, left: 0 }; 2]);
                    pending.extend([(left, children), (right, children + 1)]);
                    let missing = if missing_left { Node::MISSING_LEFT } else { 0 };
                    Node { feature: feature | missing, threshold, left: place(children) }
                }
            };
        }
    }

    /// The mean of forests over rows of `width` features, of which forest `i` reads those from `offsets[i]` on.
    ///
    /// # Panics
    /// When there is none, or one reads beyond the row.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        reason = "a mean of single-precision numbers"
    )]
    pub fn mean(forests: &[Self], offsets: &[usize], width: usize) -> Self {
        let share = 1.0 / forests.len() as f64;
        // Files keep the base in single precision.
        let base = forests.iter().map(|forest| forest.base).sum::<f64>() * share;
        let mut mean = Self { base: f64::from(base as f32), width, roots: Vec::new(), nodes: Vec::new() };
        for (forest, offset) in forests.iter().zip(offsets) {
            assert!(forest.width + offset <= width, "forests read within the row");
            let start = place(mean.nodes.len());
            mean.roots.extend(forest.roots.iter().map(|root| root + start));
            mean.nodes.extend(forest.nodes.iter().map(|node| match node.feature {
                Node::LEAF => Node { threshold: (f64::from(node.threshold) * share) as f32, ..*node },
                feature => Node { feature: feature + place(*offset), left: node.left + start, ..*node },
            }));
        }
        mean
    }

    /// All trees of all `forests`: the first of each, then the second of each, and so on. Scores and bases add up.
    ///
    /// # Panics
    /// When there is none, or they differ in width.
    pub fn interleaved(forests: &[Self]) -> Self {
        let mut all = Self::new(forests[0].width, forests.iter().map(|forest| forest.base).sum());
        let most = forests.iter().map(Self::tree_count).max().unwrap_or(0);
        for tree in 0..most {
            for forest in forests.iter().filter(|forest| tree < forest.tree_count()) {
                all.take_tree(forest, tree);
            }
        }
        all
    }

    /// Appends the trees of `other`; its base is added.
    ///
    /// # Panics
    /// When they differ in width.
    pub fn append(&mut self, other: &Self) {
        self.base += other.base;
        for tree in 0..other.tree_count() {
            self.take_tree(other, tree);
        }
    }

    /// Takes the trees from `count` on away, as a forest without a base.
    #[must_use]
    pub fn split_off(&mut self, count: usize) -> Self {
        let mut rest = Self::new(self.width, 0.0);
        for tree in count..self.tree_count() {
            rest.take_tree(self, tree);
        }
        self.truncate(count);
        rest
    }

    /// Copies one tree of `from` to the end.
    fn take_tree(&mut self, from: &Self, tree: usize) {
        assert_eq!(self.width, from.width, "trees over rows of one width");
        let start = from.roots[tree];
        let end = from.roots.get(tree + 1).map_or(from.nodes.len(), |end| *end as usize);
        let to = place(self.nodes.len());
        self.roots.push(to);
        self.nodes.extend(from.nodes[start as usize..end].iter().map(|node| match node.feature {
            Node::LEAF => *node,
            _ => Node { left: node.left - start + to, ..*node },
        }));
    }

    /// Score of a row before any tree.
    pub fn base(&self) -> f64 {
        self.base
    }

    /// Keeps the first `count` trees.
    pub fn truncate(&mut self, count: usize) {
        if let Some(end) = self.roots.get(count) {
            self.nodes.truncate(*end as usize);
            self.roots.truncate(count);
        }
    }

    /// The score of a row.
    ///
    /// # Panics
    /// When the row is shorter than [`width`](Self::width).
    pub fn score(&self, row: &[f32]) -> f64 {
        let row = &row[..self.width];
        self.base + self.roots.iter().map(|root| f64::from(self.leaf(*root, row))).sum::<f64>()
    }

    /// Places of the trees' roots.
    pub(super) fn roots(&self) -> &[u32] {
        &self.roots
    }

    /// The node at a place, its children by place.
    pub(super) fn node(&self, place: usize) -> TreeNode {
        let node = &self.nodes[place];
        match node.feature {
            Node::LEAF => TreeNode::Leaf(node.threshold),
            feature => TreeNode::Split {
                feature: feature & !Node::MISSING_LEFT,
                threshold: node.threshold,
                missing_left: feature & Node::MISSING_LEFT != 0,
                left: node.left as usize,
                right: node.left as usize + 1,
            },
        }
    }

    fn leaf(&self, root: u32, row: &[f32]) -> f32 {
        let mut node = &self.nodes[root as usize];
        while node.feature != Node::LEAF {
            let value = row[(node.feature & !Node::MISSING_LEFT) as usize];
            let goes_left =
                if value.is_finite() { value <= node.threshold } else { node.feature & Node::MISSING_LEFT != 0 };
            node = &self.nodes[node.left as usize + usize::from(!goes_left)];
        }
        node.threshold
    }

    /// Takes the forest apart.
    pub fn to_parts(&self) -> ForestParts {
        ForestParts {
            base: self.base,
            width: self.width,
            roots: self.roots.clone(),
            features: self.nodes.iter().map(|node| node.feature).collect(),
            thresholds: self.nodes.iter().map(|node| node.threshold).collect(),
            lefts: self.nodes.iter().map(|node| node.left).collect(),
        }
    }

    /// Puts a forest together. Nothing of `parts` is trusted: every walk ends and stays inside.
    pub fn from_parts(parts: &ForestParts) -> Result<Self, ForestError> {
        let count = parts.features.len();
        if parts.thresholds.len() != count || parts.lefts.len() != count {
            return Err(ForestError::Shape("the node arrays differ in length"));
        }
        if !parts.base.is_finite() || parts.width >= Node::MISSING_LEFT as usize {
            return Err(ForestError::Shape("the base is not finite, or the width too large"));
        }
        if parts.roots.iter().any(|root| *root as usize >= count) {
            return Err(ForestError::Shape("a root lies outside the nodes"));
        }
        if !parts.roots.is_sorted_by(|left, right| left < right) || parts.roots.first().map_or(0, |first| *first) != 0 {
            return Err(ForestError::Shape("the roots do not divide the nodes into trees"));
        }
        let mut ends = parts.roots.iter().skip(1).map(|end| *end as usize).chain([count]);
        let mut end = ends.next().unwrap_or(count);
        let mut nodes = Vec::with_capacity(count);
        for (node, ((feature, threshold), left)) in
            parts.features.iter().zip(&parts.thresholds).zip(&parts.lefts).enumerate()
        {
            let refuse = |what| Err(ForestError::Node { node, what });
            if node == end {
                end = ends.next().unwrap_or(count);
            }
            if !threshold.is_finite() {
                return refuse("its number is not finite");
            }
            if *feature != Node::LEAF {
                if (feature & !Node::MISSING_LEFT) as usize >= parts.width {
                    return refuse("it asks for a feature that rows do not have");
                }
                if *left as usize <= node || *left as usize + 1 >= end {
                    return refuse("its children lie outside its tree or before it");
                }
            }
            nodes.push(Node { feature: *feature, threshold: *threshold, left: *left });
        }
        Ok(Self { base: parts.base, width: parts.width, roots: parts.roots.clone(), nodes })
    }

    /// How often each feature is asked for, over all trees.
    pub fn split_counts(&self) -> Vec<u32> {
        let mut counts = vec![0; self.width];
        for node in self.nodes.iter().filter(|node| node.feature != Node::LEAF) {
            counts[(node.feature & !Node::MISSING_LEFT) as usize] += 1;
        }
        counts
    }
}

#[expect(clippy::expect_used, reason = "trees are far below four thousand million nodes; more is a bug")]
fn place(place: usize) -> u32 {
    u32::try_from(place).expect("nodes fit into 32 bits")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// x0 <= 1 → (x1 <= 5, missing left → 10 | 20), else 30; missing x0 goes right.
    fn forest() -> Forest {
        let mut forest = Forest::new(2, 0.5);
        let split = |feature, threshold, missing_left, left, right| TreeNode::Split {
            feature,
            threshold,
            missing_left,
            left,
            right,
        };
        forest.push(&[
            split(0, 1.0, false, 2, 1),
            TreeNode::Leaf(30.0),
            split(1, 5.0, true, 3, 4),
            TreeNode::Leaf(10.0),
            TreeNode::Leaf(20.0),
        ]);
        forest.push(&[TreeNode::Leaf(1.0)]);
        forest
    }

    #[test]
    fn walks_by_hand() {
        let forest = forest();
        for (row, expected) in [
            ([1.0, 5.0], 11.5),
            ([1.0, 5.1], 21.5),
            ([1.1, 0.0], 31.5),
            ([f32::NAN, 0.0], 31.5),
            ([0.0, f32::NAN], 11.5),
            ([0.0, f32::INFINITY], 11.5),
        ] {
            assert!((forest.score(&row) - expected).abs() < 1e-12, "{row:?}");
        }
        assert_eq!(forest.split_counts(), [1, 1]);
        let mut short = forest;
        short.truncate(1);
        assert_eq!((short.tree_count(), short.node_count()), (1, 5));
    }

    #[test]
    fn a_mean_reads_each_forests_own_part_of_the_row() {
        let (one, other) = (forest(), Forest::new(2, 2.5));
        let mean = Forest::mean(&[one.clone(), other, one.clone()], &[0, 0, 2], 4);
        for row in [[1.0, 5.0, 1.1, 0.0], [0.0, f32::NAN, 1.0, 5.1]] {
            let expected = (one.score(&row[..2]) + 2.5 + one.score(&row[2..])) / 3.0;
            assert!((mean.score(&row) - expected).abs() < 1e-5, "{row:?}");
        }
        assert_eq!(Forest::from_parts(&mean.to_parts()).unwrap(), mean);
    }

    #[test]
    fn trees_are_told_apart_and_joined() {
        let (one, row) = (forest(), [1.0, 5.1]);
        let mut first = one.clone();
        let rest = first.split_off(1);
        assert_eq!((first.tree_count(), rest.tree_count()), (1, 1));
        assert!((first.score(&row) + rest.score(&row) - one.score(&row)).abs() < 1e-12);
        let mut whole = first.clone();
        whole.append(&rest);
        assert_eq!(whole, one);
        assert_eq!(first.split_off(7), Forest::new(2, 0.0));

        let both = Forest::interleaved(&[rest, one.clone()]);
        assert_eq!(both.tree_count(), 3);
        assert!((both.score(&row) - one.score(&row) - 1.0).abs() < 1e-12);
        assert_eq!(Forest::from_parts(&both.to_parts()).unwrap(), both);
    }

    #[test]
    fn parts_come_together_again_and_bad_ones_are_refused() {
        let parts = forest().to_parts();
        assert_eq!(Forest::from_parts(&parts).unwrap(), forest());
        let broken = |change: &dyn Fn(&mut ForestParts)| {
            let mut parts = parts.clone();
            change(&mut parts);
            Forest::from_parts(&parts).unwrap_err()
        };
        assert!(matches!(broken(&|parts| parts.lefts[0] = 0), ForestError::Node { node: 0, .. }));
        assert!(matches!(broken(&|parts| parts.lefts[0] = 5), ForestError::Node { node: 0, .. }));
        assert!(matches!(broken(&|parts| parts.features[0] = 2), ForestError::Node { node: 0, .. }));
        assert!(matches!(broken(&|parts| parts.thresholds[1] = f32::NAN), ForestError::Node { node: 1, .. }));
        assert!(matches!(broken(&|parts| parts.roots[1] = 99), ForestError::Shape(_)));
        assert!(matches!(broken(&|parts| parts.roots.swap(0, 1)), ForestError::Shape(_)));
        // A tree that reaches into the next one.
        assert!(matches!(broken(&|parts| parts.lefts[1] = 4), ForestError::Node { node: 1, .. }));
        assert!(matches!(broken(&|parts| parts.base = f64::NAN), ForestError::Shape(_)));
        assert!(matches!(broken(&|parts| parts.lefts.truncate(1)), ForestError::Shape(_)));
    }
}
