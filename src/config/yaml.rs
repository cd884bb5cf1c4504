//! YAML as a tree in which every node knows its place (spec 62 §3). Bounded: size, depth, and the nodes that aliases unfold to.

use std::collections::BTreeMap;

use saphyr_parser::{Event, Parser, ScalarStyle, Span};

use super::fault::{Faults, Mark};

/// Bytes of a configuration file.
pub(super) const FILE_BYTES_MAX: u64 = 16 * 1024 * 1024;
const DEPTH_MAX: usize = 64;
/// Nodes and bytes of text, aliases unfolded: a few lines of aliases of aliases must not fill the memory.
const NODES_MAX: usize = 1_000_000;
const TEXT_BYTES_MAX: usize = 64 * 1024 * 1024;

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    pub(super) mark: Mark,
    pub(super) content: Content,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Content {
    /// Unquoted `null`, `~` or nothing: as if the key were not there.
    Null,
    Scalar {
        text: String,
        quoted: bool,
    },
    List(Vec<Node>),
    /// In the order of the file; each key once.
    Map(Vec<(Key, Node)>),
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Key {
    pub(super) name: String,
    pub(super) mark: Mark,
}

impl Node {
    pub(super) fn get(&self, name: &str) -> Option<&Self> {
        match &self.content {
            Content::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }

    pub(super) fn entries(&self) -> &[(Key, Self)] {
        match &self.content {
            Content::Map(entries) => entries,
            _ => &[],
        }
    }

    /// What it is, for messages.
    pub(super) const fn kind(&self) -> &'static str {
        match self.content {
            Content::Null => "nothing",
            Content::Scalar { .. } => "a single value",
            Content::List(_) => "a list",
            Content::Map(_) => "a map",
        }
    }

    /// Nodes, and bytes of text.
    fn size(&self) -> (usize, usize) {
        let add = |(nodes, bytes): (usize, usize), (more, text): (usize, usize)| (nodes + more, bytes + text);
        match &self.content {
            Content::Null => (1, 0),
            Content::Scalar { text, .. } => (1, text.len()),
            Content::List(nodes) => nodes.iter().map(Self::size).fold((1, 0), add),
            Content::Map(entries) => {
                entries.iter().map(|(key, node)| add(node.size(), (0, key.name.len()))).fold((1, 0), add)
            }
        }
    }
}

/// Reads the first document; `None` for an empty one, or if it cannot be read at all (then there is an error).
pub(super) fn read(text: &str, faults: &mut Faults) -> Option<Node> {
    let mut reader =
        Reader { parser: Parser::new_from_str(text), anchors: BTreeMap::new(), nodes: 0, bytes: 0, faults };
    let result = reader.document();
    match result {
        Ok(node) => node.filter(|node| node.content != Content::Null),
        Err((mark, message)) => {
            faults.error(Some(mark), "", message);
            None
        }
    }
}

type Stop = (Mark, String);

struct Reader<'a, 'f> {
    parser: Parser<'a, saphyr_parser::StrInput<'a>>,
    anchors: BTreeMap<usize, Node>,
    nodes: usize,
    bytes: usize,
    faults: &'f mut Faults,
}

fn mark_of(span: &Span) -> Mark {
    Mark { line: span.start.line(), column: span.start.col() + 1 }
}

impl<'a> Reader<'a, '_> {
    fn next(&mut self) -> Result<(Event<'a>, Mark), Stop> {
        match self.parser.next() {
            Some(Ok((event, span))) => Ok((event, mark_of(&span))),
            Some(Err(error)) => {
                let mark = Mark { line: error.marker().line(), column: error.marker().col() + 1 };
                Err((mark, format!("not valid YAML: {}", error.info())))
            }
            None => Ok((Event::StreamEnd, Mark::default())),
        }
    }

    fn document(&mut self) -> Result<Option<Node>, Stop> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(None),
                (Event::StreamStart | Event::DocumentStart(_) | Event::DocumentEnd | Event::Nothing, _) => {}
                (event, mark) => {
                    let node = self.node(event, mark, 0)?;
                    self.rest()?;
                    return Ok(Some(node));
                }
            }
        }
    }

    /// Nothing may follow: it would be ignored in silence.
    fn rest(&mut self) -> Result<(), Stop> {
        loop {
            match self.next()? {
                (Event::StreamEnd, _) => return Ok(()),
                (Event::DocumentEnd | Event::Nothing, _) => {}
                (_, mark) => return Err((mark, "a second document: only one is read".to_owned())),
            }
        }
    }

    fn count(&mut self, mark: Mark, (nodes, bytes): (usize, usize)) -> Result<(), Stop> {
        self.nodes += nodes;
        self.bytes += bytes;
        if self.nodes > NODES_MAX || self.bytes > TEXT_BYTES_MAX {
            let limit = format!("more than {NODES_MAX} values or {TEXT_BYTES_MAX} bytes of text, aliases unfolded");
            return Err((mark, limit));
        }
        Ok(())
    }

    fn node(&mut self, event: Event<'a>, mark: Mark, depth: usize) -> Result<Node, Stop> {
        if depth > DEPTH_MAX {
            return Err((mark, format!("nested more than {DEPTH_MAX} deep")));
        }
        self.count(mark, (1, 0))?;
        let (content, anchor) = match event {
            Event::Scalar(text, style, anchor, _) => (scalar(&text, style), anchor),
            Event::SequenceStart(anchor, _) => (Content::List(self.list(depth)?), anchor),
            Event::MappingStart(anchor, _) => (Content::Map(self.map(depth)?), anchor),
            Event::Alias(id) => {
                let Some(node) = self.anchors.get(&id).cloned() else {
                    return Err((mark, "an alias of something that is not complete yet".to_owned()));
                };
                self.count(mark, node.size())?;
                return Ok(Node { mark, content: node.content });
            }
            _ => return Err((mark, "not valid YAML here".to_owned())),
        };
        let node = Node { mark, content };
        if anchor > 0 {
            self.count(mark, node.size())?;
            self.anchors.insert(anchor, node.clone());
        }
        Ok(node)
    }

    fn list(&mut self, depth: usize) -> Result<Vec<Node>, Stop> {
        let mut nodes = Vec::new();
        loop {
            match self.next()? {
                (Event::SequenceEnd, _) => return Ok(nodes),
                (event, mark) => nodes.push(self.node(event, mark, depth + 1)?),
            }
        }
    }

    fn map(&mut self, depth: usize) -> Result<Vec<(Key, Node)>, Stop> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut merged: Vec<(Key, Node)> = Vec::new();
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        loop {
            let (event, mark) = self.next()?;
            let (name, plain) = match event {
                Event::MappingEnd => break,
                Event::Scalar(text, style, ..) => (text.into_owned(), style == ScalarStyle::Plain),
                _ => return Err((mark, "a key must be a single value".to_owned())),
            };
            let (event, value_mark) = self.next()?;
            let value = self.node(event, value_mark, depth + 1)?;
            let key = Key { name, mark };
            if plain && key.name == "<<" {
                merged.extend(self.merged(value));
            } else if let Some(line) = lines.get(&key.name) {
                self.faults.error(Some(mark), &key.name, format!("given twice, first in line {line}"));
            } else {
                lines.insert(key.name.clone(), mark.line);
                entries.push((key, value));
            }
        }
        // A merge key fills in what the map itself does not say; the first of several wins.
        for (key, value) in merged {
            if !lines.contains_key(&key.name) {
                lines.insert(key.name.clone(), key.mark.line);
                entries.push((key, value));
            }
        }
        Ok(entries)
    }

    fn merged(&mut self, value: Node) -> Vec<(Key, Node)> {
        match value.content {
            Content::Map(entries) => entries,
            Content::List(nodes) => nodes.into_iter().flat_map(|node| self.merged(node)).collect(),
            _ => {
                self.faults.error(Some(value.mark), "<<", "a merge key needs a map, or a list of maps");
                Vec::new()
            }
        }
    }
}

