//! What a program's standard output says (spec 46 §2): instances, capabilities, errors.
//!
//! Read by hand, since a fault must name its place and must not repeat what stands there: tags hold secrets.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value};

use super::stderr::one_line;
use crate::cloud::{CloudError, CloudInstance, prices};
use crate::core::effect::Tags;
use crate::core::ids::InstanceId;
use crate::core::instance_type::PricePoint;
use crate::core::pool::limits::CapacityScope;
use crate::remote::identity::HostKey;

/// Longest id, in bytes.
const ID_BYTES_MAX: usize = 256;
/// Longest address, user or provider type, in bytes.
const FIELD_BYTES_MAX: usize = 1024;
/// Price points of one instance: a spot price that changes every hour for a month has fewer.
const PRICES_MAX: usize = 1000;
/// Letters of an error's message that are kept.
const MESSAGE_LETTERS_MAX: usize = 2000;
/// For a rate limit that does not say how long it lasts.
const RETRY_DEFAULT: Duration = Duration::from_secs(30);
/// Any less, and a program that is always refused would be run all the time.
const RETRY_SECONDS_MIN: f64 = 0.1;
/// Any more is a mistake: nothing would be tried for hours.
const RETRY_SECONDS_MAX: f64 = 3600.0;
/// For a login that is not told (spec 40 §2.2).
const USER_DEFAULT: &str = "root";

/// What a program knows of one instance.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Described {
    pub(super) instance: CloudInstance,
    /// Where it is known, it decides.
    pub(super) host_key: Option<HostKey>,
    /// Newest first.
    pub(super) prices: Vec<PricePoint>,
}

/// What a program says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Capabilities {
    pub(super) cheap_list: bool,
    /// By type's name.
    pub(super) quota_groups: BTreeMap<String, String>,
    /// Host keys come, if not at once.
    pub(super) verify_host_key: bool,
}

/// The error that a document is, if it is one. `null` is none.
pub(super) fn refusal(document: &Value) -> Option<CloudError> {
    let error = document.get("error").filter(|error| !error.is_null())?;
    let text = |name: &str| error.get(name).and_then(Value::as_str).unwrap_or_default();
    let said = error.as_str().unwrap_or_else(|| text("message"));
    let message = match said.trim() {
        "" => "the driver program reports an error without a message".to_owned(),
        said => one_line(said, MESSAGE_LETTERS_MAX),
    };
    Some(match text("kind") {
        "rate_limit" => CloudError::RateLimit { message, retry_after: retry_after(error.get("retry_after_s")) },
        "quota" => CloudError::Quota { message },
        "capacity" => CloudError::Capacity { message, scope: scope(text("scope")) },
        _ => CloudError::Other { message, source: None },
    })
}

fn retry_after(value: Option<&Value>) -> Duration {
    let seconds = value.and_then(Value::as_f64).filter(|seconds| *seconds >= 0.0);
    seconds
        .map_or(RETRY_DEFAULT, |seconds| Duration::from_secs_f64(seconds.clamp(RETRY_SECONDS_MIN, RETRY_SECONDS_MAX)))
}

/// One that is not told holds for everything (spec 40 §3).
fn scope(word: &str) -> CapacityScope {
    match word {
        "type" => CapacityScope::Type,
        "group" => CapacityScope::Group,
        _ => CapacityScope::Everything,
    }
}

/// The answer of `capabilities`: what is missing is false or empty.
///
/// # Errors
/// Which field is not what it should be.
pub(super) fn capabilities(mut document: Map<String, Value>) -> Result<Capabilities, String> {
    let mut flag = |name: &str| match document.remove(name) {
        None | Some(Value::Null) => Ok(false),
        Some(Value::Bool(flag)) => Ok(flag),
        Some(_) => Err(format!("{name} must be true or false")),
    };
    let (cheap_list, verify_host_key) = (flag("cheap_list")?, flag("verify_host_key")?);
    let quota_groups = texts(&mut document, "quota_groups")?.unwrap_or_default();
    Ok(Capabilities { cheap_list, quota_groups, verify_host_key })
}

/// The answer of `create`. What it leaves out is what was asked for.
///
/// # Errors
/// What is wrong with it, and where.
pub(super) fn created(
    mut document: Map<String, Value>,
    asked: &Tags,
    provider_type: &str,
) -> Result<Described, String> {
    let value = document.remove("instance").ok_or("there is no instance in it")?;
    let Parts { mut described, has_tags } = described(value, &"instance")?;
    if !has_tags {
        described.instance.tags = asked.clone();
    }
    if described.instance.provider_type.is_empty() {
        provider_type.clone_into(&mut described.instance.provider_type);
    }
    Ok(described)
}

