//! The source tree as text: files, modules, functions. A line-based reading that rustfmt's layout makes reliable.

use std::collections::BTreeSet;
use std::path::Path;

/// One Rust file.
pub(crate) struct File {
    /// Below the repository.
    pub(crate) path: String,
    pub(crate) text: String,
}

/// All Rust files below a folder, sorted.
pub(crate) fn rust_files(folder: &str) -> Vec<File> {
    let mut files = text_files(folder);
    files.retain(|file| file.path.ends_with(".rs"));
    assert!(!files.is_empty(), "{folder} has no Rust files: the test looks in the wrong place");
    files
}

/// All files below a folder that are text, sorted.
pub(crate) fn text_files(folder: &str) -> Vec<File> {
    let mut files = Vec::new();
    collect(Path::new(folder), &mut files);
    files.sort_by(|one, other| one.path.cmp(&other.path));
    files
}

fn collect(folder: &Path, files: &mut Vec<File>) {
    for entry in std::fs::read_dir(folder).expect("readable") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            collect(&path, files);
        } else if let Ok(text) = String::from_utf8(std::fs::read(&path).expect("readable")) {
            files.push(File { path: path.to_string_lossy().into_owned(), text });
        }
    }
}

pub(crate) fn top_level() -> Vec<String> {
    let entries = std::fs::read_dir(".").expect("readable");
    entries.map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned()).collect()
}

impl File {
    /// First folder or file name below `src`.
    pub(crate) fn module(&self) -> &str {
        let below = self.path.strip_prefix("src/").unwrap_or_default();
        below.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    /// Names behind `crate::`, outside tests and comments.
    pub(crate) fn crate_modules_used(&self) -> BTreeSet<String> {
        let mut used = BTreeSet::new();
        let product = self.without_tests();
        for line in product.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for rest in line.split("crate::").skip(1) {
                let name: String = rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if name.chars().next().is_some_and(|first| first.is_ascii_lowercase()) {
                    used.insert(name);
                }
            }
        }
        used
    }

    /// The text up to the file's test module; nothing of a file that is one.
    pub(crate) fn without_tests(&self) -> &str {
        if self.path.contains("/tests") || self.path.starts_with("tests") {
            return "";
        }
        self.text.split("\n#[cfg(test)]").next().unwrap_or_default()
    }

    /// Name and number of lines of each function outside tests.
    pub(crate) fn functions(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        let lines: Vec<&str> = self.without_tests().lines().collect();
        for (start, line) in lines.iter().enumerate() {
            let Some((before, after)) = line.split_once("fn ") else { continue };
            let qualifiers = before.trim().split(' ').all(|word| {
                matches!(word, "" | "pub" | "const" | "pub(super)" | "pub(crate)" | "pub(in")
                    || word.starts_with("crate")
            });
            if !qualifiers {
                continue;
            }
            let indent = before.len() - before.trim_start().len();
            let end = format!("{}}}", " ".repeat(indent));
            let length = lines.iter().skip(start).position(|line| *line == end).map(|length| length + 1);
            let name: String = after.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            found.extend(length.map(|length| (name, length)));
        }
        found
    }
}
