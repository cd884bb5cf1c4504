//! Real processes: each way a command can end.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::LocalExecutor;
use crate::remote::wake::Wake;
use crate::remote::{Command, ExecuteError, Executor, Lane, OUTPUT_BYTES_MAX, Output, Program};

fn executor() -> LocalExecutor {
    LocalExecutor::new("/".to_owned()).expect("a descriptor")
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(60)
}

fn shell<'a>(line: &str, stdin: &'a [u8]) -> Command<'a> {
    Command { program: Program::Shell(line.to_owned()), stdin, open_until: None, deadline: soon() }
}

fn run(line: &str, stdin: &[u8]) -> Result<Output, ExecuteError> {
    executor().execute(Lane::Action, &shell(line, stdin))
}

#[test]
fn endings() {
    for (line, stdout, stderr, exit_code, signal) in [
        ("echo ok", "ok\n", "", Some(0), None),
        ("echo fail; printf fail2 >&2; exit 3", "fail\n", "fail2", Some(3), None),
        ("kill -9 $$", "", "", None, Some(9)),
        ("cat", "input", "", Some(0), None),
        ("exec <&-; echo unread", "unread\n", "", Some(0), None),
    ] {
        let output = run(line, b"input").expect(line);
        assert_eq!(String::from_utf8_lossy(&output.stdout), stdout, "{line}");
        assert_eq!(output.stderr_text(), stderr, "{line}");
        assert_eq!((output.exit_code, output.signal), (exit_code, signal), "{line}");
    }
}

#[test]
fn more_of_the_environment() {
    let variables = [("PATH", "/nonexistent:/usr/bin:/bin"), ("MORE", "hush")];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let executor = executor().with_variables(variables);
    let output = executor.execute(Lane::Action, &shell("echo $PATH $MORE $HOME $LANG", b"")).expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "/nonexistent:/usr/bin:/bin hush / C.UTF-8\n");
    assert!(!format!("{executor:?}").contains("hush"), "{executor:?}");
}

#[test]
fn a_missing_program_is_named() {
    let command = Command {
        program: Program::Arguments(vec!["/nonexistent/muster-runner".to_owned()]),
        stdin: b"",
        open_until: None,
        deadline: soon(),
    };
    let error = executor().execute(Lane::Action, &command).expect_err("there is none");
    assert!(error.to_string().contains("/nonexistent/muster-runner"), "{error}");
}

#[test]
fn arguments_are_not_interpreted() {
    let word = "$(echo oops) ; 'quoted' \"twice\" `x`\n*";
    let program = Program::Arguments(vec!["printf".to_owned(), "%s".to_owned(), word.to_owned()]);
    let command = Command { program, stdin: b"", open_until: None, deadline: soon() };
    let output = executor().execute(Lane::Action, &command).expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), word);
}

#[test]
fn much_output_on_both_streams_is_drained_and_bounded() {
    let megabyte = run("head -c 1000000 /dev/zero; head -c 1000000 /dev/zero >&2", b"").expect("within the bound");
    assert_eq!((megabyte.stdout.len(), megabyte.stderr.len()), (1_000_000, 1_000_000));
    let over = run(&format!("head -c {} /dev/zero", OUTPUT_BYTES_MAX + 1), b"");
    assert!(matches!(over, Err(ExecuteError::TooMuchOutput)), "{over:?}");
}

#[test]
fn large_input_to_a_slow_reader() {
    let input = vec![b'x'; 3_000_000];
    let output = run("wc -c", &input).expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "3000000");
}

#[test]
fn the_deadline_ends_command_and_children() {
    let folder = tempfile::tempdir().expect("a folder");
    let pids = folder.path().join("pids");
    let line = format!("echo $$ >> {0}; sleep 1000 & echo $! >> {0}; wait", pids.display());
    let mut command = shell(&line, b"");
    command.deadline = Instant::now() + Duration::from_millis(500);
    let result = executor().execute(Lane::Action, &command);
    assert!(matches!(result, Err(ExecuteError::Deadline)), "{result:?}");
    for pid in std::fs::read_to_string(&pids).unwrap_or_default().lines() {
        // Killed, but only the command itself is waited for: on a busy machine the other dies a little later.
        let state = || std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let started = Instant::now();
        while !state().is_empty() && !state().contains(") Z ") {
            assert!(started.elapsed() < Duration::from_secs(60), "{pid} lives: {}", state());
            std::thread::yield_now();
        }
    }
}

