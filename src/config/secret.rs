//! A configured secret. The only way to its text is `reveal`, so that a search finds every use.

use std::fmt;

/// A token or key: `Debug` prints `***`, there is no `Display`. Empty = not configured.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// The secret itself: for the call or file that needs it, never for a log, a message or a command line.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_empty() { "(empty)" } else { "***" })
    }
}
