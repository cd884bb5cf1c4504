//! The table of exit codes (spec 80 §1), and the failures that lead to them.

use std::io::Write;

pub(super) const DONE: u8 = 0;
pub(super) const FAILED: u8 = 1;
pub(super) const USAGE: u8 = 2;
pub(super) const NOT_FOUND: u8 = 3;
pub(super) const UNREACHABLE: u8 = 4;
/// `submit --wait` of a container that was cancelled.
pub(super) const CANCELLED: u8 = 125;

/// Why a command ends without success. The text is one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    Failed(String),
    /// Wrong usage that the option parser cannot see.
    Usage(String),
    NotFound(String),
    Unreachable(String),
    /// Whoever reads our output has gone: a quiet end.
    ClosedPipe,
}

impl Failure {
    pub(super) const fn code(&self) -> u8 {
        match self {
            Self::Failed(_) => FAILED,
            Self::Usage(_) => USAGE,
            Self::NotFound(_) => NOT_FOUND,
            Self::Unreachable(_) => UNREACHABLE,
            Self::ClosedPipe => DONE,
        }
    }

    /// For a command that reports in its log.
    pub(super) fn into_text(self) -> String {
        match self {
            Self::Failed(text) | Self::Usage(text) | Self::NotFound(text) | Self::Unreachable(text) => text,
            Self::ClosedPipe => String::new(),
        }
    }

    pub(super) fn print(&self) {
        let text = match self {
            Self::Failed(text) | Self::Usage(text) | Self::NotFound(text) | Self::Unreachable(text) => text,
            Self::ClosedPipe => return,
        };
        let line = text.trim_end().replace('\n', "; ");
        let _ = writeln!(std::io::stderr(), "muster: {line}");
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Self::ClosedPipe,
            _ => Self::Failed(format!("cannot write the output: {error}")),
        }
    }
}
