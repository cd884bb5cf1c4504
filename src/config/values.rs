//! Typed values: each key of the table read from the tree, or its default. Every wrong one is reported with its place.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fault::{Faults, Mark, nearest};
use super::keys::{ACCEPTED, CHECKED, KEYS, KeyInfo, Kind};
use super::yaml::{Content, Node, boolean};
use crate::core::units::{parse_duration, parse_size};

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Text(String),
    Count(u64),
    Number(f64),
    Flag(bool),
    Bytes(i64),
    Span(Duration),
    Texts(Vec<String>),
    TextMap(BTreeMap<String, String>),
    Free(serde_json::Map<String, serde_json::Value>),
}

/// The values of all keys, by path.
#[derive(Debug, Default)]
pub(super) struct Values {
    values: BTreeMap<&'static str, (Value, Option<Mark>)>,
    /// What comes before a path in messages: `Clusters.ID.` or nothing.
    pub(super) prefix: String,
}

impl Values {
    /// Reads every key below `root`; a wrong value is reported and counts as its default.
    pub(super) fn read(root: Option<&Node>, prefix: &str, faults: &mut Faults) -> Self {
        let mut values = Self { values: BTreeMap::new(), prefix: prefix.to_owned() };
        let mut reported = BTreeSet::new();
        for info in KEYS {
            if let Some((section, node)) = root.and_then(|root| wrong_section(root, info.path))
                && reported.insert(section)
            {
                must_be_map(node, &format!("{prefix}{section}"), faults);
            }
            let node = root.and_then(|root| find(root, info.path)).filter(|node| node.content != Content::Null);
            let read = node.and_then(|node| {
                let result = value_of(node, info);
                result
                    .map_err(|message| faults.error(Some(node.mark), &format!("{prefix}{}", info.path), message))
                    .ok()
                    .map(|value| (value, Some(node.mark)))
            });
            values.values.insert(info.path, read.unwrap_or_else(|| (default_of(info), None)));
        }
        for section in CHECKED {
            if let Some(node) = root.and_then(|root| root.get(section)) {
                warn_of_unknown(node, section, prefix, faults);
            }
        }
        values
    }

    /// The file says it (not the default).
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.mark(path).is_some()
    }

    pub(super) fn mark(&self, path: &str) -> Option<Mark> {
        self.values.get(path).and_then(|(_, mark)| *mark)
    }

    fn value(&self, path: &str) -> Option<&Value> {
        let found = self.values.get(path).map(|(value, _)| value);
        debug_assert!(found.is_some(), "{path} is not in the table");
        found
    }

    pub(super) fn text(&self, path: &str) -> String {
        match self.value(path) {
            Some(Value::Text(text)) => text.clone(),
            _ => String::new(),
        }
    }

    pub(super) fn count(&self, path: &str) -> usize {
        match self.value(path) {
            Some(Value::Count(count)) => usize::try_from(*count).unwrap_or(usize::MAX),
            _ => 0,
        }
    }

    pub(super) fn number(&self, path: &str) -> f64 {
        match self.value(path) {
            Some(Value::Number(number)) => *number,
            _ => 0.0,
        }
    }

    pub(super) fn flag(&self, path: &str) -> bool {
        matches!(self.value(path), Some(Value::Flag(true)))
    }

    pub(super) fn bytes(&self, path: &str) -> i64 {
        match self.value(path) {
            Some(Value::Bytes(bytes)) => *bytes,
            _ => 0,
        }
    }

    pub(super) fn duration(&self, path: &str) -> Duration {
        match self.value(path) {
            Some(Value::Span(duration)) => *duration,
            _ => Duration::ZERO,
        }
    }

    pub(super) fn texts(&self, path: &str) -> Vec<String> {
        match self.value(path) {
            Some(Value::Texts(texts)) => texts.clone(),
            _ => Vec::new(),
        }
    }

    pub(super) fn text_map(&self, path: &str) -> BTreeMap<String, String> {
        match self.value(path) {
            Some(Value::TextMap(map)) => map.clone(),
            _ => BTreeMap::new(),
        }
    }

    pub(super) fn free(&self, path: &str) -> serde_json::Map<String, serde_json::Value> {
        match self.value(path) {
            Some(Value::Free(map)) => map.clone(),
            _ => serde_json::Map::new(),
        }
    }
}

