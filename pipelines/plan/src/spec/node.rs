//! YAML as a tree in which every key and value knows its place.
//!
//! The parser's events are built into a tree here rather than by serde, because a reader that
//! tells everything that is wrong in one pass needs places for keys as well as values, and
//! because the language has one thing no YAML library does: `- <<: *list` inside of a list puts
//! the items of the other list in its place. Aliases and merge keys are resolved on the way, so
//! that nobody behind this sees one, and each copy is counted against the limits before it is made.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, Tag};

use super::{
    At, Spanned,
    limits::Limits,
    scalar::{self, Scalar},
};
use crate::finding::{Finding, Level};

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
    weight: Weight,
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
struct Weight {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

/// One file as a tree. `None` when it is empty, or when `findings` say that it cannot be read.
pub(super) struct Tree {
    pub(super) root: Option<Node>,
    pub(super) anchors: HashMap<String, Node>,
}

/// What is wrong, gathered while reading.
pub(super) struct Findings<'a> {
    pub(super) files: Vec<&'a str>,
    most: usize,
    list: Vec<Finding>,
    seen: HashSet<(Place, &'static str, String)>,
    any_error: bool,
}

/// Names from a file in a message: short, on one line, and without control characters.
pub(super) struct Quoted<'a>(pub(super) &'a str);

/// Reads the first document of `text`. `known` are anchors of included files; those of this
/// file come first.
pub(super) fn parse(
    file: usize,
    text: &str,
    known: &HashMap<String, Node>,
    limits: &Limits,
    findings: &mut Findings,
) -> Tree {
    let end = end_of(text);
    let mut builder = Builder {
        file,
        limits,
        known,
        findings,
        frames: Vec::new(),
        anchors: HashMap::new(),
        names: HashMap::new(),
        spent: Weight::default(),
        root: None,
    };
    if text.len() > limits.file_bytes {
        let message = format!(
            "the file has {} bytes, more than the {} that are read: move scripts into files of the repository",
            text.len(),
            limits.file_bytes
        );
        builder.findings.error(Place { file, at: At::default() }, "yaml-size", message);
        return Tree { root: None, anchors: HashMap::new() };
    }
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, options(limits)) {
        let step = match event {
            Ok((Event::DocumentStart(..), span)) => {
                documents += 1;
                if documents > 1 {
                    builder.findings.warning(
                        builder.place(&span),
                        "yaml-documents",
                        "only what stands above this line is read: a pipeline file is one document, put the \
                         next one into a file of its own",
                    );
                    break;
                }
                Ok(())
            }
            Ok((event, span)) => builder.take(event, &span),
            Err(error) => {
                let place = Place { file, at: at(error.marker()).min(end) };
                let what = Quoted(error.info().trim_end_matches('.')).to_string();
                Err((place, "yaml-syntax", format!("this is not YAML: {}", what.trim_matches('`'))))
            }
        };
        if let Err((place, code, message)) = step {
            builder.findings.error(place, code, message);
            return Tree { root: None, anchors: HashMap::new() };
        }
    }
    builder.tree()
}

fn options(limits: &Limits) -> granit_parser::Options {
    // The parser's own limit lies above ours, whose message says what to do.
    let nesting = limits.depth + 8;
    let mut options = granit_parser::options! {
        emit_anchor_events: true,
        emit_unresolved_aliases: true,
        flow_nesting_limit: nesting,
        block_nesting_limit: nesting,
    };
    options.set_emit_comments(false);
    options
}

type Stop = (Place, &'static str, String);

struct Builder<'a, 'f, 'n> {
    file: usize,
    limits: &'a Limits,
    known: &'a HashMap<String, Node>,
    findings: &'f mut Findings<'n>,
    frames: Vec<Frame>,
    anchors: HashMap<usize, Node>,
    names: HashMap<usize, String>,
    spent: Weight,
    root: Option<Node>,
}

/// A list or mapping that has begun and not ended.
struct Frame {
    place: Place,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Item>),
    Map { entries: Vec<Entry>, key: Option<PendingKey> },
}

struct Item {
    node: Node,
    alias: bool,
}

struct Entry {
    key: Key,
    merge: bool,
    item: Item,
    /// The items of a list that was written out under a merge key, each with whether it is an alias.
    aliases: Vec<bool>,
}

/// `None` inside: what stood there cannot be a key, and its value is dropped.
struct PendingKey(Option<(Key, bool)>);