fn scalar(text: &str, style: ScalarStyle) -> Content {
    let quoted = !matches!(style, ScalarStyle::Plain);
    match text {
        "" | "~" | "null" | "Null" | "NULL" if !quoted => Content::Null,
        _ => Content::Scalar { text: text.to_owned(), quoted },
    }
}

/// As YAML 1.1 has it.
pub(super) fn boolean(text: &str) -> Option<bool> {
    match text.to_lowercase().as_str() {
        "true" | "yes" | "on" | "y" => Some(true),
        "false" | "no" | "off" | "n" => Some(false),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults_of(text: &str) -> (Option<Node>, Vec<String>) {
        let mut faults = Faults::default();
        let node = read(text, &mut faults);
        (node, faults.errors.iter().map(|fault| format!("{:?} {}", fault.mark, fault.message)).collect())
    }

    #[test]
    fn marks_merges_and_nulls() {
        let (node, faults) = faults_of("base: &b {x: 1, y: 2}\nuse:\n  <<: *b\n  y: 3\nnothing:\nquoted: \"\"\n");
        assert!(faults.is_empty(), "{faults:?}");
        let node = node.expect("a map");
        let used = node.get("use").expect("there");
        let text = |name: &str| match &used.get(name).expect("there").content {
            Content::Scalar { text, .. } => text.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!((text("x"), text("y")), ("1".to_owned(), "3".to_owned()));
        assert_eq!(used.get("y").expect("there").mark, Mark { line: 4, column: 6 });
        assert_eq!(node.get("nothing").expect("there").content, Content::Null);
        assert_ne!(node.get("quoted").expect("there").content, Content::Null);
        let (node, faults) = faults_of("\"<<\": 3\n");
        assert!(faults.is_empty() && node.expect("a map").get("<<").is_some(), "{faults:?}");
    }

    #[test]
    fn faults_have_places() {
        for (text, part) in [
            ("a: 1\nb: 2\na: 3\n", "line: 3, column: 1 }) given twice"),
            ("a: [1, 2\nb: }\n", "not valid YAML"),
            ("a: 1\n---\nb: 2\n", "second document"),
            ("? [x]\n: 1\n", "a key must be a single value"),
            ("a:\n  <<: 3\n", "merge key"),
        ] {
            let (_, faults) = faults_of(text);
            assert!(faults.iter().any(|fault| fault.contains(part)), "{text:?}: {faults:?}");
        }
    }

    #[test]
    fn hostile_documents_are_bounded() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..20 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        assert!(faults_of(&bomb).1.iter().any(|fault| fault.contains("aliases unfolded")));
        let fat = format!("a: &a {}\nb: [{}]\n", "x".repeat(1 << 20), vec!["*a"; 300].join(", "));
        assert!(faults_of(&fat).1.iter().any(|fault| fault.contains("bytes of text")));
        let deep = "[".repeat(5000);
        assert!(!faults_of(&deep).1.is_empty());
    }
}
