//! What waits for what, as a picture: the steps of a workflow in columns, each to the right of
//! everything it needs, with lines between. The same steps always make the same picture.

use std::fmt::Write;

use askama::filters::{Escaper, Safe};
use mergeyard_types::State;

use super::{badge::Badge, inert::Inert};

/// More than this is a thicket, and the list says the same.
const MOST_NODES: usize = 60;

/// Measures of the picture, in its own units.
const WIDTH: usize = 168;
const HEIGHT: usize = 34;
const ACROSS: usize = 44;
const DOWN: usize = 12;
const MARGIN: usize = 4;

/// Letters that fit into a node.
const LETTERS: usize = 17;

pub(super) struct Node {
    pub(super) name: String,
    pub(super) state: State,
    /// An address on this page, made of letters and digits.
    pub(super) target: String,
    /// Positions of the nodes that come first.
    pub(super) needs: Vec<usize>,
}

/// The positions in an order in which everything comes after what it needs and otherwise as it
/// was written. What needs itself in a circle comes last.
pub(super) fn order(needs: &[&[usize]]) -> Vec<usize> {
    let mut done = vec![false; needs.len()];
    let mut order = Vec::with_capacity(needs.len());
    while order.len() < needs.len() {
        let met = |need: &usize| done.get(*need).is_none_or(|done| *done);
        let open = |at: &usize| done.get(*at) == Some(&false);
        let next = (0..needs.len()).filter(open).find(|at| needs[*at].iter().all(met));
        let Some(next) = next.or_else(|| (0..needs.len()).find(open)) else { break };
        done[next] = true;
        order.push(next);
    }
    order
}

/// `None` when there is nothing to see: a chain, or a thicket.
pub(super) fn picture(nodes: &[Node]) -> Option<Safe<String>> {
    let too_many = nodes.len() > MOST_NODES;
    let is_chain = || {
        direct(nodes).iter().enumerate().all(|(at, needs)| match at {
            0 => needs.is_empty(),
            at => *needs == [at - 1],
        })
    };
    if too_many || is_chain() || nodes.iter().all(|node| node.needs.is_empty()) {
        return None;
    }
    Some(Safe(draw(nodes, &layout(nodes))))
}

/// The needs that are not met anyway once the others are: lines for these too hide what a picture
/// is for.
fn direct(nodes: &[Node]) -> Vec<Vec<usize>> {
    let leads = |from: usize, to: usize| {
        let mut seen = vec![false; nodes.len()];
        let mut open = vec![from];
        while let Some(at) = open.pop() {
            for need in nodes[at].needs.iter().copied().filter(|need| *need < nodes.len()) {
                if need == to {
                    return true;
                }
                if !std::mem::replace(&mut seen[need], true) {
                    open.push(need);
                }
            }
        }
        false
    };
    let of = |node: &Node| {
        let known = || node.needs.iter().copied().filter(|need| *need < nodes.len());
        known().filter(|need| !known().any(|other| other != *need && leads(other, *need))).collect()
    };
    nodes.iter().map(of).collect()
}

/// Where something stands: a column, and a row in it.
type Place = (usize, usize);

/// Nodes and lines with their places. A line that passes a column has a row of its own there, so
/// that it never runs behind a node.
struct Layout {
    nodes: Vec<Place>,
    /// Of each line: the places it leads through, its ends among them.
    lines: Vec<Vec<Place>>,
}

/// What takes a row of a column.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Tenant {
    Node(usize),
    Line(usize),
}

/// A column is one behind the last column of what is needed; in it, everything stands about where
/// what leads to it stands.
fn layout(nodes: &[Node]) -> Layout {
    let columns = columns(nodes);
    let is_before = |at: usize, need: usize| need < nodes.len() && columns[need] < columns[at];
    let direct = direct(nodes);
    let edges: Vec<(usize, usize)> = (0..nodes.len())
        .flat_map(|at| direct[at].iter().map(move |need| (*need, at)))
        .filter(|(need, at)| is_before(*at, *need))
        .collect();
    let mut places = vec![(0, 0); nodes.len()];
    let mut lines: Vec<Vec<Place>> = vec![Vec::new(); edges.len()];
    for column in 0..=columns.iter().copied().max().unwrap_or_default() {
        let passes = |(from, to): (usize, usize)| columns[from] < column && column < columns[to];
        let here = (0..nodes.len()).filter(|at| columns[*at] == column).map(Tenant::Node);
        let passing = (0..edges.len()).filter(|line| passes(edges[*line])).map(Tenant::Line);
        let mut tenants: Vec<Tenant> = here.chain(passing).collect();
        tenants.sort_by_key(|tenant| {
            let led: Vec<usize> = (0..edges.len())
                .filter(|line| *tenant == Tenant::Line(*line) || *tenant == Tenant::Node(edges[*line].1))
                .filter_map(|line| lines[line].last().map(|(_, row)| *row))
                .collect();
            let is_line = matches!(tenant, Tenant::Line(_));
            (led.iter().sum::<usize>() * MOST_NODES / led.len().max(1), is_line)
        });
        for (row, tenant) in tenants.into_iter().enumerate() {
            match tenant {
                Tenant::Line(line) => lines[line].push((column, row)),
                Tenant::Node(at) => {
                    places[at] = (column, row);
                    let touching =
                        (0..edges.len()).filter(|line| edges[*line].0 == at || edges[*line].1 == at);
                    touching.for_each(|line| lines[line].push((column, row)));
                }
            }
        }
    }
    Layout { nodes: places, lines }
}

