//! The graph of dependencies: circles in it, found with petgraph.

use std::collections::VecDeque;

use petgraph::algo::kosaraju_scc;
use petgraph::graph::{DiGraph, NodeIndex};

use super::event::StepIndex;

/// Every knot of steps that wait for each other, as one shortest circle through the knot's first step: `[a, b]` when `a`
/// depends on `b` and `b` on `a`. `dependencies[n]` are those of step `n`. In the order of the first steps.
///
/// Works without recursion, so a chain of 100,000 steps does not exhaust the stack, in time O(steps + dependencies).
#[must_use]
pub(super) fn circles(dependencies: &[Vec<StepIndex>]) -> Vec<Vec<StepIndex>> {
    let edges = dependencies.iter().map(Vec::len).sum();
    let mut graph: DiGraph<(), (), u32> = DiGraph::with_capacity(dependencies.len(), edges);
    for _ in dependencies {
        graph.add_node(());
    }
    for (step, needs) in (0..).zip(dependencies) {
        for need in needs {
            graph.add_edge(NodeIndex::new(step), NodeIndex::new(*need as usize), ());
        }
    }
    // Kosaraju's algorithm: petgraph's Tarjan is recursive.
    let mut knot_of = vec![0_usize; dependencies.len()];
    let mut firsts = Vec::new();
    for (knot, members) in kosaraju_scc(&graph).into_iter().enumerate() {
        for member in &members {
            knot_of[member.index()] = knot;
        }
        let first = members.iter().min().copied().expect("a component has a member");
        if members.len() > 1 || graph.contains_edge(first, first) {
            firsts.push(first);
        }
    }
    firsts.sort_unstable();
    firsts.into_iter().map(|first| shortest(&graph, first, &knot_of)).collect()
}

/// A shortest circle through `first`, which lies on one, within its knot.
fn shortest(graph: &DiGraph<(), (), u32>, first: NodeIndex, knot_of: &[usize]) -> Vec<StepIndex> {
    let mut came_from = std::collections::HashMap::new();
    let mut queue = VecDeque::from([first]);
    'search: while let Some(step) = queue.pop_front() {
        for next in graph.neighbors(step) {
            if knot_of[next.index()] != knot_of[first.index()] || came_from.contains_key(&next) {
                continue;
            }
            came_from.insert(next, step);
            if next == first {
                break 'search;
            }
            queue.push_back(next);
        }
    }
    let mut circle = Vec::new();
    let mut step = first;
    loop {
        step = came_from[&step];
        circle.push(u32::try_from(step.index()).expect("the number of steps is limited"));
        if step == first {
            break;
        }
    }
    circle.reverse();
    circle
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_circle_is_shown_from_its_first_step() {
        let found = circles(&[vec![], vec![2, 0], vec![3], vec![1], vec![4]]);
        assert_eq!(found, [vec![1, 2, 3], vec![4]]);
    }

    #[test]
    fn a_long_chain_and_a_long_circle_do_not_exhaust_the_stack() {
        let mut chain: Vec<Vec<u32>> = (0..100_000_u32).map(|n| n.checked_sub(1).into_iter().collect()).collect();
        assert!(circles(&chain).is_empty());
        chain[0].push(99_999);
        assert_eq!(circles(&chain)[0].len(), 100_000);
    }

    proptest! {
        #[test]
        fn every_circle_found_is_one_and_without_them_the_graph_has_an_order(
            edges in proptest::collection::vec((0_u32..12, 0_u32..12), 0..40)
        ) {
            let mut dependencies = vec![Vec::new(); 12];
            for (from, to) in edges {
                dependencies[from as usize].push(to);
            }
            let found = circles(&dependencies);
            for circle in &found {
                for (place, step) in circle.iter().enumerate() {
                    let next = circle[(place + 1) % circle.len()];
                    prop_assert!(dependencies[*step as usize].contains(&next));
                }
            }
            // Repeatedly take what depends on nothing: all can be taken if and only if no circle was found.
            let mut left: Vec<u32> = (0..12).collect();
            while let Some(place) = left.iter().position(|step| {
                dependencies[*step as usize].iter().all(|need| !left.contains(need))
            }) {
                left.remove(place);
            }
            prop_assert_eq!(left.is_empty(), found.is_empty());
        }
    }
}
