//! What is wrong in a configuration, and where: all of it in one run, never just the first.

use std::fmt;
use std::path::{Path, PathBuf};

/// A place in a file; lines and columns count from 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Mark {
    pub line: usize,
    pub column: usize,
}

/// One fault. Displays as `FILE:LINE:COLUMN: KEY: message`; a warning among errors as `warning: FILE…`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fault {
    /// `None` for the built-in configuration and for what no file says.
    pub file: Option<PathBuf>,
    pub mark: Option<Mark>,
    /// Path of the key, such as `Containers.CloudVMs.TimeoutIdle`; empty for the file as a whole.
    pub key: String,
    pub message: String,
    /// It is no more than a warning, and stands among errors.
    pub is_warning: bool,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_warning {
            f.write_str("warning: ")?;
        }
        if let Some(file) = &self.file {
            write!(f, "{}:", file.display())?;
            if let Some(mark) = self.mark {
                write!(f, "{}:{}:", mark.line, mark.column)?;
            }
            f.write_str(" ")?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Collects faults while the rest is still read.
#[derive(Debug, Default)]
pub(super) struct Faults {
    file: Option<PathBuf>,
    pub(super) errors: Vec<Fault>,
    pub(super) warnings: Vec<Fault>,
}

impl Faults {
    pub(super) fn of_file(file: Option<&Path>) -> Self {
        Self { file: file.map(Path::to_owned), ..Self::default() }
    }

    pub(super) fn fault(&self, mark: Option<Mark>, key: &str, message: impl Into<String>) -> Fault {
        Fault { file: self.file.clone(), mark, key: key.to_owned(), message: message.into(), is_warning: false }
    }

    pub(super) fn error(&mut self, mark: Option<Mark>, key: &str, message: impl Into<String>) {
        let fault = self.fault(mark, key, message);
        self.errors.push(fault);
    }

    pub(super) fn warn(&mut self, mark: Option<Mark>, key: &str, message: impl Into<String>) {
        let fault = self.fault(mark, key, message);
        self.warnings.push(fault);
    }
}

/// The known name nearest to a wrong one, if one is near: at most a third of its letters differ.
pub(super) fn nearest<'a>(wrong: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let distance_max = (wrong.chars().count() / 3).max(1);
    known
        .map(|name| (distance(&wrong.to_lowercase(), &name.to_lowercase()), name))
        .filter(|(distance, _)| *distance <= distance_max)
        .min()
        .map(|(_, name)| name)
}

/// Letters to insert, drop or replace.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(100).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, from) in one.chars().take(100).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, to) in other.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[other.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_names() {
        let known = ["TimeoutIdle", "TimeoutBooting", "Driver"];
        for (wrong, found) in [
            ("TimeoutIdel", Some("TimeoutIdle")),
            ("timeoutidle", Some("TimeoutIdle")),
            ("Drivr", Some("Driver")),
            ("Colour", None),
        ] {
            assert_eq!(nearest(wrong, known.into_iter()), found, "{wrong}");
        }
    }

    #[test]
    fn display() {
        let mut faults = Faults::of_file(Some(Path::new("a.yml")));
        faults.error(Some(Mark { line: 3, column: 7 }), "Muster.X", "no");
        faults.error(None, "", "empty");
        let lines: Vec<_> = faults.errors.iter().map(ToString::to_string).collect();
        assert_eq!(lines, ["a.yml:3:7: Muster.X: no", "a.yml: empty"]);
    }
}
