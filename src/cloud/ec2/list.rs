//! What `DescribeInstances` is asked, and instances as EC2 tells of them (spec 42 §6, §7).

use std::time::Duration;

use super::query::{Element, Params, QueryError};
use crate::cloud::CloudInstance;
use crate::core::effect::Tags;
use crate::core::ids::InstanceId;

/// Instances per page: the most that EC2 takes, so that a list costs few calls.
const PAGE_INSTANCES: &str = "1000";
/// The same without a filter: others' instances may have fifteen interfaces with fifty addresses each, which is thousands of elements, and an
/// answer's size has a limit.
const PAGE_OF_ALL: &str = "100";
/// For all pages: who asks gives a list up after two minutes, and prices come after it.
pub(super) const LIST_LIMIT: Duration = Duration::from_secs(100);
/// Such an instance is gone as far as anyone is concerned: nothing runs on it, and it is not billed.
const GONE: [&str; 2] = ["shutting-down", "terminated"];

/// An instance with what the driver itself keeps of it.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Listed {
    pub(super) instance: CloudInstance,
    /// Empty if it has none.
    pub(super) subnet: String,
    pub(super) spot: bool,
    /// Empty while unknown.
    pub(super) zone: String,
}

/// Asks for all that have these tags; without any for all that the account has in the region.
pub(super) fn describe(tags: &Tags) -> Params {
    let mut params = Params::default();
    params.add("MaxResults", if tags.is_empty() { PAGE_OF_ALL } else { PAGE_INSTANCES });
    for (key, value) in tags {
        params.filter(&format!("tag:{key}"), &[literal(value)]);
    }
    params
}

/// A filter's value that stands for itself: EC2 takes `*` and `?` for any text, and a backslash for the mark of one that is meant.
fn literal(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for character in value.chars() {
        if matches!(character, '*' | '?' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

/// The instances of one page that are not gone, in the order they came.
///
/// # Errors
/// It is no such page, or there is something without an id: what is not listed counts as gone, so nothing may be left out.
pub(super) fn instances(page: &Element, user: &str) -> Result<Vec<Listed>, QueryError> {
    if page.child("reservationSet").is_none() {
        return Err(QueryError::other(format!(
            "the answer to DescribeInstances is none: it is <{}> and has no reservationSet",
            page.name
        )));
    }
    let items = page.items(&["reservationSet"]).flat_map(|reservation| reservation.items(&["instancesSet"]));
    let live = items.filter(|item| !GONE.contains(&item.text_of(&["instanceState", "name"]).unwrap_or_default()));
    let no_id = || QueryError::other("the answer to DescribeInstances has an instance without an id");
    live.map(|item| listed(item, user).ok_or_else(no_id)).collect()
}

/// The instance of a `RunInstances` answer.
pub(super) fn started(answer: &Element, user: &str) -> Option<Listed> {
    answer.items(&["instancesSet"]).find_map(|item| listed(item, user))
}

/// `None` without an id.
fn listed(item: &Element, user: &str) -> Option<Listed> {
    let text = |path: &[&str]| item.text_of(path).unwrap_or_default().to_owned();
    let id = item.text_of(&["instanceId"]).filter(|id| !id.is_empty())?;
    let tags = item.items(&["tagSet"]).map(|tag| {
        // A value's white space is its own.
        let value = tag.child("value").map(|value| value.text.clone()).unwrap_or_default();
        (tag.text_of(&["key"]).unwrap_or_default().to_owned(), value)
    });
    let instance = CloudInstance {
        id: InstanceId::new(id),
        provider_type: text(&["instanceType"]),
        address: text(&["privateIpAddress"]),
        remote_user: user.to_owned(),
        tags: tags.collect(),
    };
    let spot = item.text_of(&["instanceLifecycle"]) == Some("spot");
    Some(Listed { instance, subnet: text(&["subnetId"]), spot, zone: text(&["placement", "availabilityZone"]) })
}
