//! YAML as a tree in which every key and value knows its place.
//!
//! A reader that tells everything that is wrong in one pass needs places for keys as well as for
//! values, which is why this is a tree of our own and not what serde would fill in.

use super::{
    At, Spanned,
    scalar::{self, Scalar},
};

/// A place in one of the files that make up a workflow; the file itself has the number 0.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    pub(super) file: usize,
    pub(super) at: At,
}

#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) place: Place,
    pub(super) kind: Kind,
    /// It stood under an anchor somewhere else. Only merge keys ask.
    pub(super) alias: bool,
    pub(super) weight: Weight,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone)]
pub(super) struct Key {
    pub(super) place: Place,
    pub(super) text: String,
}

/// What a node costs to copy.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Weight {
    pub(super) nodes: usize,
    pub(super) bytes: usize,
    pub(super) depth: usize,
}

impl Node {
    pub(super) fn new(place: Place, kind: Kind) -> Self {
        let mut weight = Weight { nodes: 1, bytes: 0, depth: 0 };
        let mut add = |node: &Node, key: usize| {
            weight.nodes += node.weight.nodes;
            weight.bytes += node.weight.bytes + key;
            weight.depth = weight.depth.max(node.weight.depth + 1);
        };
        match &kind {
            Kind::Scalar(scalar) => weight.bytes = scalar.text.len(),
            Kind::List(nodes) => nodes.iter().for_each(|node| add(node, 0)),
            Kind::Map(entries) => entries.iter().for_each(|(key, node)| add(node, key.text.len())),
        }
        Self { place, kind, alias: false, weight }
    }

    pub(super) fn map(&self) -> &[(Key, Node)] {
        match &self.kind {
            Kind::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The value of a key. A key without a value is as good as absent.
    pub(super) fn get(&self, name: &str) -> Option<&Node> {
        self.map()
            .iter()
            .find(|(key, _)| key.text == name)
            .map(|(_, node)| node)
            .filter(|node| !node.is_null())
    }

    pub(super) fn is_empty(&self) -> bool {
        match &self.kind {
            Kind::List(nodes) => nodes.is_empty(),
            Kind::Map(entries) => entries.is_empty(),
            Kind::Scalar(_) => false,
        }
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(&self.kind, Kind::Scalar(scalar) if scalar::is_null(scalar))
    }

    pub(super) fn scalar(&self) -> Option<&Scalar> {
        match &self.kind {
            Kind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// The text as written, whatever YAML would make of it: `1.10` stays `1.10`.
    pub(super) fn text(&self) -> Option<Spanned<String>> {
        let scalar = self.scalar()?;
        Some(Spanned { value: scalar.text.clone(), at: self.place.at })
    }

    /// Where the first character of the text stands, if the others follow it in the same line.
    pub(super) fn inside(&self) -> Option<At> {
        let At { line, column } = self.place.at;
        Some(At { line, column: column + self.scalar()?.begins? })
    }

    /// One, or a list.
    pub(super) fn one_or_more(&self) -> &[Node] {
        match &self.kind {
            Kind::List(nodes) => nodes,
            _ => std::slice::from_ref(self),
        }
    }

    pub(super) fn texts(&self) -> Vec<Spanned<String>> {
        self.one_or_more().iter().filter_map(Node::text).collect()
    }

    pub(super) fn flag(&self) -> Option<bool> {
        self.scalar().and_then(scalar::flag)
    }

    pub(super) fn kind_name(&self) -> &'static str {
        match &self.kind {
            Kind::Scalar(scalar) => scalar::kind_name(scalar),
            Kind::List(_) => "a list",
            Kind::Map(_) => "a mapping",
        }
    }
}

impl Key {
    pub(super) fn spanned(&self) -> Spanned<String> {
        Spanned { value: self.text.clone(), at: self.place.at }
    }
}