impl Builder<'_, '_, '_> {
    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Stop> {
        let place = self.place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), place);
                if text.len() > self.limits.string_length {
                    let message = format!(
                        "this value is longer than {} bytes: move it into a file of the repository",
                        self.limits.string_length
                    );
                    return Err((place, "yaml-size", message));
                }
                let plain = style == ScalarStyle::Plain && !is_string(tag.as_deref());
                let node = Node::new(place, Kind::Scalar(Scalar { text: text.into_owned(), plain }));
                self.spend(node.weight, place)?;
                self.end_node(node, anchor, false, Vec::new())
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), place);
                self.begin(place, anchor, Content::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), place);
                self.begin(place, anchor, Content::Map { entries: Vec::new(), key: None })
            }
            Event::SequenceEnd | Event::MappingEnd => self.end(),
            Event::Anchor(id, name) => {
                self.names.insert(id, name.into_owned());
                Ok(())
            }
            Event::Alias(id) => {
                let Some(weight) = self.anchors.get(&id).map(|node| node.weight) else {
                    let message = "this alias stands inside of what it repeats: give it the name of an anchor \
                                   that has ended above";
                    return Err((place, "yaml-alias", message.to_owned()));
                };
                self.spend(weight, place)?;
                let node = self.anchors[&id].clone();
                self.end_node(node, 0, true, Vec::new())
            }
            Event::UnresolvedAlias(name) => {
                if let Some(node) = self.known.get(&*name) {
                    self.spend(node.weight, place)?;
                    return self.end_node(node.clone(), 0, true, Vec::new());
                }
                let message = format!(
                    "no anchor {name} stands above: write `&{bare}` before the value to repeat",
                    name = Quoted(&name),
                    bare = Quoted(&name).to_string().trim_matches('`')
                );
                Err((place, "yaml-alias", message))
            }
            _ => Ok(()),
        }
    }

    fn begin(&mut self, place: Place, anchor: usize, content: Content) -> Result<(), Stop> {
        self.spend(Weight { nodes: 1, bytes: 0, depth: 1 }, place)?;
        self.frames.push(Frame { place, anchor, content });
        Ok(())
    }

    fn end(&mut self) -> Result<(), Stop> {
        let Some(Frame { place, anchor, content }) = self.frames.pop() else { return Ok(()) };
        match content {
            Content::List(items) => {
                let aliases = items.iter().map(|item| item.alias).collect();
                let nodes = items.into_iter().map(|item| item.node).collect();
                self.end_node(Node::new(place, Kind::List(nodes)), anchor, false, aliases)
            }
            Content::Map { entries, .. } => {
                let entries = match self.splice(entries) {
                    Ok(()) => return Ok(()),
                    Err(entries) => entries,
                };
                let node = Node::new(place, Kind::Map(self.merge(entries)));
                self.end_node(node, anchor, false, Vec::new())
            }
        }
    }

    /// `- <<: *list`, the only key of an item: its items take the place of the item.
    fn splice(&mut self, mut entries: Vec<Entry>) -> Result<(), Vec<Entry>> {
        let Some(Frame { content: Content::List(items), .. }) = self.frames.last_mut() else {
            return Err(entries);
        };
        let [Entry { merge: true, item: Item { node, alias }, aliases, .. }] = entries.as_mut_slice() else {
            return Err(entries);
        };
        let Kind::List(list) = &mut node.kind else { return Err(entries) };
        let lists = !*alias
            && !list.is_empty()
            && aliases.iter().all(|alias| *alias)
            && list.iter().all(|node| matches!(node.kind, Kind::List(_)));
        if lists {
            for node in list.drain(..) {
                let Kind::List(nodes) = node.kind else { continue };
                items.extend(nodes.into_iter().map(|node| Item { node, alias: false }));
            }
            return Ok(());
        }
        if *alias {
            items.extend(list.drain(..).map(|node| Item { node, alias: false }));
            return Ok(());
        }
        Err(entries)
    }

    /// Keys that are written win over merged ones, wherever they stand; of merged ones the first.
    fn merge(&mut self, entries: Vec<Entry>) -> Vec<(Key, Node)> {
        let mut seen: HashSet<String> =
            entries.iter().filter(|entry| !entry.merge).map(|entry| entry.key.text.clone()).collect();
        let mut written = HashSet::new();
        let mut merged = Vec::with_capacity(entries.len());
        for Entry { key, merge, item, .. } in entries {
            if !merge {
                if written.insert(key.text.clone()) {
                    merged.push((key, item.node));
                } else {
                    let message = format!("{} stands here twice: keep one of them", Quoted(&key.text));
                    self.findings.error(key.place, "yaml-duplicate-key", message);
                }
                continue;
            }
            let place = item.node.place;
            let sources = match item.node.kind {
                Kind::List(sources) => sources,
                _ => vec![item.node],
            };
            for source in sources {
                let Kind::Map(source) = source.kind else {
                    let message = "`<<` takes the keys of a mapping, such as `<<: *defaults`";
                    self.findings.error(place, "yaml-merge", message);
                    continue;
                };
                for (key, node) in source {
                    if seen.insert(key.text.clone()) {
                        merged.push((key, node));
                    }
                }
            }
        }
        merged
    }

    fn end_node(&mut self, node: Node, anchor: usize, alias: bool, aliases: Vec<bool>) -> Result<(), Stop> {
        if anchor != 0 {
            self.spend(node.weight, node.place)?;
            self.anchors.insert(anchor, node.clone());
        }
        let Some(Frame { content, .. }) = self.frames.last_mut() else {
            self.root.get_or_insert(node);
            return Ok(());
        };
        match content {
            Content::List(items) => items.push(Item { node, alias }),
            Content::Map { entries, key } => match key.take() {
                None => {
                    let place = node.place;
                    let pending = match node.kind {
                        Kind::Scalar(scalar) => {
                            let merge = scalar.plain && scalar.text == "<<";
                            Some((Key { place, text: scalar.text }, merge))
                        }
                        _ => None,
                    };
                    if pending.is_none() {
                        let message = "a key is one word or a quoted text, not a list or a mapping";
                        self.findings.error(place, "yaml-key", message);
                    }
                    *key = Some(PendingKey(pending));
                }
                Some(PendingKey(Some((key, merge)))) => {
                    entries.push(Entry { key, merge, item: Item { node, alias }, aliases });
                }
                Some(PendingKey(None)) => {}
            },
        }
        Ok(())
    }

    fn spend(&mut self, weight: Weight, place: Place) -> Result<(), Stop> {
        self.spent.nodes = self.spent.nodes.saturating_add(weight.nodes);
        self.spent.bytes = self.spent.bytes.saturating_add(weight.bytes);
        if self.frames.len() + weight.depth > self.limits.depth {
            let message = format!("this is nested deeper than {} levels", self.limits.depth);
            return Err((place, "yaml-depth", message));
        }
        if self.spent.nodes > self.limits.nodes || self.spent.bytes > self.limits.text_bytes {
            let message = format!(
                "with its aliases the file holds more than {} values or {} bytes of text: repeat less by aliases, \
                 or split the file",
                self.limits.nodes, self.limits.text_bytes
            );
            return Err((place, "yaml-size", message));
        }
        Ok(())
    }

    fn check_tag(&mut self, tag: Option<&Tag>, place: Place) {
        let Some(tag) = tag else { return };
        let core = ["str", "int", "float", "bool", "null", "seq", "map", "merge"];
        if !core.iter().any(|name| tag.is_yaml_core_schema_tag(name)) && !tag.original().eq("!") {
            let message =
                format!("the tag {} means nothing here and is passed over", Quoted(&tag.original()));
            self.findings.warning(place, "yaml-tag", message);
        }
    }

    fn place(&self, span: &Span) -> Place {
        Place { file: self.file, at: at(&span.start) }
    }

    fn tree(self) -> Tree {
        let mut anchors = HashMap::new();
        let mut ids: Vec<_> = self.names.into_iter().collect();
        ids.sort_by_key(|(id, _)| *id);
        for (id, name) in ids {
            if let Some(node) = self.anchors.get(&id) {
                anchors.insert(name, node.clone());
            }
        }
        Tree { root: self.root, anchors }
    }
}

