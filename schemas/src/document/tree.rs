//! The tree of a document, built from parser events without recursion: an arena of nodes, children by index, an alias
//! being the index of what it names. Bounds are checked while building, so nothing larger ever stands in memory.

use std::collections::{BTreeMap, BTreeSet};

use saphyr_parser::{Event, Marker, Parser, ScalarStyle};

use super::{Mistake, Mistakes, Node, shown};

/// Largest text accepted, bytes. A topology or rule file is a few KiB.
pub const DOCUMENT_BYTES_MAX: usize = 1 << 20;

/// Deepest nesting accepted.
pub const DEPTH_MAX: usize = 32;

/// Nodes of one document, at most, counting what an alias stands for each time it is used.
pub const NODES_MAX: usize = 100_000;

/// A parsed document.
#[derive(Clone, Debug)]
pub struct Document {
    file: String,
    nodes: Vec<Placed>,
    root: usize,
    /// Found while building: keys that stand twice, keys that are no text, tags.
    mistakes: Vec<Mistake>,
}

/// A node and where it begins.
#[derive(Clone, Debug)]
struct Placed {
    line: u32,
    column: u32,
    kind: Kind,
    /// Nodes below, itself included, aliases expanded.
    weight: usize,
}

/// What a node is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    /// Text; `plain` when written without quotes.
    Scalar { text: String, plain: bool },
    /// Elements.
    List(Vec<usize>),
    /// Keys and values in written order.
    Map(Vec<(usize, usize)>),
}

impl Document {
    /// Parses a text that holds one document. `label` is the file as the user named it. An empty text is a document
    /// whose root is null.
    pub fn parse(label: &str, text: &str) -> Result<Self, Mistake> {
        let mut documents = Self::parse_all(label, text)?;
        match (documents.pop(), documents.is_empty()) {
            (Some(document), true) => Ok(document),
            (Some(second), false) => Err(second.mistake_at(second.root, "a second document; one file holds one".into())),
            (None, _) => {
                let null = Placed { line: 1, column: 1, kind: Kind::Scalar { text: String::new(), plain: true }, weight: 1 };
                Ok(Self { file: label.to_owned(), nodes: vec![null], root: 0, mistakes: Vec::new() })
            }
        }
    }

    /// Parses a text that holds any number of documents.
    pub fn parse_all(label: &str, text: &str) -> Result<Vec<Self>, Mistake> {
        if text.len() > DOCUMENT_BYTES_MAX {
            let what = format!("{} bytes of YAML; at most {DOCUMENT_BYTES_MAX} are read", text.len());
            return Err(Mistake::of_file(label, what));
        }
        let mut documents = Vec::new();
        let mut builder = Builder::new(label);
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|e| at_marker(label, e.marker(), format!("not YAML: {}", shown(e.info()))))?;
            match event {
                Event::DocumentStart(_) => builder = Builder::new(label),
                Event::DocumentEnd => documents.extend(std::mem::replace(&mut builder, Builder::new(label)).finish()),
                event => builder.event(event, &span.start)?,
            }
        }
        Ok(documents)
    }

    /// The outermost node. What was wrong with the document as such (a key that stands twice) goes to `mistakes`.
    pub fn root(&self, mistakes: &mut Mistakes) -> Node<'_> {
        self.mistakes.iter().cloned().for_each(|m| mistakes.push(m));
        Node { document: self, index: self.root }
    }

    /// File as the user named it.
    pub fn file(&self) -> &str {
        &self.file
    }

    pub(super) fn kind(&self, index: usize) -> &Kind {
        &self.nodes[index].kind
    }

    pub(super) fn mistake_at(&self, index: usize, what: String) -> Mistake {
        let node = &self.nodes[index];
        Mistake { file: self.file.clone(), line: node.line, column: node.column, what, suggestion: None }
    }
}

/// A collection whose end has not come yet.
struct Open {
    index: usize,
    anchor: usize,
    /// Key that waits for its value.
    key: Option<usize>,
}

struct Builder {
    document: Document,
    open: Vec<Open>,
    /// Finished nodes by anchor number (from 1).
    anchors: BTreeMap<usize, usize>,
    complete: bool,
}

impl Builder {
    fn new(label: &str) -> Self {
        let document = Document { file: label.to_owned(), nodes: Vec::new(), root: 0, mistakes: Vec::new() };
        Self { document, open: Vec::new(), anchors: BTreeMap::new(), complete: false }
    }

    fn finish(self) -> Option<Document> {
        self.complete.then_some(self.document)
    }

