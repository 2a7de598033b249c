//! Communities of a weighted graph by modularity: the Leiden algorithm (Traag, Waltman and van Eck 2019), with the greedy
//! form of its refinement (their θ → 0), so that equal input gives equal communities.

#![expect(clippy::cast_possible_truncation, reason = "nodes are numbered with 32 bits")]

use std::collections::VecDeque;

/// Levels at most; each at least halves the nodes in practice.
const LEVELS: usize = 32;
/// Gains below it are rounding.
const LEAST_GAIN: f64 = 1e-12;

/// An undirected weighted graph: each edge stands in the rows of both its ends.
#[derive(Debug, Clone, Default)]
pub struct WeightedGraph {
    starts: Vec<usize>,
    targets: Vec<u32>,
    weights: Vec<f64>,
    /// Weight of the loop of each node, counted once.
    loops: Vec<f64>,
}

impl WeightedGraph {
    /// Builds from undirected edges; parallel edges add up, loops count as inner weight.
    pub fn from_edges(node_count: usize, edges: &[(u32, u32, f64)]) -> Self {
        let mut both: Vec<(u32, u32, f64)> = Vec::with_capacity(2 * edges.len());
        let mut loops = vec![0.0; node_count];
        for &(from, to, weight) in edges {
            if from == to {
                loops[from as usize] += weight;
            } else {
                both.push((from, to, weight));
                both.push((to, from, weight));
            }
        }
        both.sort_by_key(|&(from, to, _)| (from, to));
        let mut graph = Self { starts: vec![0; node_count + 1], loops, ..Self::default() };
        let mut row = 0;
        for (from, to, weight) in both {
            while row < from as usize {
                row += 1;
                graph.starts[row] = graph.targets.len();
            }
            let starts = graph.starts[row];
            match graph.targets[starts..].last() {
                Some(last) if *last == to => {
                    if let Some(known) = graph.weights.last_mut() {
                        *known += weight;
                    }
                }
                _ => {
                    graph.targets.push(to);
                    graph.weights.push(weight);
                }
            }
        }
        for start in &mut graph.starts[row + 1..] {
            *start = graph.targets.len();
        }
        graph
    }

    /// Nodes.
    pub fn node_count(&self) -> usize {
        self.loops.len()
    }

    fn neighbours(&self, node: usize) -> impl Iterator<Item = (usize, f64)> + '_ {
        let row = self.starts[node]..self.starts[node + 1];
        self.targets[row.clone()].iter().map(|target| *target as usize).zip(self.weights[row].iter().copied())
    }

    /// Sum of a node's weights, its loop counted twice.
    fn strength(&self, node: usize) -> f64 {
        2.0 * self.loops[node] + self.neighbours(node).map(|(_, weight)| weight).sum::<f64>()
    }
}

/// The community of each node, numbered from 0 by size (largest first, ties by the smallest member).
///
/// `resolution` above 1 gives more and smaller communities (Reichardt and Bornholdt 2006).
pub fn leiden(graph: &WeightedGraph, resolution: f64) -> Vec<u32> {
    let mut level = graph.clone();
    let mut node_of: Vec<usize> = (0..graph.node_count()).collect();
    let mut communities: Vec<usize> = node_of.clone();
    for _ in 0..LEVELS {
        let moved = move_nodes(&level, &mut communities, resolution);
        let count = numbered(&mut communities);
        if !moved || count == level.node_count() {
            break;
        }
        let mut parts = refine(&level, &communities, resolution);
        let part_count = numbered(&mut parts);
        if part_count == level.node_count() {
            break;
        }
        let mut community_of_part = vec![0; part_count];
        for (node, part) in parts.iter().enumerate() {
            community_of_part[*part] = communities[node];
        }
        level = aggregate(&level, &parts, part_count);
        for node in &mut node_of {
            *node = parts[*node];
        }
        communities = community_of_part;
    }
    by_size(&node_of.iter().map(|node| communities[*node]).collect::<Vec<_>>())
}

