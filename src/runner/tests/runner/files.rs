//! Streams and outputs.

use std::fs;

use muster_runner::protocol::{ContainerSpec, Limits, Reason};

use crate::common::{Host, script, uuid};

#[test]
fn a_runaway_print_is_cut_in_the_middle() {
    let host = Host::new();
    let limits = Limits { log_bytes: 1000, ..Limits::default() };
    let spec = ContainerSpec { limits, ..script(1, "yes 123456789 | head -n 500000; echo the end") };
    let result = host.finished(&spec);
    assert_eq!((result.reason, result.stdout_bytes), (Reason::Exited, 5_000_008));
    // A job has the default for SIGPIPE, or yes would complain.
    assert_eq!(host.stream(&spec, "stderr"), "");
    let text = host.stream(&spec, "stdout");
    assert!(text.len() < 1100, "{}", text.len());
    assert!(text.starts_with("123456789\n") && text.ends_with("123456789\nthe end\n"), "{text}");
    assert!(text.contains("\n[muster: 4999008 bytes left out]\n"), "{text}");
}

#[test]
fn tail_follows_a_stream() {
    let host = Host::new();
    let spec = script(1, "mkfifo fifo; echo one; echo > ready; read word < fifo; echo $word; echo > next; sleep 1000");
    host.begun(&spec);
    let tail = |offset: u64| {
        let line = format!("--tail {} --attempt 1 --stream stdout --offset {offset} --wait 1", uuid(1));
        String::from_utf8(host.ok(&line)).unwrap()
    };
    let until = |offset: u64, text: &str| {
        let deadline = std::time::Instant::now() + crate::common::PATIENCE;
        while tail(offset) != text {
            assert!(std::time::Instant::now() < deadline, "{text:?} does not come");
        }
    };
    until(0, "one\n");
    assert_eq!(tail(4), "");
    fs::write(host.attempt_dir(&uuid(1), 1).join("work/fifo"), "two\n").unwrap();
    until(4, "two\n");
    assert_eq!(tail(2), "e\ntwo\n");
    assert_eq!(tail(1000), "");
    host.refused(&format!("--tail {} --attempt 2 --stream stdout", uuid(1)));
}

#[test]
fn outputs_are_found_beneath_the_working_directory_only() {
    let host = Host::new();
    let requested = ["good", "dir/", "missing", "../stdout", "/etc/passwd", "link", "dir/../../stdout", "fifo"];
    let spec = ContainerSpec {
        outputs: requested.map(str::to_owned).to_vec(),
        ..script(
            1,
            "echo good > good; mkdir -p dir/sub; echo deep > dir/sub/file; ln -s /etc dir/etc; ln -s /etc/passwd link; \
             mkfifo fifo; chmod +x dir/sub/file",
        )
    };
    let result = host.finished(&spec);
    assert_eq!(result.outputs, ["good", "dir/"]);
    assert_eq!(result.skipped.len(), 7, "{:?}", result.skipped);
    let archive = host.ok(&format!("--collect {} --attempt 1", uuid(1)));
    let mut entries = Vec::new();
    for entry in tar::Archive::new(&*archive).entries().unwrap() {
        let entry = entry.unwrap();
        let path = entry.path().unwrap().to_str().unwrap().trim_end_matches('/').to_owned();
        if path.starts_with("outputs") {
            entries.push((path, entry.header().mode().unwrap()));
        }
    }
    entries.sort();
    let expected =
        [("outputs/dir", 0o755), ("outputs/dir/sub", 0o755), ("outputs/dir/sub/file", 0o755), ("outputs/good", 0o644)];
    assert_eq!(entries, expected.map(|(path, mode)| (path.to_owned(), mode)));
}