/// Follows a dotted path.
pub(super) fn find<'a>(root: &'a Node, path: &str) -> Option<&'a Node> {
    path.split('.').try_fold(root, |node, name| node.get(name))
}

/// The first part of the path that is neither a map nor empty, if what comes after it is to be found in it.
fn wrong_section<'a>(root: &'a Node, path: &'static str) -> Option<(&'static str, &'a Node)> {
    let ends = path.match_indices('.').map(|(at, _)| at);
    ends.map(|end| &path[..end]).find_map(|section| {
        let node = find(root, section)?;
        (!matches!(node.content, Content::Map(_) | Content::Null)).then_some((section, node))
    })
}

fn default_of(info: &KeyInfo) -> Value {
    let node = Node {
        mark: Mark::default(),
        content: match info.kind {
            Kind::Texts => Content::List(Vec::new()),
            Kind::TextMap | Kind::Free => Content::Map(Vec::new()),
            _ => Content::Scalar { text: info.default.to_owned(), quoted: true },
        },
    };
    value_of(&node, info).unwrap_or(match info.kind {
        // No default of its own: computed by the loader when it is not set.
        Kind::Count => Value::Count(0),
        Kind::Number => Value::Number(0.0),
        Kind::Size => Value::Bytes(0),
        Kind::Duration | Kind::PositiveDuration => Value::Span(Duration::ZERO),
        _ => Value::Text(String::new()),
    })
}

fn value_of(node: &Node, info: &KeyInfo) -> Result<Value, String> {
    match info.kind {
        Kind::Texts => texts(node).map(Value::Texts),
        Kind::TextMap => text_map(node).map(Value::TextMap),
        Kind::Free => free(node).map(Value::Free),
        kind => scalar(node, kind, info),
    }
}

pub(super) fn text_of(node: &Node) -> Result<&str, String> {
    match &node.content {
        Content::Scalar { text, .. } => Ok(text),
        _ => Err(format!("must be a single value, not {}", node.kind())),
    }
}

fn scalar(node: &Node, kind: Kind, info: &KeyInfo) -> Result<Value, String> {
    let text = text_of(node)?;
    match kind {
        Kind::Count => count(text).map(Value::Count),
        Kind::Number => number(text).map(Value::Number),
        Kind::Flag => flag(text).map(Value::Flag),
        Kind::Size => size(node).map(Value::Bytes),
        Kind::Duration => parse_duration(text).map(Value::Span),
        Kind::PositiveDuration => {
            let duration = parse_duration(text)?;
            // 0 means the default (spec 60 §3.3, "fallback").
            let fallback = || parse_duration(info.default).unwrap_or_default();
            Ok(Value::Span(if duration.is_zero() { fallback() } else { duration }))
        }
        _ => Ok(Value::Text(text.to_owned())),
    }
}

pub(super) fn count(text: &str) -> Result<u64, String> {
    match text.trim().parse::<i64>() {
        Ok(count) => u64::try_from(count).map_err(|_| format!("{count} is negative: it must be at least 0")),
        Err(_) => Err(format!("{text:?} is not a whole number")),
    }
}

pub(super) fn number(text: &str) -> Result<f64, String> {
    match text.trim().parse::<f64>() {
        Ok(number) if number.is_finite() && number >= 0.0 => Ok(number),
        Ok(number) => Err(format!("{number} is not a number of at least 0")),
        Err(_) => Err(format!("{text:?} is not a number")),
    }
}

pub(super) fn flag(text: &str) -> Result<bool, String> {
    boolean(text).ok_or_else(|| format!("{text:?} is neither true nor false"))
}