/// Modularity at resolution 1 (Newman 2004): 0 for a random division, near 1 for strong communities.
pub fn modularity(graph: &WeightedGraph, communities: &[u32]) -> f64 {
    let total: f64 = (0..graph.node_count()).map(|node| graph.strength(node)).sum();
    if total <= 0.0 {
        return 0.0;
    }
    let count = communities.iter().max().map_or(0, |last| *last as usize + 1);
    let (mut inner, mut strength) = (vec![0.0; count], vec![0.0; count]);
    for node in 0..graph.node_count() {
        let own = communities[node];
        strength[own as usize] += graph.strength(node);
        inner[own as usize] += 2.0 * graph.loops[node];
        inner[own as usize] += graph
            .neighbours(node)
            .filter(|(other, _)| communities[*other] == own)
            .map(|(_, weight)| weight)
            .sum::<f64>();
    }
    inner.iter().zip(&strength).map(|(inner, strength)| inner / total - (strength / total).powi(2)).sum()
}

/// Moves nodes to the neighbouring community with the best gain until none gains; says whether any moved.
fn move_nodes(graph: &WeightedGraph, communities: &mut [usize], resolution: f64) -> bool {
    let strength: Vec<f64> = (0..graph.node_count()).map(|node| graph.strength(node)).collect();
    let total: f64 = strength.iter().sum();
    if total <= 0.0 {
        return false;
    }
    let mut sums = vec![0.0; graph.node_count()];
    for (node, community) in communities.iter().enumerate() {
        sums[*community] += strength[node];
    }
    let mut towards = vec![0.0; graph.node_count()];
    let mut touched: Vec<usize> = Vec::new();
    let mut queue: VecDeque<usize> = (0..graph.node_count()).collect();
    let mut queued = vec![true; graph.node_count()];
    let mut moved = false;
    while let Some(node) = queue.pop_front() {
        queued[node] = false;
        let own = communities[node];
        for (other, weight) in graph.neighbours(node) {
            let community = communities[other];
            if towards[community] == 0.0 {
                touched.push(community);
            }
            towards[community] += weight;
        }
        sums[own] -= strength[node];
        let gain = |community: usize, towards: &[f64]| {
            towards[community] - resolution * strength[node] * sums[community] / total
        };
        let mut best = (gain(own, &towards), own);
        for community in &touched {
            let found = gain(*community, &towards);
            if found > best.0 + LEAST_GAIN {
                best = (found, *community);
            }
        }
        sums[best.1] += strength[node];
        for community in touched.drain(..) {
            towards[community] = 0.0;
        }
        if best.1 != own {
            communities[node] = best.1;
            moved = true;
            for (other, _) in graph.neighbours(node) {
                if communities[other] != best.1 && !queued[other] {
                    queued[other] = true;
                    queue.push_back(other);
                }
            }
        }
    }
    moved
}

/// Splits each community into well connected parts: single nodes join the part of their own community that gains most.
fn refine(graph: &WeightedGraph, communities: &[usize], resolution: f64) -> Vec<usize> {
    let strength: Vec<f64> = (0..graph.node_count()).map(|node| graph.strength(node)).collect();
    let total: f64 = strength.iter().sum();
    let mut community_sums = vec![0.0; graph.node_count()];
    for (node, community) in communities.iter().enumerate() {
        community_sums[*community] += strength[node];
    }
    let mut parts: Vec<usize> = (0..graph.node_count()).collect();
    let mut sums = strength.clone();
    let mut sizes = vec![1_usize; graph.node_count()];
    let mut towards = vec![0.0; graph.node_count()];
    let mut touched: Vec<usize> = Vec::new();
    for node in 0..graph.node_count() {
        if sizes[parts[node]] > 1 {
            continue;
        }
        let mut inside = 0.0;
        for (other, weight) in graph.neighbours(node).filter(|(other, _)| communities[*other] == communities[node]) {
            inside += weight;
            let part = parts[other];
            if towards[part] == 0.0 {
                touched.push(part);
            }
            towards[part] += weight;
        }
        let rest = community_sums[communities[node]] - strength[node];
        // Only nodes well connected to their community may move (Traag et al., equation 6).
        if inside >= resolution * strength[node] * rest / total {
            let mut best = (0.0, parts[node]);
            for part in touched.iter().copied().filter(|part| *part != parts[node]) {
                let found = towards[part] - resolution * strength[node] * sums[part] / total;
                if found > best.0 + LEAST_GAIN {
                    best = (found, part);
                }
            }
            if best.1 != parts[node] {
                sums[parts[node]] -= strength[node];
                sizes[parts[node]] -= 1;
                parts[node] = best.1;
                sums[best.1] += strength[node];
                sizes[best.1] += 1;
            }
        }
        for part in touched.drain(..) {
            towards[part] = 0.0;
        }
    }
    parts
}