    fn event(&mut self, event: Event<'_>, at: &Marker) -> Result<(), Mistake> {
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let kind = Kind::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain };
                let index = self.add(kind, at)?;
                self.refuse_tag(tag.is_some(), index);
                self.close(index, anchor)
            }
            Event::SequenceStart(anchor, tag) => self.begin(Kind::List(Vec::new()), anchor, tag.is_some(), at),
            Event::MappingStart(anchor, tag) => self.begin(Kind::Map(Vec::new()), anchor, tag.is_some(), at),
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(ended) => {
                    if matches!(self.document.nodes[ended.index].kind, Kind::Map(_)) {
                        self.check_keys(ended.index);
                    }
                    self.close(ended.index, ended.anchor)
                }
                None => Err(at_marker(&self.document.file, at, "not YAML: an end without a beginning".into())),
            },
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(&target) => self.close(target, 0),
                None => Err(at_marker(&self.document.file, at, "an alias inside what it names".into())),
            },
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentStart(_) | Event::DocumentEnd => Ok(()),
        }
    }

    fn begin(&mut self, kind: Kind, anchor: usize, tagged: bool, at: &Marker) -> Result<(), Mistake> {
        if self.open.len() >= DEPTH_MAX {
            return Err(at_marker(&self.document.file, at, format!("nested deeper than {DEPTH_MAX}")));
        }
        let index = self.add(kind, at)?;
        self.refuse_tag(tagged, index);
        self.open.push(Open { index, anchor, key: None });
        Ok(())
    }

    fn add(&mut self, kind: Kind, at: &Marker) -> Result<usize, Mistake> {
        if self.document.nodes.len() >= NODES_MAX {
            return Err(at_marker(&self.document.file, at, format!("more than {NODES_MAX} values")));
        }
        let (line, column) = place(at);
        self.document.nodes.push(Placed { line, column, kind, weight: 1 });
        Ok(self.document.nodes.len() - 1)
    }

    /// A node is complete: it gets its place in the collection around it, or is the root.
    fn close(&mut self, index: usize, anchor: usize) -> Result<(), Mistake> {
        if anchor > 0 {
            self.anchors.insert(anchor, index);
        }
        let weight = self.document.nodes[index].weight;
        let Some(outer) = self.open.last_mut() else {
            self.document.root = index;
            self.complete = true;
            return Ok(());
        };
        let parent = &mut self.document.nodes[outer.index];
        parent.weight = parent.weight.saturating_add(weight);
        let too_large = parent.weight > NODES_MAX;
        match &mut parent.kind {
            Kind::List(items) => items.push(index),
            Kind::Map(entries) => match outer.key.take() {
                Some(key) => entries.push((key, index)),
                None => outer.key = Some(index),
            },
            // Only collections are ever opened.
            Kind::Scalar { .. } => {}
        }
        if too_large {
            return Err(self.document.mistake_at(index, format!("more than {NODES_MAX} values, aliases counted each time")));
        }
        Ok(())
    }

    /// Keys are text and stand once; others become mistakes and are left out.
    fn check_keys(&mut self, map: usize) {
        let Kind::Map(entries) = std::mem::replace(&mut self.document.nodes[map].kind, Kind::Map(Vec::new())) else { return };
        let mut seen = BTreeSet::new();
        let mut kept = Vec::with_capacity(entries.len());
        let mut mistakes = Vec::new();
        for (key, value) in entries {
            match &self.document.nodes[key].kind {
                Kind::Scalar { text, .. } if seen.insert(text.as_str()) => kept.push((key, value)),
                Kind::Scalar { text, .. } => {
                    mistakes.push(self.document.mistake_at(key, format!("{} stands twice", shown(text))));
                }
                _ => mistakes.push(self.document.mistake_at(key, "a name must be text".into())),
            }
        }
        self.document.mistakes.extend(mistakes);
        self.document.nodes[map].kind = Kind::Map(kept);
    }

    fn refuse_tag(&mut self, tagged: bool, index: usize) {
        if tagged {
            self.document.mistakes.push(self.document.mistake_at(index, "tags (!name) are not used here".into()));
        }
    }
}

fn at_marker(file: &str, at: &Marker, what: String) -> Mistake {
    let (line, column) = place(at);
    Mistake { file: file.to_owned(), line, column, what, suggestion: None }
}

/// Line and column from 1.
fn place(at: &Marker) -> (u32, u32) {
    // Both are bounded by DOCUMENT_BYTES_MAX.
    (at.line().max(1) as u32, at.col() as u32 + 1)
}