#[test]
fn outputs_above_the_limit_stay_on_the_worker() {
    let host = Host::new();
    let limits = Limits { output_bytes: 10, ..Limits::default() };
    let spec = ContainerSpec { limits, outputs: vec!["big".into()], ..script(1, "echo 12345678901234567890 > big") };
    let result = host.finished(&spec);
    assert!(result.outputs_too_large && result.outputs.is_empty());
    assert!(result.detail.contains("21 bytes"), "{}", result.detail);
    let archive = host.ok(&format!("--collect {} --attempt 1", uuid(1)));
    assert_eq!(tar::Archive::new(&*archive).entries().unwrap().count(), 3);
    host.ok(&format!("--forget {} --attempt 1", uuid(1)));
    assert!(host.attempt_dir(&uuid(1), 1).join("work/big").exists());
    assert_eq!(host.list().0, Vec::<String>::new());
    // The answer to the first one may have been lost, and a later attempt may be forgotten too.
    host.ok(&format!("--forget {} --attempt 1", uuid(1)));
    let later = ContainerSpec { attempt: 2, ..script(1, "true") };
    host.finished(&later);
    host.ok(&format!("--forget {} --attempt 2", uuid(1)));
    assert!(host.attempt_dir(&uuid(1), 1).join("work/big").exists());
    // A removal that was cut short is no such thing.
    let cut = host.attempt_dir(&uuid(1), 3).join("work");
    fs::create_dir_all(&cut).unwrap();
    let later = ContainerSpec { attempt: 4, ..script(1, "true") };
    host.finished(&later);
    host.ok(&format!("--forget {} --attempt 4", uuid(1)));
    assert!(!cut.exists() && host.attempt_dir(&uuid(1), 1).join("work/big").exists());
}

/// What the dispatcher could not take is still there when somebody looks for it.
#[test]
fn outputs_stay_if_the_dispatcher_wants_it() {
    let host = Host::new();
    host.finished(&ContainerSpec { outputs: vec!["out".into()], ..script(1, "mkdir out; echo data > out/file") });
    let dir = host.attempt_dir(&uuid(1), 1);
    // The answer to the first one may have been lost.
    for flag in ["--keep-outputs", "--keep-outputs", ""] {
        host.ok(&format!("--forget {} --attempt 1 {flag}", uuid(1)));
        assert_eq!(fs::read(dir.join("work/out/file")).unwrap(), b"data\n", "{flag}");
        assert!(!["result.json", "stdout", "stderr", "tmp"].iter().any(|name| dir.join(name).exists()));
        assert_eq!(host.list().0, Vec::<String>::new());
    }
    host.refused(&format!("--collect {} --attempt 1", uuid(1)));
    // Of one that left no result there is nothing to look for.
    let crashed = ContainerSpec { attempt: 2, ..script(1, "echo > ready; exec sleep 1000") };
    host.begun(&crashed);
    host.crash(&uuid(1));
    host.ok(&format!("--reap {} --attempt 2", uuid(1)));
    host.ok(&format!("--forget {} --attempt 2 --keep-outputs", uuid(1)));
    assert!(!host.attempt_dir(&uuid(1), 2).exists() && dir.join("work/out/file").exists());
}

#[test]
fn a_removal_that_was_cut_short_is_gone_on_with() {
    let host = Host::new();
    let spec = script(1, "echo x > file");
    host.finished(&spec);
    let (dir, aside) = (host.attempt_dir(&uuid(1), 1), host.path().join("aside"));
    fs::rename(dir.join("work"), &aside).unwrap();
    host.ok(&format!("--forget {} --attempt 1", uuid(1)));
    // As if it had come no further.
    fs::create_dir_all(&dir).unwrap();
    fs::rename(&aside, dir.join("work")).unwrap();
    // One that crashed is not forgotten: it has no tombstone.
    let crashed = host.attempt_dir(&uuid(2), 1).join("work");
    fs::create_dir_all(&crashed).unwrap();
    let (lines, _) = host.list();
    assert!(lines.is_empty() && !dir.exists() && crashed.exists(), "{lines:?}");
    // The same of one whose outputs are to stay.
    host.finished(&ContainerSpec { outputs: vec!["out".into()], ..script(3, "echo data > out; echo text") });
    let dir = host.attempt_dir(&uuid(3), 1);
    host.ok(&format!("--forget {} --attempt 1 --keep-outputs", uuid(3)));
    fs::create_dir_all(dir.join("tmp/deep")).unwrap();
    fs::write(dir.join("stdout"), "text").unwrap();
    assert!(host.list().0.is_empty());
    assert!(!dir.join("stdout").exists() && !dir.join("tmp").exists());
    assert_eq!(fs::read(dir.join("work/out")).unwrap(), b"data\n");
}

#[test]
fn a_directory_that_the_job_has_locked_is_removed_all_the_same() {
    let host = Host::new();
    host.finished(&script(1, "mkdir -p a/b; echo x > a/b/c; chmod 0 a/b a"));
    host.ok(&format!("--forget {} --attempt 1", uuid(1)));
    assert!(!host.attempt_dir(&uuid(1), 1).exists());
}