/// The graph whose nodes are the parts.
fn aggregate(graph: &WeightedGraph, parts: &[usize], part_count: usize) -> WeightedGraph {
    let mut edges = Vec::new();
    for node in 0..graph.node_count() {
        edges.push((parts[node] as u32, parts[node] as u32, graph.loops[node]));
        for (other, weight) in graph.neighbours(node).filter(|(other, _)| *other > node) {
            edges.push((parts[node] as u32, parts[other] as u32, weight));
        }
    }
    WeightedGraph::from_edges(part_count, &edges)
}

/// Renumbers from 0 in order of first occurrence; returns how many there are.
fn numbered(communities: &mut [usize]) -> usize {
    let mut number_of = vec![usize::MAX; communities.len()];
    let mut count = 0;
    for community in communities.iter_mut() {
        if number_of[*community] == usize::MAX {
            number_of[*community] = count;
            count += 1;
        }
        *community = number_of[*community];
    }
    count
}

fn by_size(communities: &[usize]) -> Vec<u32> {
    let count = communities.iter().max().map_or(0, |last| last + 1);
    let mut sizes = vec![0_usize; count];
    for community in communities {
        sizes[*community] += 1;
    }
    let mut first = vec![usize::MAX; count];
    for (node, community) in communities.iter().enumerate().rev() {
        first[*community] = node;
    }
    let mut order: Vec<usize> = (0..count).filter(|community| sizes[*community] > 0).collect();
    order.sort_by_key(|community| (std::cmp::Reverse(sizes[*community]), first[*community]));
    let mut number_of = vec![0_u32; count];
    for (number, community) in order.into_iter().enumerate() {
        number_of[community] = number as u32;
    }
    communities.iter().map(|community| number_of[*community]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `groups` cliques of `size`, neighbours joined by one edge in a ring.
    fn ring_of_cliques(groups: u32, size: u32) -> WeightedGraph {
        let mut edges = Vec::new();
        for group in 0..groups {
            let first = group * size;
            for left in first..first + size {
                edges.extend((left + 1..first + size).map(|right| (left, right, 1.0)));
            }
            edges.push((first, ((group + 1) % groups) * size + 1, 1.0));
        }
        WeightedGraph::from_edges((groups * size) as usize, &edges)
    }

    #[test]
    fn cliques_are_found_whole() {
        let graph = ring_of_cliques(8, 6);
        let communities = leiden(&graph, 1.0);
        for group in 0..8 {
            let own = communities[group * 6];
            assert!((0..6).all(|member| communities[group * 6 + member] == own), "clique {group} is torn");
        }
        assert_eq!(communities.iter().max(), Some(&7));
        assert!(modularity(&graph, &communities) > 0.7);
        assert_eq!(communities, leiden(&graph, 1.0), "equal input, equal answer");
    }

    #[test]
    fn everything_in_one_has_no_modularity() {
        let graph = ring_of_cliques(4, 4);
        assert!(modularity(&graph, &[0; 16]).abs() < 1e-12);
    }

    #[test]
    fn lonely_nodes_and_empty_graphs_are_no_trouble() {
        assert!(leiden(&WeightedGraph::from_edges(0, &[]), 1.0).is_empty());
        assert_eq!(leiden(&WeightedGraph::from_edges(3, &[(0, 2, 1.0)]), 1.0), [0, 1, 0]);
        assert_eq!(leiden(&WeightedGraph::from_edges(2, &[]), 1.0).len(), 2);
    }

    #[test]
    fn parallel_edges_add_up_and_strengths_are_kept_by_aggregation() {
        let graph = WeightedGraph::from_edges(3, &[(0, 1, 1.0), (1, 0, 2.0), (1, 2, 1.0), (2, 2, 0.5)]);
        assert!((graph.strength(1) - 4.0).abs() < 1e-12);
        let whole: f64 = (0..3).map(|node| graph.strength(node)).sum();
        let small = aggregate(&graph, &[0, 0, 1], 2);
        assert!((small.strength(0) + small.strength(1) - whole).abs() < 1e-12);
    }
}
