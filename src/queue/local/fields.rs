//! One JSON object of a record, read field by field with errors that name the field. Pure. A `null` counts as absent.

use std::time::Duration;

use serde_json::{Map, Value};

use super::types::FieldError;
use crate::core::units::{parse_duration, parse_size};

/// An object whose field names have been checked; an absent one has no fields.
pub(super) struct Fields<'v> {
    /// With a dot at its end; empty for the record itself.
    prefix: String,
    map: Option<&'v Map<String, Value>>,
}

impl<'v> Fields<'v> {
    /// The record itself.
    pub(super) fn top(value: &'v Value, known: &[&str]) -> Result<Self, FieldError> {
        let Value::Object(map) = value else { return Err(FieldError::new("record", "not a JSON object")) };
        Self { prefix: String::new(), map: Some(map) }.checked(known)
    }

    /// The object called `path`.
    pub(super) fn new(value: &'v Value, path: String, known: &[&str]) -> Result<Self, FieldError> {
        let Value::Object(map) = value else { return Err(FieldError::new(path, "not a JSON object")) };
        Self { prefix: path + ".", map: Some(map) }.checked(known)
    }

    fn checked(self, known: &[&str]) -> Result<Self, FieldError> {
        for name in self.map.into_iter().flat_map(Map::keys) {
            if !known.contains(&name.as_str()) {
                let message = match nearest(name, known) {
                    Some(nearest) => format!("unknown field; did you mean {nearest}?"),
                    None => format!("unknown field; there are {}", known.join(", ")),
                };
                return Err(self.fault(&name.chars().take(100).collect::<String>(), message));
            }
        }
        Ok(self)
    }

    pub(super) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    pub(super) fn fault(&self, name: &str, message: impl Into<String>) -> FieldError {
        FieldError::new(self.path(name), message)
    }

    fn get(&self, name: &str) -> Option<&'v Value> {
        self.map?.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn object(&self, name: &str, known: &[&str]) -> Result<Self, FieldError> {
        match self.get(name) {
            Some(value) => Self::new(value, self.path(name), known),
            None => Ok(Self { prefix: self.path(name) + ".", map: None }),
        }
    }

    /// An object with names of the user's own.
    pub(super) fn map(&self, name: &str) -> Result<Option<&'v Map<String, Value>>, FieldError> {
        match self.get(name) {
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(self.fault(name, "not a JSON object")),
            None => Ok(None),
        }
    }

    /// Empty if absent.
    pub(super) fn text(&self, name: &str) -> Result<String, FieldError> {
        match self.get(name) {
            Some(Value::String(text)) => Ok(text.clone()),
            Some(_) => Err(self.fault(name, "not a text")),
            None => Ok(String::new()),
        }
    }

    /// Empty if absent.
    pub(super) fn texts(&self, name: &str) -> Result<Vec<String>, FieldError> {
        match self.get(name) {
            Some(Value::Array(values)) => {
                let texts = values.iter().map(|value| value.as_str().map(str::to_owned));
                texts.collect::<Option<_>>().ok_or_else(|| self.fault(name, "has an element that is not a text"))
            }
            Some(_) => Err(self.fault(name, "not a list of texts")),
            None => Ok(Vec::new()),
        }
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, FieldError> {
        match self.get(name) {
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(_) => Err(self.fault(name, "neither true nor false")),
            None => Ok(false),
        }
    }

    pub(super) fn integer(&self, name: &str) -> Result<Option<i64>, FieldError> {
        let Some(value) = self.get(name) else { return Ok(None) };
        value.as_i64().map(Some).ok_or_else(|| self.fault(name, format!("{} is not a whole number", shown(value))))
    }

    /// Bytes: a whole number, or a text with a unit.
    pub(super) fn size(&self, name: &str) -> Result<Option<i64>, FieldError> {
        match self.get(name) {
            Some(Value::String(text)) => parse_size(text).map(Some).map_err(|message| self.fault(name, message)),
            Some(value) => {
                let message =
                    || format!("{} is not a size: a whole number of bytes or a text such as \"1GiB\"", shown(value));
                value.as_i64().map(Some).ok_or_else(|| self.fault(name, message()))
            }
            None => Ok(None),
        }
    }

    /// A number of seconds, or a text with units.
    pub(super) fn duration(&self, name: &str) -> Result<Option<Duration>, FieldError> {
        match self.get(name) {
            Some(Value::String(text)) => parse_duration(text).map(Some).map_err(|message| self.fault(name, message)),
            Some(value) => {
                let message = || format!("{} is not a duration: seconds, or a text such as \"1h30m\"", shown(value));
                value.as_f64().and_then(seconds).map(Some).ok_or_else(|| self.fault(name, message()))
            }
            None => Ok(None),
        }
    }
}

/// The beginning of a value, for a message.
fn shown(value: &Value) -> String {
    value.to_string().chars().take(60).collect()
}

/// The known name that is at most two edits away.
fn nearest<'k>(name: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, nearest) = known.iter().map(|known| (distance(name, known), *known)).min()?;
    (distance <= 2).then_some(nearest)
}

/// Levenshtein's distance, in bytes; names far longer than any known one are not compared.
fn distance(a: &str, b: &str) -> usize {
    if a.len() > 64 {
        return usize::MAX;
    }
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.bytes().enumerate() {
            let changed = diagonal + usize::from(x != y);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

/// A number of seconds, to the millisecond; `None` if negative or above a thousand years.
fn seconds(seconds: f64) -> Option<Duration> {
    const LONGEST: f64 = 1000.0 * 366.0 * 86_400.0;
    if !(0.0..=LONGEST).contains(&seconds) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 3.2e13")]
    let millis = (seconds * 1000.0).round() as u64;
    Some(Duration::from_millis(millis))
}
