//! Whose calls these are (spec 42 §1).
//!
//! [`chain`] goes through the places where credentials may be, in order: the keys of the configuration or else of the environment, the
//! [`shared_files`] below `~/.aws`, a web identity, the agent of a container, the metadata service of an instance. Profiles of the files may
//! want a role ([`assume_role`], by way of [`sts`]) or name a program ([`process`]). [`cache`] keeps what was found until shortly before it ends.

pub mod assume_role;
pub mod cache;
pub mod chain;
pub mod container;
pub mod document;
pub mod metadata;
pub mod process;
pub mod shared_files;
pub mod sts;
pub mod web_identity;

use std::fmt;
use std::path::Path;

use super::query::QueryError;
use crate::core::time::WallMillis;

/// Text that must not be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// For those who sign or send it.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

/// For how long credentials are good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lifetime {
    /// As long as this process.
    Fixed,
    /// They are in a file that someone may replace: good until it says otherwise.
    Reread,
    /// The service that gave them ends them then.
    Until(WallMillis),
}

/// What a request is signed with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Credentials {
    pub access_key_id: String,
    pub secret_access_key: Secret,
    /// Of temporary credentials: it goes with each request.
    pub session_token: Option<Secret>,
    pub lifetime: Lifetime,
}

/// What one place has.
#[derive(Debug)]
pub enum Found {
    Credentials(Credentials),
    /// Nothing is configured there, and why we think so: the next place is asked.
    Nothing(String),
}

/// Bytes of a file of credentials or of a token.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Reads a text file of at most a megabyte.
///
/// # Errors
/// As reading; `InvalidData` if it is longer or not UTF-8.
fn read_text(path: &Path) -> std::io::Result<String> {
    use std::io::{Error, ErrorKind, Read};
    let mut text = String::new();
    let length = std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if length as u64 > FILE_BYTES_MAX {
        return Err(Error::new(ErrorKind::InvalidData, format!("it has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(text)
}

/// Reads a token from a file, without the white space around it.
///
/// # Errors
/// It cannot be read, or is empty.
fn read_token(path: &Path, what: &str) -> Result<Secret, QueryError> {
    let shown = path.display();
    let text = read_text(path).map_err(|error| QueryError::caused(format!("cannot read {what} {shown}"), error))?;
    match text.trim() {
        "" => Err(QueryError::other(format!("{what} {shown} is empty"))),
        token => Ok(Secret::new(token)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_in_debug_output() {
        let credentials = Credentials {
            access_key_id: "AKID".into(),
            secret_access_key: Secret::new("verysecret"),
            session_token: Some(Secret::new("verysecret")),
            lifetime: Lifetime::Fixed,
        };
        let shown = format!("{credentials:?}");
        assert!(shown.contains("AKID") && !shown.contains("verysecret"), "{shown}");
    }

    #[test]
    fn files_are_limited_in_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("file");
        std::fs::write(&path, "x".repeat(1 << 20)).expect("written");
        assert_eq!(read_text(&path).expect("just so").len(), 1 << 20);
        std::fs::write(&path, "x".repeat((1 << 20) + 1)).expect("written");
        assert!(read_text(&path).expect_err("too long").to_string().contains("more than 1048576 bytes"));
        std::fs::write(&path, " token\n").expect("written");
        assert_eq!(read_token(&path, "the token").expect("a token").reveal(), "token");
        std::fs::write(&path, " \n").expect("written");
        assert!(read_token(&path, "the token").expect_err("empty").to_string().contains("is empty"));
    }
}
