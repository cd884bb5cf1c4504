//! What the proxy has seen.

use std::collections::BTreeMap;
use std::time::Instant;

/// One call of the API.
#[derive(Clone, Debug)]
pub struct Call {
    /// From 0, in the order in which they came.
    pub number: usize,
    /// `RunInstances` and the like.
    pub action: String,
    /// All parameters, decoded.
    pub parameters: BTreeMap<String, String>,
    /// When it had come completely.
    pub at: Instant,
    /// Which connection it came by: a client that keeps its connections comes by the same.
    pub connection: usize,
    /// The `Authorization` header.
    pub authorization: Option<String>,
    /// The `X-Amz-Security-Token` header.
    pub token: Option<String>,
    /// Moto has seen it. False also while it is held before that.
    pub forwarded: bool,
    /// The status that was sent, or would have been if the connection had not been cut; `None` before that, or if none was.
    pub status: Option<u16>,
    /// The answer's body, as it would have arrived unharmed.
    pub answer: String,
    /// Nothing more will be sent.
    pub finished: bool,
}

impl Call {
    /// A parameter's value, found by its whole name.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// A parameter with this value is there, under this name or as `….NAME`.
    #[must_use]
    pub fn has(&self, name: &str, value: &str) -> bool {
        let called = |key: &str| key == name || key.strip_suffix(name).is_some_and(|rest| rest.ends_with('.'));
        self.parameters.iter().any(|(key, other)| called(key) && other == value)
    }
}
