//! The rules of the source tree: layout, import direction, sizes, headers, banned words, the architecture page.

mod source;

use std::collections::BTreeSet;

use source::{File, rust_files, text_files, top_level};

/// The fixed top level (what a build makes aside).
const TOP_LEVEL: [&str; 10] =
    [".ci", ".git", ".gitignore", "Cargo.lock", "Cargo.toml", "LICENSE", "Makefile", "README.md", "etc", "src"];

/// Longest file, in lines. A ratchet: it only goes down.
const FILE_LINES_MAX: usize = 500;
/// Longest function outside tests, in lines. A ratchet too: the longest is the table of metrics.
const FUNCTION_LINES_MAX: usize = 85;

/// Who may use whom: `cli → shell → {cloud, remote, queue, management} → core`; `config` and `log` serve all but the core. The
/// configuration judges host keys and addresses, whose faults need places: for that it uses `remote`.
const MAY_USE: [(&str, &[&str]); 9] = [
    ("core", &[]),
    ("config", &["core", "remote"]),
    ("log", &["core"]),
    ("remote", &["core", "log"]),
    ("cloud", &["core", "log", "remote"]),
    ("queue", &["core", "log"]),
    ("management", &["core", "log"]),
    ("shell", &["core", "log", "config", "remote", "cloud", "queue", "management"]),
    ("cli", &["core", "log", "config", "management", "shell"]),
];

fn complain(problems: &[String]) {
    assert!(problems.is_empty(), "\n{}\n", problems.join("\n"));
}

#[test]
fn top_level_is_the_fixed_set() {
    let allowed: BTreeSet<&str> = TOP_LEVEL.into_iter().chain(["tests", "target"]).collect();
    let extra: Vec<String> = top_level().into_iter().filter(|name| !allowed.contains(name.as_str())).collect();
    complain(&extra);
}

#[test]
fn imports_go_one_way() {
    let mut problems = Vec::new();
    for file in rust_files("src").iter().filter(|file| !file.path.starts_with("src/runner")) {
        let Some((_, allowed)) = MAY_USE.iter().find(|(module, _)| file.module() == *module) else { continue };
        for used in file.crate_modules_used() {
            if used != file.module() && !allowed.contains(&used.as_str()) {
                problems.push(format!("{} uses crate::{used}", file.path));
            }
        }
    }
    complain(&problems);
}

#[test]
fn every_module_is_in_the_table_and_on_the_page() {
    let library = std::fs::read_to_string("src/lib.rs").expect("readable");
    let page = std::fs::read_to_string("src/ARCHITECTURE.md").expect("readable");
    let mut problems = Vec::new();
    for module in library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')) {
        if !MAY_USE.iter().any(|(name, _)| *name == module) {
            problems.push(format!("{module} has no rule for its imports"));
        }
        if !page.contains(&format!("**`{module}`**")) {
            problems.push(format!("{module} is not on the page"));
        }
    }
    complain(&problems);
}

#[test]
fn files_and_functions_are_short() {
    let mut problems = Vec::new();
    for file in rust_files("src").iter().chain(&rust_files("tests")).chain(&rust_files("etc")) {
        let lines = file.text.lines().count();
        if lines > FILE_LINES_MAX {
            problems.push(format!("{} has {lines} lines", file.path));
        }
        for (name, lines) in file.functions().into_iter().filter(|(_, lines)| *lines > FUNCTION_LINES_MAX) {
            problems.push(format!("{}: fn {name} has {lines} lines", file.path));
        }
    }
    complain(&problems);
}

/// A merge is complete: no file has the marks of one that is not, which compilers do not see in scripts and pages.
#[test]
fn no_merge_is_left_half_done() {
    let page = |name: &str| File { path: name.to_owned(), text: std::fs::read_to_string(name).expect("readable") };
    let files = ["src", "tests", "etc"].into_iter().flat_map(text_files).chain(["Makefile", "README.md"].map(page));
    let mark = |line: &str| line.starts_with(&"<".repeat(7)) || line.starts_with(&">".repeat(7));
    complain(&files.filter(|file| file.text.lines().any(mark)).map(|file| file.path).collect::<Vec<_>>());
}

#[test]
fn every_file_says_what_it_is_for() {
    let files = rust_files("src").into_iter().chain(rust_files("tests")).chain(rust_files("etc"));
    let silent = |file: &File| !file.text.starts_with("//!") && !file.text.starts_with("#![doc = include_str!");
    complain(&files.filter(silent).map(|file| format!("{} has no header", file.path)).collect::<Vec<_>>());
}

#[test]
fn banned_words() {
    // In pieces, so that this file does not find itself.
    let everywhere = [
        ["to", "do!("],
        ["unimple", "mented!("],
        ["#[ign", "ore"],
        ["should_", "panic"],
        ["FIX", "ME"],
        ["thread::", "sleep"],
    ];
    let in_the_product = [["async", " fn"], ["un", "bounded("], ["S", "IGKILL to"]];
    let mut problems = Vec::new();
    for file in rust_files("src").iter().chain(&rust_files("tests")).chain(&rust_files("etc")) {
        for word in everywhere.map(|pieces| pieces.concat()) {
            if file.text.contains(&word) {
                problems.push(format!("{} contains {word}", file.path));
            }
        }
        let product = file.without_tests();
        for word in in_the_product.iter().take(2).map(|pieces| pieces.concat()) {
            if file.path.starts_with("src") && product.contains(&word) {
                problems.push(format!("{} contains {word}", file.path));
            }
        }
    }
    complain(&problems);
}

/// Each of these is done in one place.
#[test]
fn one_place_each() {
    // The word alone is in many comments.
    const UNSAFE: &str = "unsafe {";
    let mut problems = Vec::new();
    for (what, word, places) in [
        ("threads start", "thread::Builder", &["src/shell/threads.rs"][..]),
        ("threads start", "thread::spawn", &[]),
        ("unsafe code is", UNSAFE, &["src/shell/allocator.rs"]),
        ("the pool's lock is taken", "Outbox<Pool", &["src/shell/pool.rs"]),
        ("the pool's lock is taken", "Mutex<Pool>", &[]),
        ("the wall clock is read", "SystemTime::now", &["src/shell/clock.rs", "src/log"]),
        ("the monotonic clock's moments are made", "Moment::since_start", &["src/shell/clock.rs", "src/core/time.rs"]),
    ] {
        for file in rust_files("src").iter().filter(|file| !file.path.starts_with("src/runner")) {
            let allowed = places.iter().any(|place| file.path.starts_with(place));
            if !allowed && file.without_tests().contains(word) {
                problems.push(format!("{}: {what} only in {places:?}", file.path));
            }
        }
    }
    complain(&problems);
}

/// Each invariant of the specification has a function that names it, and so the property tests and the simulation run it.
#[test]
fn invariants_are_functions() {
    let text: String = rust_files("src/core")
        .iter()
        .filter(|file| file.path.ends_with("invariants.rs"))
        .map(|file| file.text.as_str())
        .collect();
    let numbers = [
        "10.1", "10.2", "10.3", "10.4", "10.5", "10.6", "20.1", "20.4", "20.5", "20.7", "30.1", "30.2", "30.3", "30.4",
    ];
    let missing: Vec<String> =
        numbers.iter().filter(|number| !text.contains(*number)).map(|number| (*number).to_owned()).collect();
    complain(&missing);
}
