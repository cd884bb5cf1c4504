//! The query API as the driver sees it (spec 42 §2): an action with flattened parameters in, an XML element or an error out.
//!
//! Pure: [`client`](super::client) is the [`Query`] that goes to the network, and tests of the driver have one of their own.

use std::fmt::{self, Write};
use std::time::Duration;

use crate::core::effect::Tags;

/// Parameters whose values let somebody in: the first boot's text has the instance's secret, the token stands for an identity.
const SECRET_NAMES: [&str; 2] = ["UserData", "WebIdentityToken"];

/// One of those, or a tag's value (`Tag.N.Value`, also of a `TagSpecification`), of which one is the instance's secret.
fn is_secret(name: &str) -> bool {
    SECRET_NAMES.contains(&name) || name.ends_with(".Value") && name.contains("Tag.")
}

/// One call of the query API; from any thread.
pub trait Query: Send + Sync + fmt::Debug {
    /// Calls once: never repeats by itself, so that the dispatcher learns of rate limits at once (§1).
    ///
    /// # Errors
    /// [`QueryError::Api`] if the service refused. After [`QueryError::Other`] the call may have taken effect all the same.
    fn call(&self, action: &'static str, params: &Params) -> Result<Element, QueryError> {
        self.call_within(action, params, Duration::MAX)
    }

    /// The same, if there is less time than the client allows itself.
    ///
    /// # Errors
    /// As [`Query::call`].
    fn call_within(&self, action: &'static str, params: &Params, limit: Duration) -> Result<Element, QueryError>;

    /// Ends what runs on this host for calls. Calls go on as far as they need nothing of that.
    fn stop(&self) {}
}

/// Names and values in the order they are sent. Debug output hides the values that are secrets.
#[derive(Clone, Default, PartialEq)]
pub struct Params(pub Vec<(String, String)>);

impl Params {
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<String>) {
        self.0.push((name.into(), value.into()));
    }

    /// Adds `Filter.N.Name` and `Filter.N.Value.1`, …: N is the next free number. An answer fits all filters, and one value of each.
    pub fn filter<V: AsRef<str>>(&mut self, name: &str, values: &[V]) {
        let number = self.next_number("Filter.", ".Name");
        self.add(format!("Filter.{number}.Name"), name);
        self.list(&format!("Filter.{number}.Value"), values);
    }

    /// Adds `PREFIX.1`, `PREFIX.2`, …
    pub fn list<V: AsRef<str>>(&mut self, prefix: &str, values: &[V]) {
        for (number, value) in (1..).zip(values) {
            self.add(format!("{prefix}.{number}"), value.as_ref());
        }
    }

    /// Adds `PREFIXTag.N.Key` and `PREFIXTag.N.Value` for all of them; the prefix is empty or ends with a dot.
    pub fn tags(&mut self, prefix: &str, tags: &Tags) {
        for (number, (key, value)) in (1..).zip(tags.iter()) {
            self.add(format!("{prefix}Tag.{number}.Key"), key);
            self.add(format!("{prefix}Tag.{number}.Value"), value);
        }
    }

    /// Adds `TagSpecification.N`: the tags that a resource of this type has from the start. Without tags it adds nothing, for an
    /// empty specification is refused.
    pub fn tag_specification(&mut self, resource_type: &str, tags: &Tags) {
        if tags.is_empty() {
            return;
        }
        let number = self.next_number("TagSpecification.", ".ResourceType");
        self.add(format!("TagSpecification.{number}.ResourceType"), resource_type);
        self.tags(&format!("TagSpecification.{number}."), tags);
    }

    /// The value that goes by this name; the first if there are several.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// The body of a form: `name=value` joined by `&`, both percent-encoded.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        for (name, value) in &self.0 {
            if !text.is_empty() {
                text.push('&');
            }
            percent_encode(name, &mut text);
            text.push('=');
            percent_encode(value, &mut text);
        }
        text
    }

    fn next_number(&self, prefix: &str, suffix: &str) -> usize {
        1 + self.0.iter().filter(|(name, _)| name.starts_with(prefix) && name.ends_with(suffix)).count()
    }
}

impl fmt::Debug for Params {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown =
            self.0.iter().map(|(name, value)| (name, if is_secret(name) { "(hidden)" } else { value.as_str() }));
        f.debug_map().entries(shown).finish()
    }
}

/// Appends the text with all but RFC 3986's unreserved characters as `%XX` of upper-case digits: a signature covers the encoded
/// form, so there must be one form only. A space is `%20`, not `+`.
pub fn percent_encode(text: &str, out: &mut String) {
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
}

/// An element of the XML answer. `Debug` shows no text: an answer of STS is credentials, one of EC2 has the instances' secrets.
#[derive(Clone, Default, PartialEq)]
pub struct Element {
    /// Without namespace prefix.
    pub name: String,
    /// All text directly within it, joined, as sent: usually white space where there are children.
    pub text: String,
    pub children: Vec<Element>,
}

impl Element {
    /// The first child of this name.
    pub fn child(&self, name: &str) -> Option<&Element> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The descendant that the names lead to, from child to child; itself if there are none.
    pub fn at(&self, path: &[&str]) -> Option<&Element> {
        path.iter().try_fold(self, |element, name| element.child(name))
    }

    /// The text there without white space around; `Some("")` of an element that is empty, `None` where there is none.
    pub fn text_of(&self, path: &[&str]) -> Option<&str> {
        self.at(path).map(|element| element.text.trim())
    }

