//! Large submissions: all or nothing, in little memory.

use std::fmt::Write as _;
use std::io::Read;
use std::process::Stdio;

use crate::harness::Site;

fn job_file(site: &Site, lines: usize) -> String {
    let path = site.folder().join(format!("{lines}.jsonl"));
    let mut text = String::new();
    for line in 0..lines {
        writeln!(text, "{{\"command\": [\"true\", \"{line}\"], \"priority\": 0}}").expect("written");
    }
    std::fs::write(&path, text).expect("written");
    path.to_string_lossy().into_owned()
}

/// In KiB.
fn peak_memory(process: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).expect("it lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a line");
    line.split_ascii_whitespace().next().expect("a number").parse().expect("a number")
}

/// Uuids that the command printed, and the most memory it had, in KiB: looked at when nearly all is printed, and the rest does not fit
/// into the pipe.
fn submit_file(site: &Site, lines: usize) -> (Vec<String>, usize) {
    const REST: usize = 400_000;
    let path = job_file(site, lines);
    let mut child =
        site.command(&["submit", "--file", &path]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
    let mut output = child.stdout.take().expect("piped");
    let mut bytes = vec![0; lines * 28 - REST];
    output.read_exact(&mut bytes).expect("that much comes");
    let peak = peak_memory(child.id());
    output.read_to_end(&mut bytes).expect("readable");
    let end = child.wait_with_output().expect("a child");
    assert!(end.status.success() && end.stderr.is_empty(), "{}", String::from_utf8_lossy(&end.stderr));
    let text = String::from_utf8(bytes).expect("text");
    (text.lines().map(str::to_owned).collect(), peak)
}

/// `bench submissions` does it with a million, by the release build.
#[test]
fn a_file_takes_the_same_memory_whatever_its_length() {
    const KIB_MAX: usize = 64 * 1024;
    let mut site = Site::started();
    let (few, small) = submit_file(&site, 40_000);
    let (many, large) = submit_file(&site, 240_000);
    assert_eq!((few.len(), many.len()), (40_000, 240_000));
    assert!(large < KIB_MAX && large < small + 8 * 1024, "{small} KiB for 40,000 lines, {large} for 240,000");
    assert_eq!(site.json(&["status"])["containers"]["Queued"], 280_000);
    // In the order of the file.
    for place in [0, 77_777, 239_999] {
        assert_eq!(site.show(&many[place])["request"]["command"][1], place.to_string());
    }
    site.stop();
}

#[test]
fn nothing_of_a_file_with_a_fault_is_submitted() {
    let mut site = Site::started();
    let path = site.folder().join("jobs.jsonl");
    let good = "{\"command\": [\"true\"]}\n";
    for (bad, told) in [
        ("{\"name\": \"\\ud800\", \"command\": [\"true\"]}", "line 3: "),
        ("\n\n{\"comand\": [\"true\"]}\n", "line 5: comand: unknown field"),
        ("{\"command\": [\"true\"]\n", "line 3: not JSON"),
        ("\n{\"command\": [\"true\"], \"vcpus\": 100000}", "line 4: runtime_constraints"),
        (
            "{\"command\": [\"true\"], \"after\": [\"local-dz642-000000000000000\"]}",
            "line 3: after: there is no container",
        ),
    ] {
        std::fs::write(&path, format!("{good}{good}{bad}")).expect("written");
        let (code, text) = site.fails(&["submit", "--file", &path.to_string_lossy()]);
        assert!(code == 1 && text.contains(told) && text.contains("nothing was submitted"), "{told}: {code} {text}");
    }
    std::fs::write(&path, b"\n{\"name\": \"\xff\", \"command\": [\"true\"]}\n").expect("written");
    let (code, text) = site.fails(&["submit", "--file", &path.to_string_lossy()]);
    assert!(code == 1 && text.contains("line 2: not JSON: invalid utf-8"), "{code} {text}");
    assert_eq!(site.json(&["list"])["items"].as_array().map(Vec::len), Some(0));
    std::fs::write(&path, format!("{good}\n{good}")).expect("written");
    let first = site.ok(&["submit", "--token", "t", "--file", &path.to_string_lossy()]);
    assert_eq!(first.lines().count(), 2);
    assert_eq!(site.ok(&["submit", "--token", "t", "--file", &path.to_string_lossy()]), first);
    let both = site.json(&["submit", "--file", &path.to_string_lossy()])["uuids"].clone();
    assert_eq!(both.as_array().map(Vec::len), Some(2));
    let output = site.run(&["submit", "--wait", "--file", &path.to_string_lossy()]);
    assert!(output.status.success() && String::from_utf8_lossy(&output.stdout).lines().count() == 2, "{output:?}");
    site.stop();
}

/// While 10,000 are being stored the daemon is killed: after it all of them are there, or none.
#[test]
fn an_array_is_whole_or_not_there() {
    let mut site = Site::started();
    // How long it takes undisturbed: the kills are spread over that.
    let began = std::time::Instant::now();
    site.ok(&["submit", "--name", "undisturbed", "--priority", "0", "--array", "1-10000", "--", "true"]);
    let whole = began.elapsed();
    let mut outcomes = vec![10_000];
    for round in 0..8_u32 {
        let name = format!("round-{round}");
        let submit = ["submit", "--name", &name, "--priority", "0", "--array", "1-10000", "--", "true"];
        let child = site.command(&submit).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        std::thread::park_timeout(whole * round / 8);
        site.kill_9();
        child.wait_with_output().expect("a child");
        site.start();
        let stored = site.ok(&["list", "--limit", "0", "--name", &name]).lines().count() - 1;
        assert!([0, 10_000].contains(&stored), "{stored}");
        outcomes.push(stored);
    }
    let queued = site.json(&["status"])["containers"]["Queued"].as_u64().expect("a number");
    assert_eq!(usize::try_from(queued).expect("small"), outcomes.iter().sum::<usize>());
    site.stop();
}
