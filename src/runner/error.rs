//! What can go wrong in a command of the runner; its kind decides the exit code (spec 50 §2.1).

use std::io;
use std::path::Path;

use muster_runner::protocol::MAY_STILL_RUN;

#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The command line cannot be understood: exit 2.
    #[error("{0}; see --help")]
    Usage(String),
    /// A call to the system failed.
    #[error("{what}: {source}")]
    Io { what: String, source: io::Error },
    /// A runner was made, and nothing is known of it: exit 75.
    #[error("{what}: {source}")]
    Unanswered { what: String, source: io::Error },
    /// Asked for what must not be done, or cannot be; the text says why and what to do.
    #[error("{0}")]
    Refused(String),
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// `what` was tried on `path`.
    pub(crate) fn io(what: &str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Io { what: format!("{what} {}", path.display()), source: source.into() }
    }

    /// 2 for a usage error, 75 for a runner that has not answered, else 1.
    pub(crate) fn exit_code(&self) -> u8 {
        match self {
            Self::Usage(_) => 2,
            Self::Unanswered { .. } => MAY_STILL_RUN,
            Self::Io { .. } | Self::Refused(_) => 1,
        }
    }
}