#[test]
fn close_cancels_what_is_in_flight_and_all_after_it() {
    let executor = Arc::new(executor());
    std::thread::scope(|scope| {
        let running = scope.spawn(|| executor.execute(Lane::Probe, &shell("sleep 1000", b"")));
        executor.close();
        let result = running.join().expect("no panic");
        assert!(matches!(result, Err(ExecuteError::Cancelled)), "{result:?}");
    });
    assert!(matches!(executor.execute(Lane::Action, &shell("sleep 1000", b"")), Err(ExecuteError::Cancelled)));
}

#[test]
fn a_wake_ends_the_input_of_a_waiting_command() {
    let wake = Wake::new().expect("a descriptor");
    let command = Command { open_until: Some(&wake), ..shell("cat; echo answered", b"") };
    wake.wake();
    let output = executor().execute(Lane::Probe, &command).expect("runs");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "answered\n");
    wake.clear();
}

#[test]
fn a_process_left_behind_with_the_streams_is_not_waited_for() {
    let output = run("sleep 1000 & echo $!", b"").expect("runs");
    let pid: i32 = String::from_utf8_lossy(&output.stdout).trim().parse().expect("a pid");
    let pid = rustix::process::Pid::from_raw(pid).expect("not 0");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("it lives");
}

#[test]
fn a_consumer_reads_while_it_comes() {
    let mut kept = String::new();
    let output = executor()
        .stream(Lane::Bulk, &shell("echo one; echo two >&2; exit 4", b""), &mut |from| {
            from.read_to_string(&mut kept).map(drop)
        })
        .expect("runs");
    assert_eq!((kept.as_str(), output.exit_code, output.stderr_text().as_str()), ("one\n", Some(4), "two"));
    assert!(output.stdout.is_empty());

    let mut first = [0; 10];
    let ten_megabytes = shell("head -c 10000000 /dev/zero", b"");
    executor()
        .stream(Lane::Bulk, &ten_megabytes, &mut |from| from.read_exact(&mut first))
        .expect("the rest is dropped");
}

#[test]
fn a_consumer_that_fails_ends_the_command() {
    let full = &mut |_: &mut dyn std::io::Read| Err(std::io::ErrorKind::StorageFull.into());
    let result = executor().stream(Lane::Bulk, &shell("yes", b""), full);
    assert!(matches!(result, Err(ExecuteError::Consumer(_))), "{result:?}");
    let mut late = shell("sleep 1000", b"");
    late.deadline = Instant::now() + Duration::from_millis(200);
    let result = executor().stream(Lane::Bulk, &late, &mut |from| from.read_to_end(&mut Vec::new()).map(drop));
    assert!(matches!(result, Err(ExecuteError::Deadline)), "{result:?}");
}

/// Standard error comes while the command runs: what it waits for is done when its first line has come.
#[test]
fn standard_error_is_watched_while_it_comes() {
    let folder = tempfile::tempdir().expect("a folder");
    let go = folder.path().join("go");
    let script = "echo begun >&2; until test -e \"$0\"; do sleep 0.01; done; echo out; echo ended >&2; exit 3";
    let words = ["sh", "-c", script, &go.to_string_lossy()];
    let program = Program::Arguments(words.map(str::to_owned).to_vec());
    let command = Command { program, stdin: b"", open_until: None, deadline: soon() };
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let mut consume = |stream: &mut dyn std::io::Read| stream.read_to_end(&mut stdout).map(drop);
    let mut watch = |bytes: &[u8]| {
        stderr.extend_from_slice(bytes);
        std::fs::write(&go, "").expect("written");
    };
    let output = executor().watch(&command, &mut consume, &mut watch).expect("runs");
    assert_eq!((output.exit_code, output.stderr), (Some(3), Vec::new()));
    assert_eq!((stdout.as_slice(), stderr.as_slice()), (b"out\n".as_slice(), b"begun\nended\n".as_slice()));
}

