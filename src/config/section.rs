//! A map of the file whose keys are not in the table, such as a driver's parameters: its values by type, and every fault with its
//! place.

use std::time::Duration;

use super::fault::{Faults, Mark, nearest};
use super::values::{flag, free, number, text_map, text_of, texts};
use super::yaml::{Content, Node};
use crate::core::units::parse_duration;

/// The map, if there is one, with its path for messages.
pub(super) struct Section<'a> {
    pub(super) node: Option<&'a Node>,
    pub(super) path: String,
}

impl<'a> Section<'a> {
    pub(super) fn at(&self, name: &str) -> String {
        format!("{}.{name}", self.path)
    }

    /// `None` also for a key without a value.
    pub(super) fn get(&self, name: &str) -> Option<&'a Node> {
        self.node.and_then(|node| node.get(name)).filter(|node| node.content != Content::Null)
    }

    pub(super) fn mark(&self, name: &str) -> Option<Mark> {
        self.get(name).map(|node| node.mark)
    }

    /// Keys that are none of these: place, path and text of each.
    pub(super) fn unknown(&self, known: &[&str]) -> Vec<(Mark, String, String)> {
        let keys = self.node.map(Node::entries).unwrap_or_default().iter().map(|(key, _)| key);
        let unknown = keys.filter(|key| !known.contains(&key.name.as_str()));
        unknown
            .map(|key| {
                let hint = nearest(&key.name, known.iter().copied());
                let hint = hint.map(|name| format!(" (perhaps you meant {name}?)")).unwrap_or_default();
                (key.mark, self.at(&key.name), format!("there is no such key{hint}"))
            })
            .collect()
    }

    /// What `convert` makes of the value; nothing if there is none, or if it is wrong, which is reported.
    pub(super) fn value<T>(
        &self,
        name: &str,
        faults: &mut Faults,
        convert: impl FnOnce(&'a Node) -> Result<T, String>,
    ) -> Option<T> {
        let node = self.get(name)?;
        convert(node).map_err(|message| faults.error(Some(node.mark), &self.at(name), message)).ok()
    }

    /// An empty text counts as none.
    pub(super) fn text(&self, name: &str, faults: &mut Faults) -> Option<(String, Mark)> {
        let found = self.value(name, faults, |node| text_of(node).map(|text| (text.to_owned(), node.mark)));
        found.filter(|(text, _)| !text.is_empty())
    }

    pub(super) fn flag(&self, name: &str, faults: &mut Faults) -> Option<bool> {
        self.value(name, faults, |node| text_of(node).and_then(flag))
    }

    pub(super) fn number(&self, name: &str, faults: &mut Faults) -> Option<f64> {
        self.value(name, faults, |node| text_of(node).and_then(number))
    }

    pub(super) fn duration(&self, name: &str, faults: &mut Faults) -> Option<Duration> {
        self.value(name, faults, |node| text_of(node).and_then(parse_duration))
    }

    /// One text, a list, or a map whose keys count; empty texts do not.
    pub(super) fn texts(&self, name: &str, faults: &mut Faults) -> Vec<String> {
        let read = |node: &Node| match &node.content {
            Content::Scalar { text, .. } => Ok(vec![text.clone()]),
            _ => texts(node),
        };
        let mut found = self.value(name, faults, read).unwrap_or_default();
        found.retain(|text| !text.is_empty());
        found
    }

    pub(super) fn text_map(&self, name: &str, faults: &mut Faults) -> std::collections::BTreeMap<String, String> {
        self.value(name, faults, text_map).unwrap_or_default()
    }

    pub(super) fn free(&self, name: &str, faults: &mut Faults) -> serde_json::Map<String, serde_json::Value> {
        self.value(name, faults, free).unwrap_or_default()
    }
}
