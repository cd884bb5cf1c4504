//! What must be true when everything is over.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::harness::Site;

/// Bytes that every second job prints beside its two lines: a fetch of them takes a while.
pub(crate) const BULK: usize = 2_000_000;

/// An attempt of a container.
type Hits = BTreeSet<(String, u64)>;

pub(crate) fn of_containers(site: &Site, uuids: &[String], runners: &Hits, jobs: &Hits) {
    let (mut lost, mut signaled) = (0, 0);
    for uuid in uuids {
        let detail = site.show(uuid);
        lost += lost_attempts(site, uuid, &detail, runners);
        signaled += usize::from(end(site, uuid, &detail, jobs));
    }
    // What was hit had its effect, but for those that had done their work a moment before.
    assert!(lost >= runners.len() / 2, "{lost} of {}", runners.len());
    assert!(signaled >= jobs.len() / 2, "{signaled} of {}", jobs.len());
}

/// The container's record and the log's lines about it.
fn told(site: &Site, uuid: &str, detail: &Value) -> String {
    let log = site.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains(uuid)).collect();
    format!("{detail:#}\n{}", lines.join("\n"))
}

/// How many attempts were lost; each had its runner killed, or its start cut off, and the last one was not lost.
fn lost_attempts(site: &Site, uuid: &str, detail: &Value, runners: &Hits) -> usize {
    let attempts = detail["attempts"].as_array().expect("a list");
    let numbers: Vec<u64> = attempts.iter().map(|attempt| attempt["attempt"].as_u64().expect("a number")).collect();
    let expected: Vec<u64> = (1..=detail["container"]["attempt"].as_u64().expect("a number")).collect();
    assert_eq!(numbers, expected, "{}", told(site, uuid, detail));
    let (_, lost) = attempts.split_last().expect("one");
    for (number, attempt) in numbers.iter().zip(lost) {
        let killed = runners.contains(&(uuid.to_owned(), *number));
        match attempt["ended_because"].as_str().expect("text") {
            "its runner ended without a result" => {
                assert!(killed, "nobody killed {number}: {}", told(site, uuid, detail));
            }
            // The daemon was killed before it heard of the start; the next one sent it again, and the worker remembers the number. Or its
            // runner came up just when the next one ruled the start out, as one that might still be on its way.
            because if because == "stopped before it ran" || because.starts_with("killed") => {
                let again = starts(site, uuid) > attempts.len();
                assert!(again, "nobody cut off the start of {number}: {}", told(site, uuid, detail));
            }
            other => panic!("{number} is lost because {other:?}: {}", told(site, uuid, detail)),
        }
    }
    lost.len()
}

/// How often the log says that a start of the container was sent.
fn starts(site: &Site, uuid: &str) -> usize {
    let about = format!("ContainerUUID={uuid}");
    site.log().lines().filter(|line| line.contains("\"starting container\"") && line.contains(&about)).count()
}

/// The one end of the container; true if its job was killed.
fn end(site: &Site, uuid: &str, detail: &Value, jobs: &Hits) -> bool {
    let container = &detail["container"];
    let told = || told(site, uuid, detail);
    assert_eq!(container["state"], "Complete", "{}", told());
    let history = detail["history"].as_array().expect("a list");
    assert_eq!(history.iter().filter(|line| line["event"] == "finished").count(), 1, "{}", told());
    let last = container["attempt"].as_u64().expect("a number");
    let attempt = detail["attempts"].as_array().and_then(|attempts| attempts.last()).expect("one");
    let killed = attempt["signal"] == 9;
    let index = container["array_index"].as_u64().expect("a number");
    let code = if killed { 137 } else { index % 3 };
    assert_eq!(container["exit_code"], code, "{}", told());
    assert!(!killed || jobs.contains(&(uuid.to_owned(), last)), "nobody killed {last}: {}", told());

    let directory = attempt["result_dir"].as_str().expect("collected");
    let output = std::fs::read_to_string(format!("{directory}/stdout")).expect("text");
    let bulk = if index.is_multiple_of(2) { BULK } else { 0 };
    let complete = format!("begin {index}\n{}end {index}\n", "\0".repeat(bulk));
    let right = if killed { complete.starts_with(&output) } else { complete == output };
    assert!(right, "{} of {} bytes, or others: {}", output.len(), complete.len(), told());

    // In the order they ran, each at most once, and no lost one came after the last.
    let runs = std::fs::read_to_string(site.folder().join("runs").join(uuid)).unwrap_or_default();
    let runs: Vec<u64> = runs.lines().map(|line| line.trim().parse().expect("an attempt's number")).collect();
    assert!(runs.is_sorted_by(|one, next| one < next), "{runs:?}: {}", told());
    assert!(killed || runs.last() == Some(&last), "{runs:?}: {}", told());
    assert!(runs.last().is_none_or(|newest| *newest <= last), "{runs:?}: {}", told());
    killed
}

/// Files that nobody needs any more: lock files and attempts of the worker, and what fetches have left in the results.
pub(crate) fn leftovers(site: &Site) -> Vec<String> {
    let names = |path: &std::path::Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(path).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let name = |path: &std::path::Path| path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let state = site.state_dir();
    let mut found = names(&state.join("loopback/lock"));
    found.retain(|path| name(path) != "crunch-run-all.lock");
    let sets = names(&site.folder().join("state-runner")).into_iter().filter(|path| name(path).starts_with("set-"));
    found.extend(sets.flat_map(|set| names(&set)));
    let results = names(&state.join("containers")).into_iter().flat_map(|container| names(&container));
    found.extend(results.filter(|path| name(path).starts_with('.')));
    found.iter().map(|path| path.display().to_string()).collect()
}