/// A process that is left behind and writes for ever does not keep the command: its own end counts.
#[test]
fn who_is_left_behind_is_not_watched_for_ever() {
    let folder = tempfile::tempdir().expect("a folder");
    let pid = folder.path().join("pid");
    let script = "(head -c 99999 /dev/zero; : >\"$0.ready\"; exec yes) >&2 & echo $! >\"$0\"; until test -e \"$0.ready\"; do sleep 0.01; done";
    let words = ["sh", "-c", script, &pid.to_string_lossy()];
    let program = Program::Arguments(words.map(str::to_owned).to_vec());
    let command = Command { program, stdin: b"", open_until: None, deadline: soon() };
    let mut consume = |stream: &mut dyn std::io::Read| std::io::copy(stream, &mut std::io::sink()).map(drop);
    let mut seen = 0;
    let output = executor().watch(&command, &mut consume, &mut |bytes| seen += bytes.len()).expect("runs");
    assert!(output.succeeded() && seen >= 99_999);
    // It dies by itself, since nobody reads what it writes.
    let pid = std::fs::read_to_string(&pid).expect("written");
    let until = Instant::now() + Duration::from_secs(60);
    // A zombie is somebody else's.
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    while !state().is_empty() && !state().contains(") Z ") {
        assert!(Instant::now() < until, "yes still runs");
        std::thread::yield_now();
    }
}

/// Nor is its standard output read for ever when whoever read it has had enough.
#[test]
fn who_is_left_behind_is_not_read_for_ever() {
    let folder = tempfile::tempdir().expect("a folder");
    let pid = folder.path().join("pid");
    let line = format!(
        "(head -c 9999 /dev/zero; : >{0}.ready; exec yes) & echo $! >{0}; until test -e {0}.ready; do sleep 0.01; done",
        pid.display()
    );
    let enough = &mut |stream: &mut dyn std::io::Read| stream.read_exact(&mut [0]);
    let output = executor().stream(Lane::Bulk, &shell(&line, b""), enough).expect("runs");
    assert!(output.succeeded());
    let pid = std::fs::read_to_string(&pid).expect("written");
    let until = Instant::now() + Duration::from_secs(60);
    // A zombie is somebody else's.
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default();
    while !state().is_empty() && !state().contains(") Z ") {
        assert!(Instant::now() < until, "yes still runs");
        std::thread::yield_now();
    }
}

/// Who looks only after the deadline finds out that the command has ended before.
#[test]
fn what_has_ended_by_the_deadline_is_in_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let pid = folder.path().join("pid");
    let has_ended = || {
        let pid = std::fs::read_to_string(&pid).unwrap_or_default();
        std::fs::read_to_string(format!("/proc/{}/stat", pid.trim())).unwrap_or_default().contains(") Z ")
    };
    let mut time = Duration::from_millis(50);
    loop {
        let mut command = shell(&format!("echo $$ >{}; echo x >&2", pid.display()), b"");
        command.deadline = Instant::now() + time;
        let mut has_looked_late = false;
        let mut watch = |_: &[u8]| {
            while !has_ended() || Instant::now() < command.deadline {
                std::thread::yield_now();
            }
            has_looked_late = true;
        };
        let mut consume = |stream: &mut dyn std::io::Read| std::io::copy(stream, &mut std::io::sink()).map(drop);
        match executor().watch(&command, &mut consume, &mut watch) {
            Ok(output) => return assert!(output.succeeded() && has_looked_late),
            // It did not get that far: a busy machine.
            Err(ExecuteError::Deadline) if !has_looked_late => time *= 2,
            Err(error) => panic!("{error:?}"),
        }
    }
}