fn columns(nodes: &[Node]) -> Vec<usize> {
    let needs: Vec<&[usize]> = nodes.iter().map(|node| node.needs.as_slice()).collect();
    let mut columns = vec![0; nodes.len()];
    for at in order(&needs) {
        let before = needs[at].iter().filter(|need| **need != at).filter_map(|need| columns.get(*need));
        columns[at] = before.max().map_or(0, |column: &usize| column + 1);
    }
    columns
}

fn draw(nodes: &[Node], layout: &Layout) -> String {
    let x = |place: Place| MARGIN + place.0 * (WIDTH + ACROSS);
    let y = |place: Place| MARGIN + place.1 * (HEIGHT + DOWN);
    let all = || layout.nodes.iter().chain(layout.lines.iter().flatten());
    let width = all().map(|place| x(*place)).max().unwrap_or_default() + WIDTH + MARGIN;
    let height = all().map(|place| y(*place)).max().unwrap_or_default() + HEIGHT + MARGIN;
    let mut svg = String::new();
    // Writing to memory does not fail.
    let _ = write!(
        svg,
        r#"<svg class="graph" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" aria-label="What waits for what">"#
    );
    for line in &layout.lines {
        svg.push_str("<path d=\"");
        for (at, ends) in line.windows(2).enumerate() {
            let (from, to) =
                ((x(ends[0]) + WIDTH, y(ends[0]) + HEIGHT / 2), (x(ends[1]), y(ends[1]) + HEIGHT / 2));
            // Through a column it passes, the line is straight.
            let begin = if at == 0 { 'M' } else { 'L' };
            let middle = from.0 + ACROSS / 2;
            let _ = write!(
                svg,
                "{begin}{} {}C{middle} {} {middle} {} {} {}",
                from.0, from.1, from.1, to.1, to.0, to.1
            );
        }
        svg.push_str("\"/>");
    }
    for (node, place) in nodes.iter().zip(&layout.nodes) {
        draw_node(&mut svg, node, x(*place), y(*place));
    }
    svg.push_str("</svg>");
    svg
}

fn draw_node(svg: &mut String, node: &Node, x: usize, y: usize) {
    let escape = |svg: &mut String, text: &str| {
        let _ = Inert.write_escaped_str(svg, text);
    };
    let badge = Badge::from(node.state);
    let _ = write!(svg, r##"<a href="#{}"><title>"##, node.target);
    escape(svg, &format!("{}: {}", node.name, node.state));
    let _ = write!(
        svg,
        r#"</title><rect x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}" rx="8"/><svg class="badge {}" x="{}" y="{}" width="16" height="16" viewBox="0 0 16 16">{}</svg><text x="{}" y="{}">"#,
        badge.tone(),
        x + 10,
        y + 9,
        badge.shape(),
        x + 34,
        y + 22
    );
    let short: String = node.name.chars().take(LETTERS).collect();
    let is_cut = short.len() < node.name.len();
    escape(svg, &if is_cut { format!("{}…", short.trim_end()) } else { short });
    svg.push_str("</text></a>");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nodes(needs: &[&[usize]]) -> Vec<Node> {
        let node = |(at, needs): (usize, &&[usize])| Node {
            name: format!("n{at}"),
            state: State::Queued,
            target: format!("s{at}"),
            needs: needs.to_vec(),
        };
        needs.iter().enumerate().map(node).collect()
    }

    #[test]
    fn everything_stands_right_of_what_it_needs() {
        let diamond = nodes(&[&[], &[0], &[0], &[1, 2], &[0]]);
        assert_eq!(layout(&diamond).nodes, [(0, 0), (1, 0), (1, 1), (2, 0), (1, 2)]);
        let picture = picture(&diamond).unwrap().0;
        assert_eq!(picture.matches("<path").count(), 5);
        assert_eq!(picture, self::picture(&nodes(&[&[], &[0], &[0], &[1, 2], &[0]])).unwrap().0);
    }

    #[test]
    fn a_line_over_columns_has_a_row_of_its_own_in_each() {
        let long = nodes(&[&[], &[], &[1], &[0, 2]]);
        let Layout { nodes, lines } = layout(&long);
        assert_eq!(nodes, [(0, 0), (0, 1), (1, 1), (2, 0)]);
        assert_eq!(lines[1], [(0, 0), (1, 0), (2, 0)]);
    }

    #[test]
    fn what_is_waited_for_by_way_of_others_has_no_line_of_its_own() {
        // A clone and a service before everything, as workflows have them.
        let usual = nodes(&[&[], &[0], &[0, 1], &[0, 1], &[0, 1, 2, 3]]);
        assert_eq!(direct(&usual), [vec![], vec![0], vec![1], vec![1], vec![2, 3]]);
        assert!(picture(&nodes(&[&[], &[0], &[0, 1]])).is_none(), "it is a chain");
    }

    #[test]
    fn a_chain_and_what_has_no_order_need_no_picture() {
        assert!(picture(&nodes(&[&[], &[0], &[1]])).is_none());
        assert!(picture(&nodes(&[&[], &[]])).is_none());
        assert!(picture(&[]).is_none());
        let crowd: Vec<&[usize]> =
            std::iter::once(&[][..]).chain(std::iter::repeat_n(&[0][..], 60)).collect();
        assert!(picture(&nodes(&crowd)).is_none());
    }

    #[test]
    fn needs_that_make_no_sense_are_drawn_as_far_as_they_do() {
        let odd = nodes(&[&[0, 7], &[2], &[1]]);
        assert!(picture(&odd).is_some());
        assert_eq!(order(&[&[2], &[], &[1]]), [1, 2, 0]);
        assert_eq!(order(&[&[1], &[0], &[]]), [2, 0, 1]);
    }
}