    /// The `<item>` children there, in order: this is how EC2 sends lists. None if there is no such list.
    pub fn items<'a>(&'a self, path: &[&str]) -> impl Iterator<Item = &'a Element> {
        let children = self.at(path).map(|list| list.children.as_slice()).unwrap_or_default();
        children.iter().filter(|child| child.name == "item")
    }
}

impl fmt::Debug for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}>", self.name)?;
        if self.children.is_empty() { Ok(()) } else { f.debug_list().entries(&self.children).finish() }
    }
}

/// Why a call gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The service's refusal, in its words.
    #[error("{code}: {message} (request id {request_id})")]
    Api { status: u16, code: String, message: String, request_id: String },
    /// Network, TLS, credentials, an unreadable answer; says what to do where possible.
    #[error("{message}")]
    Other {
        message: String,
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
}

impl QueryError {
    pub fn other(message: impl Into<String>) -> Self {
        Self::Other { message: message.into(), source: None }
    }

    pub fn caused(message: impl Into<String>, source: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Other { message: message.into(), source: Some(Box::new(source)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::errors::chain;

    fn names_and_values(params: &Params) -> Vec<String> {
        params.0.iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    fn tags(pairs: &[(&str, &str)]) -> Tags {
        let mut tags = Tags::new();
        tags.extend(pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        tags
    }

    #[test]
    fn filters_and_tag_specifications_number_themselves() {
        let mut params = Params::default();
        params.filter("fingerprint", &["a", "b"]);
        params.add("MinCount", "1");
        params.filter("tag:x", &["y".to_owned()]);
        params.tag_specification("volume", &Tags::new());
        params.tag_specification("instance", &tags(&[("k1", "v1"), ("k2", "")]));
        params.tags("", &tags(&[("k", "v")]));
        let expected = [
            "Filter.1.Name=fingerprint",
            "Filter.1.Value.1=a",
            "Filter.1.Value.2=b",
            "MinCount=1",
            "Filter.2.Name=tag:x",
            "Filter.2.Value.1=y",
            "TagSpecification.1.ResourceType=instance",
            "TagSpecification.1.Tag.1.Key=k1",
            "TagSpecification.1.Tag.1.Value=v1",
            "TagSpecification.1.Tag.2.Key=k2",
            "TagSpecification.1.Tag.2.Value=",
            "Tag.1.Key=k",
            "Tag.1.Value=v",
        ];
        assert_eq!(names_and_values(&params), expected);
    }

    #[test]
    fn only_unreserved_characters_stay_as_they_are() {
        for (text, expected) in [
            ("AZaz09-_.~", "AZaz09-_.~"),
            ("a b+c", "a%20b%2Bc"),
            ("tag:x=/?&*", "tag%3Ax%3D%2F%3F%26%2A"),
            ("ሴ\n", "%E1%88%B4%0A"),
            ("", ""),
        ] {
            let mut encoded = String::new();
            percent_encode(text, &mut encoded);
            assert_eq!(encoded, expected, "{text}");
        }
        let params = Params(vec![("a:".into(), "1 2".into()), ("b".into(), String::new())]);
        assert_eq!(params.encode(), "a%3A=1%202&b=");
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let mut params = Params::default();
        params.add("UserData", "c2VjcmV0");
        params.add("ImageId", "ami-1");
        assert_eq!(format!("{params:?}"), r#"{"UserData": "(hidden)", "ImageId": "ami-1"}"#);
        let secret = tags(&[("ArvadosInstanceSecret", "hush")]);
        let mut tagged = Params::default();
        tagged.tags("", &secret);
        tagged.tag_specification("instance", &secret);
        tagged.filter("tag:a", &["shown"]);
        let text = format!("{tagged:?}");
        assert!(!text.contains("hush") && text.contains("ArvadosInstanceSecret") && text.contains("shown"), "{text}");
        let answer = element("Credentials", "\n", vec![element("SecretAccessKey", "hush", Vec::new())]);
        assert_eq!(format!("{answer:?}"), "<Credentials>[<SecretAccessKey>]");
        assert_eq!(params.get("UserData"), Some("c2VjcmV0"));
        assert_eq!(params.get("Image"), None);
    }

    fn element(name: &str, text: &str, children: Vec<Element>) -> Element {
        Element { name: name.to_owned(), text: text.to_owned(), children }
    }

    #[test]
    fn paths_lead_through_children() {
        let item = |text| element("item", "\n", vec![element("id", text, Vec::new())]);
        let list = element("set", "", vec![item(" i-1 "), element("other", "", Vec::new()), item("")]);
        let root = element("Answer", "", vec![list]);
        let ids: Vec<_> = root.items(&["set"]).map(|item| item.text_of(&["id"])).collect();
        assert_eq!(ids, [Some("i-1"), Some("")]);
        assert_eq!(root.text_of(&["set", "item", "id"]), Some("i-1"));
        assert_eq!(root.text_of(&["set", "nothing"]), None);
        assert_eq!(root.items(&["nothing"]).count(), 0);
        assert_eq!(root.at(&[]), Some(&root));
    }

    #[test]
    fn a_refusal_is_displayed_in_the_services_words() {
        let error = QueryError::Api {
            status: 503,
            code: "RequestLimitExceeded".into(),
            message: "Slow down.".into(),
            request_id: "r-1".into(),
        };
        assert_eq!(error.to_string(), "RequestLimitExceeded: Slow down. (request id r-1)");
        let caused = QueryError::caused("no luck", error);
        assert_eq!(caused.to_string(), "no luck");
        assert_eq!(chain(&caused), "no luck: RequestLimitExceeded: Slow down. (request id r-1)");
    }
}