impl Node {
    fn new(place: Place, kind: Kind) -> Self {
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
        Self { place, kind, weight }
    }

    /// Another text at the same place.
    pub(super) fn with_text(&self, text: &str) -> Self {
        Self::new(self.place, Kind::Scalar(Scalar { text: text.to_owned(), plain: false }))
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

impl<'a> Findings<'a> {
    pub(super) fn new(file: &'a str, most: usize) -> Self {
        Self { files: vec![file], most, list: Vec::new(), seen: HashSet::new(), any_error: false }
    }

    pub(super) fn error(&mut self, place: Place, code: &'static str, message: impl Into<String>) {
        self.any_error = true;
        self.add(place, code, Level::Error, message.into());
    }

    pub(super) fn warning(&mut self, place: Place, code: &'static str, message: impl Into<String>) {
        self.add(place, code, Level::Warning, message.into());
    }

    pub(super) fn any_error(&self) -> bool {
        self.any_error
    }

    /// In the order of the file: people repair from the top.
    pub(super) fn into_list(mut self) -> Vec<Finding> {
        self.list.sort_by(|a, b| {
            (&a.file != self.files[0], &a.file, a.line, a.column).cmp(&(
                &b.file != self.files[0],
                &b.file,
                b.line,
                b.column,
            ))
        });
        self.list
    }

    /// What is repeated by an alias is told once.
    fn add(&mut self, place: Place, code: &'static str, level: Level, message: String) {
        if self.list.len() >= self.most || !self.seen.insert((place, code, message.clone())) {
            return;
        }
        let file = self.files.get(place.file).unwrap_or(&self.files[0]).to_string();
        self.list.push(Finding { file, line: place.at.line, column: place.at.column, level, code, message });
    }
}

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 60;
        f.write_str("`")?;
        for character in self.0.chars().take(LONGEST) {
            if character.is_control() { write!(f, "\u{fffd}")? } else { write!(f, "{character}")? }
        }
        f.write_str(if self.0.chars().nth(LONGEST).is_some() { "…`" } else { "`" })
    }
}

/// The parser counts columns from 0.
fn at(marker: &Marker) -> At {
    At { line: marker.line().max(1), column: marker.col() + 1 }
}

/// The parser may put what is missing behind the last line.
fn end_of(text: &str) -> At {
    let last = text.lines().last().unwrap_or_default();
    At { line: text.lines().count().max(1), column: last.chars().count() + 1 }
}

fn is_string(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"))
}