/// An unquoted fraction without a unit is most likely a mistake (spec 60 §2.1).
pub(super) fn size(node: &Node) -> Result<i64, String> {
    let text = text_of(node)?;
    let is_fraction = matches!(&node.content, Content::Scalar { quoted: false, .. })
        && text.contains('.')
        && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if is_fraction {
        return Err(format!("{text} is a fraction of a byte: write a unit, such as {text}GiB"));
    }
    parse_size(text)
}

/// A list, or a map whose keys count (a string set of spec 60 §2.3).
pub(super) fn texts(node: &Node) -> Result<Vec<String>, String> {
    match &node.content {
        Content::List(nodes) => nodes.iter().map(|node| text_of(node).map(str::to_owned)).collect(),
        Content::Map(entries) => Ok(entries.iter().map(|(key, _)| key.name.clone()).collect()),
        _ => Err(format!("must be a list, not {}", node.kind())),
    }
}

pub(super) fn text_map(node: &Node) -> Result<BTreeMap<String, String>, String> {
    let Content::Map(entries) = &node.content else {
        return Err(format!("must be a map, not {}", node.kind()));
    };
    let entry = |(key, node): &(super::yaml::Key, Node)| {
        let text = text_of(node).map_err(|fault| format!("{}: {fault}", key.name))?;
        Ok((key.name.clone(), text.to_owned()))
    };
    entries.iter().filter(|(_, node)| node.content != Content::Null).map(entry).collect()
}

pub(super) fn free(node: &Node) -> Result<serde_json::Map<String, serde_json::Value>, String> {
    match json(node) {
        serde_json::Value::Object(map) => Ok(map),
        _ => Err(format!("must be a map, not {}", node.kind())),
    }
}

fn json(node: &Node) -> serde_json::Value {
    match &node.content {
        Content::Null => serde_json::Value::Null,
        Content::Scalar { text, quoted: true } => text.as_str().into(),
        Content::Scalar { text, quoted: false } => plain(text),
        Content::List(nodes) => nodes.iter().map(json).collect(),
        Content::Map(entries) => {
            serde_json::Value::Object(entries.iter().map(|(key, node)| (key.name.clone(), json(node))).collect())
        }
    }
}

fn must_be_map(node: &Node, key: &str, faults: &mut Faults) {
    faults.error(Some(node.mark), key, format!("must be a map, not {}", node.kind()));
}

/// A number only where its text comes back the same: an id such as 0123 or one of thirty digits must not change.
fn plain(text: &str) -> serde_json::Value {
    let whole = text.parse::<i64>().ok().filter(|whole| whole.to_string() == text);
    let fraction = || text.parse::<f64>().ok().filter(|number| text.contains('.') && number.to_string() == text);
    match (whole, boolean(text)) {
        (Some(whole), _) => whole.into(),
        (None, Some(flag)) => flag.into(),
        (None, None) => fraction().map_or_else(|| text.into(), Into::into),
    }
}

/// Keys below `path` that nobody reads, with the nearest that somebody does.
fn warn_of_unknown(node: &Node, path: &str, prefix: &str, faults: &mut Faults) {
    for (key, value) in node.entries() {
        let here = format!("{path}.{}", key.name);
        let below = format!("{here}.");
        if KEYS.iter().any(|info| info.path == here) || ACCEPTED.contains(&here.as_str()) || key.name == "SAMPLE" {
            continue;
        }
        if KEYS.iter().any(|info| info.path.starts_with(&below)) {
            warn_of_unknown(value, &here, prefix, faults);
            continue;
        }
        let siblings =
            KEYS.iter().filter_map(|info| info.path.strip_prefix(path)?.strip_prefix('.')?.split('.').next());
        let hint = nearest(&key.name, siblings).map(|name| format!(" (perhaps you meant {name}?)")).unwrap_or_default();
        let message = format!("deprecated or unknown config entry{hint}");
        faults.warn(Some(key.mark), &format!("{prefix}{here}"), message);
    }
}
