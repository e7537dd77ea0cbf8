//! From text to a tree: the parser's events, with aliases and merge keys resolved on the way.
//!
//! Nobody behind this sees an alias, and each copy is counted against the limits before it is
//! made. Besides YAML's merge of mappings there is the language's own merge of lists, which no
//! library does: `- <<: *list` puts the items of another list in its place.

use std::collections::{HashMap, HashSet};

use granit_parser::{ErrorKind, Event, Marker, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{
    At,
    findings::{Findings, Quoted},
    limits::Limits,
    node::{Key, Kind, Node, Place, Weight},
    scalar::Scalar,
};
use crate::substitute::Text;

/// One file as a tree. No root: the file is empty, or the findings say why it cannot be read.
#[derive(Default)]
pub(super) struct Tree {
    pub(super) root: Option<Node>,
    pub(super) anchors: HashMap<String, Node>,
}

/// Reads the first document of `text`. `known` are anchors of included files; those of this
/// file come first. Without `known`, nobody has read these files yet, and what stands for one of
/// their values is empty.
pub(super) fn parse(
    file: usize,
    text: Text<'_>,
    known: Option<&HashMap<String, Node>>,
    limits: &Limits,
    findings: &mut Findings,
) -> Tree {
    let mut builder = Builder {
        file,
        text,
        limits,
        known,
        findings,
        frames: Vec::new(),
        anchors: HashMap::new(),
        names: HashMap::new(),
        spent: Weight::default(),
        root: None,
    };
    match builder.read() {
        Ok(()) => builder.tree(),
        Err((place, code, message)) => {
            builder.findings.error(place, code, message);
            Tree::default()
        }
    }
}

/// The parser may put what is missing behind the last line, where nobody can look.
fn syntax(error: &ScanError, file: usize, text: Text<'_>, limits: &Limits) -> Stop {
    let last = text.text.lines().last().unwrap_or_default();
    let end = At { line: text.text.lines().count().max(1), column: last.chars().count() + 1 };
    let place = Place { file, at: text.written(at(error.marker()).min(end)) };
    match error.kind() {
        ErrorKind::RecursionLimitExceeded => (place, "yaml-depth", too_deep(limits)),
        _ => {
            let what: String = error.info().chars().filter(|character| !character.is_control()).collect();
            (place, "yaml-syntax", format!("this is not YAML: {}", what.trim_end_matches('.')))
        }
    }
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

/// Nothing behind this can be read.
type Stop = (Place, &'static str, String);

struct Builder<'a, 'f, 'n> {
    file: usize,
    text: Text<'a>,
    limits: &'a Limits,
    known: Option<&'a HashMap<String, Node>>,
    findings: &'f mut Findings<'n>,
    frames: Vec<Frame>,
    /// By the number that the parser gives them; a name may be used again.
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
    List(Vec<Node>),
    Map { entries: Vec<(Slot, Node)>, slot: Option<Slot> },
}

/// What a value in a mapping belongs to.
enum Slot {
    Key(Key),
    /// `<<`
    Merge,
    /// No key at all, which has been said.
    Unusable,
}

impl Builder<'_, '_, '_> {
    fn read(&mut self) -> Result<(), Stop> {
        let text = self.text.text;
        if text.len() > self.limits.file_bytes {
            let message = format!(
                "the file has {} bytes, more than the {} that are read: move scripts into files of the repository",
                text.len(),
                self.limits.file_bytes
            );
            return Err((Place { file: self.file, at: At::default() }, "yaml-size", message));
        }
        let mut documents = 0;
        for event in Parser::new_from_str_with_options(text, options(self.limits)) {
            let (event, span) = event.map_err(|error| syntax(&error, self.file, self.text, self.limits))?;
            if let Event::DocumentStart(..) = event {
                documents += 1;
            }
            if documents > 1 {
                let message = "only what stands above this line is read: a pipeline file is one document, put the \
                               next one into a file of its own";
                self.findings.warning(self.place(&span), "yaml-documents", message);
                break;
            }
            self.take(event, &span)?;
        }
        Ok(())
    }

    fn take(&mut self, event: Event<'_>, span: &Span) -> Result<(), Stop> {
        let place = self.place(span);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                if text.len() > self.limits.string_length {
                    let message = format!(
                        "this value is longer than {} bytes: move it into a file of the repository",
                        self.limits.string_length
                    );
                    return Err((place, "yaml-size", message));
                }
                let plain = style == ScalarStyle::Plain && !is_string(tag.as_deref());
                let begins = self.begins(&text, style, span);
                let node = Node::new(place, Kind::Scalar(Scalar { text: text.into_owned(), plain, begins }));
                self.spend(node.weight, place)?;
                self.put(node, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.begin(place, anchor, Content::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), span);
                self.begin(place, anchor, Content::Map { entries: Vec::new(), slot: None })
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
                self.put(Node { alias: true, ..self.anchors[&id].clone() }, 0)
            }
            Event::UnresolvedAlias(name) => {
                let Some(known) = self.known else {
                    let empty = Kind::Scalar(Scalar { text: String::new(), plain: true, begins: None });
                    return self.put(Node { alias: true, ..Node::new(place, empty) }, 0);
                };
                let Some(node) = known.get(&*name) else {
                    let message = format!(
                        "no anchor {} stands above: write `&` and this name before the value to repeat",
                        Quoted(&name)
                    );
                    return Err((place, "yaml-alias", message));
                };
                self.spend(node.weight, place)?;
                self.put(Node { alias: true, ..node.clone() }, 0)
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
        let kind = match content {
            Content::List(nodes) => Kind::List(nodes),
            Content::Map { mut entries, .. } => {
                let outer = self.frames.last_mut().map(|frame| &mut frame.content);
                if let (Some(Content::List(items)), [(Slot::Merge, node)]) = (outer, entries.as_mut_slice())
                    && let Some(spliced) = spliced(node)
                {
                    items.extend(spliced);
                    return Ok(());
                }
                Kind::Map(self.merged(entries))
            }
        };
        self.put(Node::new(place, kind), anchor)
    }

    /// Keys that are written win over merged ones, wherever they stand; of merged ones the first.
    fn merged(&mut self, entries: Vec<(Slot, Node)>) -> Vec<(Key, Node)> {
        let mut written = HashSet::new();
        for (slot, _) in &entries {
            let Slot::Key(key) = slot else { continue };
            if !written.insert(key.text.clone()) {
                let message = format!("{} stands here twice: keep one of them", Quoted(&key.text));
                self.findings.error(key.place, "yaml-duplicate-key", message);
            }
        }
        let mut merged = Vec::with_capacity(entries.len());
        for (slot, node) in entries {
            match slot {
                Slot::Key(key) => merged.push((key, node)),
                Slot::Merge => {
                    let sources = match node.kind {
                        Kind::List(sources) => sources,
                        _ => vec![node],
                    };
                    for source in sources {
                        let Kind::Map(source) = source.kind else {
                            let message = "`<<` takes the keys of a mapping, such as `<<: *defaults`";
                            self.findings.error(source.place, "yaml-merge", message);
                            continue;
                        };
                        merged.extend(source.into_iter().filter(|(key, _)| written.insert(key.text.clone())));
                    }
                }
                Slot::Unusable => {}
            }
        }
        merged
    }

    /// A whole value, to where it belongs.
    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Stop> {
        if anchor != 0 {
            self.spend(node.weight, node.place)?;
            self.anchors.insert(anchor, node.clone());
        }
        match self.frames.last_mut().map(|frame| &mut frame.content) {
            None => self.root = Some(node),
            Some(Content::List(nodes)) => nodes.push(node),
            Some(Content::Map { entries, slot }) => match slot.take() {
                Some(slot) => entries.push((slot, node)),
                None => {
                    *slot = Some(match node.kind {
                        Kind::Scalar(Scalar { text, plain: true, .. }) if text == "<<" => Slot::Merge,
                        Kind::Scalar(Scalar { text, .. }) => Slot::Key(Key { place: node.place, text }),
                        _ => {
                            let message = "a key is one word or a quoted text, not a list or a mapping";
                            self.findings.error(node.place, "yaml-key", message);
                            Slot::Unusable
                        }
                    });
                }
            },
        }
        Ok(())
    }

    fn spend(&mut self, weight: Weight, place: Place) -> Result<(), Stop> {
        self.spent.nodes = self.spent.nodes.saturating_add(weight.nodes);
        self.spent.bytes = self.spent.bytes.saturating_add(weight.bytes);
        if self.frames.len() + weight.depth > self.limits.depth {
            return Err((place, "yaml-depth", too_deep(self.limits)));
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

    fn check_tag(&mut self, tag: Option<&Tag>, span: &Span) {
        let Some(tag) = tag else { return };
        let at = self.text.written(at(&span.tag_start().unwrap_or(span.start)));
        let place = Place { file: self.file, at };
        let core = ["str", "int", "float", "bool", "null", "seq", "map", "merge"];
        if !core.iter().any(|name| tag.is_yaml_core_schema_tag(name)) && !tag.original().eq("!") {
            let message =
                format!("the tag {} means nothing here and is passed over", Quoted(&tag.original()));
            self.findings.warning(place, "yaml-tag", message);
        }
    }

    fn place(&self, span: &Span) -> Place {
        Place { file: self.file, at: self.text.written(at(&span.start)) }
    }

    /// How far behind its place a text begins. Substitution, escapes, and lines that become one move
    /// what comes after them; then nobody knows.
    fn begins(&self, text: &str, style: ScalarStyle, span: &Span) -> Option<usize> {
        let quote = match style {
            ScalarStyle::Plain => 0,
            ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted => 1,
            _ => return None,
        };
        let length = text.chars().count() + 2 * quote;
        let spans = |start: At, end: At| {
            start.line == end.line && end.column.checked_sub(start.column) == Some(length)
        };
        let (start, end) = (at(&span.start), at(&span.end));
        let as_it_is = spans(start, end) && spans(self.text.written(start), self.text.written(end));
        as_it_is.then_some(quote)
    }

    fn tree(mut self) -> Tree {
        let mut ids: Vec<_> = self.names.into_iter().collect();
        // A name that is used again stands for the last one.
        ids.sort_by_key(|(id, _)| *id);
        let anchors = ids.into_iter().filter_map(|(id, name)| Some((name, self.anchors.remove(&id)?)));
        Tree { anchors: anchors.collect(), root: self.root }
    }
}

/// What `- <<: *list`, the only key of an item, puts in the place of the item: the items of the
/// list, or of each in `[*list, *list]`.
fn spliced(node: &mut Node) -> Option<Vec<Node>> {
    let is_list = |node: &Node| matches!(node.kind, Kind::List(_));
    let Kind::List(nodes) = &mut node.kind else { return None };
    if node.alias {
        return Some(std::mem::take(nodes));
    }
    if nodes.is_empty() || !nodes.iter().all(|node| node.alias && is_list(node)) {
        return None;
    }
    let lists = nodes.drain(..).filter_map(|node| match node.kind {
        Kind::List(nodes) => Some(nodes),
        _ => None,
    });
    Some(lists.flatten().collect())
}

/// The parser counts columns from 0.
fn at(marker: &Marker) -> At {
    At { line: marker.line().max(1), column: marker.col() + 1 }
}

fn too_deep(limits: &Limits) -> String {
    format!("this is nested deeper than {} levels", limits.depth)
}

fn is_string(tag: Option<&Tag>) -> bool {
    tag.is_some_and(|tag| tag.is_yaml_core_schema_tag("str"))
}