/// The answer of `list`, in its order.
///
/// # Errors
/// What is wrong with it, and where: a list is taken whole or not at all.
pub(super) fn listed(mut document: Map<String, Value>) -> Result<Vec<Described>, String> {
    let Some(Value::Array(values)) = document.remove("instances") else {
        return Err("there is no list of instances in it".to_owned());
    };
    let mut all = Vec::with_capacity(values.len());
    let mut ids = BTreeSet::new();
    for (number, value) in values.into_iter().enumerate() {
        let one = described(value, &format_args!("instances[{number}]"))?.described;
        if !ids.insert(one.instance.id.clone()) {
            return Err(format!("the instance {} is in it twice", one.instance.id));
        }
        all.push(one);
    }
    Ok(all)
}

struct Parts {
    described: Described,
    has_tags: bool,
}

/// `place` is for an instance that has no id.
fn described(value: Value, place: &dyn std::fmt::Display) -> Result<Parts, String> {
    let Value::Object(mut fields) = value else { return Err(format!("{place} must be an object")) };
    let id = text(&mut fields, "id", ID_BYTES_MAX).map_err(|fault| format!("{place}: {fault}"))?;
    if id.is_empty() {
        return Err(format!("{place} has no id"));
    }
    rest(InstanceId::new(&id), fields).map_err(|fault| format!("instance {id}: {fault}"))
}

fn rest(id: InstanceId, mut fields: Map<String, Value>) -> Result<Parts, String> {
    let mut field = |name| text(&mut fields, name, FIELD_BYTES_MAX);
    let (address, user, provider_type) = (field("address")?, field("remote_user")?, field("provider_type")?);
    let remote_user = if user.is_empty() { USER_DEFAULT.to_owned() } else { user };
    let key = text(&mut fields, "host_key", usize::MAX)?;
    let host_key = match key.as_str() {
        "" => None,
        key => Some(HostKey::parse(key).map_err(|fault| format!("host_key {fault}"))?),
    };
    let tags = texts(&mut fields, "tags")?;
    let has_tags = tags.is_some();
    let tags = tags.unwrap_or_default().into_iter().collect();
    let prices = prices::newest_first(price_points(fields.remove("prices"))?, PRICES_MAX);
    let instance = CloudInstance { id, provider_type, address, remote_user, tags };
    Ok(Parts { described: Described { instance, host_key, prices }, has_tags })
}

/// Empty where there is none.
fn text(fields: &mut Map<String, Value>, name: &str, bytes_max: usize) -> Result<String, String> {
    match fields.remove(name) {
        None | Some(Value::Null) => Ok(String::new()),
        Some(Value::String(text)) if text.len() > bytes_max => Err(format!("{name} has more than {bytes_max} bytes")),
        Some(Value::String(text)) if text.contains(char::is_control) => {
            Err(format!("{name} has a control character in it"))
        }
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("{name} must be a text")),
    }
}

/// `None` where there are none.
fn texts(fields: &mut Map<String, Value>, name: &str) -> Result<Option<BTreeMap<String, String>>, String> {
    let entries = match fields.remove(name) {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Object(entries)) => entries,
        Some(_) => return Err(format!("{name} must be an object")),
    };
    let entries = entries.into_iter().map(|(key, value)| match value {
        Value::String(text) => Ok((key, text)),
        _ => Err(format!("{name}[{key:?}] must be a text")),
    });
    entries.collect::<Result<_, _>>().map(Some)
}

fn price_points(value: Option<Value>) -> Result<Vec<PricePoint>, String> {
    let values = match value {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Array(values)) => values,
        Some(_) => return Err("prices must be a list".to_owned()),
    };
    let point = |(number, value): (usize, &Value)| {
        let since =
            value.get("StartTime").and_then(Value::as_str).and_then(|text| text.parse::<jiff::Timestamp>().ok());
        let since =
            since.ok_or_else(|| format!("prices[{number}].StartTime must be a time such as 2026-01-31T12:00:00Z"))?;
        let price = value.get("Price").and_then(Value::as_f64).filter(|price| *price >= 0.0);
        let price = price.ok_or_else(|| format!("prices[{number}].Price must be a number, 0 or more"))?;
        Ok(PricePoint { since: since.as_millisecond(), price })
    };
    values.iter().enumerate().map(point).collect()
}

#[cfg(test)]
mod tests;
