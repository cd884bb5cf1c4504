//! What a command's result says (spec 45 §1, §3).

use std::time::Duration;

use muster::remote::wake::Wake;
use muster::remote::{ExecuteError, Executor, Lane, Program};
use sha2::{Digest, Sha256};

use crate::fixture::{Remote, SERVERS, sh, text, within, words};

#[test]
fn output_and_endings() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let output = remote.sh(Lane::Action, "echo out; echo err >&2; exit 3").expect("runs");
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"out\n"[..], &b"err\n"[..]));
        assert_eq!((output.exit_code, output.succeeded()), (Some(3), false));
        let output = remote.sh(Lane::Action, "printf x; printf y >&2").expect("runs");
        assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b"x"[..], &b"y"[..]));
        assert!(output.succeeded() && output.signal.is_none());
        assert_eq!(remote.sh(Lane::Action, "exit 0").expect("runs").stdout, b"");
        // Nothing is lost or added, whatever bytes there are.
        let bytes: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        let output = remote.executor.execute(Lane::Action, &sh("cat; cat /dev/null >&2", &bytes)).expect("runs");
        assert_eq!(output.stdout, bytes);
    }
}

#[test]
fn words_arrive_as_they_are() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let strange = ["a b", "it's", "$HOME", "`id`", "", "\\", "*", "ü\n\t!", "~", "-n", "a;b|c&d>e"];
        let mut all = vec!["printf", "%s\\0"];
        all.extend(strange);
        let command = muster::remote::Command { program: words(&all), ..sh("", b"") };
        let expected: String = strange.iter().map(|word| format!("{word}\0")).collect();
        assert_eq!(text(remote.executor.execute(Lane::Action, &command)), expected);
        let program = Program::Shell("echo $((1 + 1)) && echo \"$0\"".to_owned());
        let command = muster::remote::Command { program, ..sh("", b"") };
        assert_eq!(text(remote.executor.execute(Lane::Probe, &command)), "2\nsh\n");
    }
}

#[test]
fn ten_megabytes_both_ways() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let bytes: Vec<u8> = (0..10_000_000_u32).map(|number| number.to_le_bytes()[(number % 3) as usize]).collect();
        let sum: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let file = remote.host.path("/var/lib/big");
        let output = remote.executor.execute(Lane::Bulk, &sh("cat > /var/lib/big; sha256sum < /var/lib/big", &bytes));
        assert_eq!(text(output), format!("{sum}  -\n"));
        assert_eq!(std::fs::metadata(&file).expect("there").len(), 10_000_000);
        let mut digest = Sha256::new();
        let mut consume = |from: &mut dyn std::io::Read| -> std::io::Result<()> {
            let mut buffer = vec![0; 100_000];
            loop {
                match from.read(&mut buffer)? {
                    0 => return Ok(()),
                    count => digest.update(&buffer[..count]),
                }
            }
        };
        let output = remote.executor.stream(Lane::Bulk, &sh("cat /var/lib/big", b""), &mut consume).expect("runs");
        assert!(output.succeeded() && output.stdout.is_empty());
        let found: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(found, sum);
    }
}

#[test]
fn consumers_decide() {
    let remote = Remote::on(SERVERS[0]);
    // One that takes only the beginning: the rest is dropped, the command's own end counts.
    let mut taken = [0; 4];
    let result =
        remote.executor.stream(Lane::Bulk, &sh("echo 1234; head -c 3000000 /dev/zero; exit 5", b""), &mut |from| {
            from.read_exact(&mut taken)
        });
    assert_eq!((result.expect("runs").exit_code, &taken), (Some(5), b"1234"));
    let result = remote
        .executor
        .stream(Lane::Bulk, &sh("echo x; sleep 600", b""), &mut |_| Err(std::io::Error::other("no room")));
    assert!(matches!(result, Err(ExecuteError::Consumer(_))), "{result:?}");
    // The failure was ours: the lane goes on.
    assert!(remote.sh(Lane::Bulk, "true").expect("runs").succeeded());
}

/// Standard input that stays open ends when it is woken: how a long poll is cut short.
#[test]
fn input_stays_open_until_woken() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let wake = Wake::new().expect("a descriptor");
        std::thread::scope(|scope| {
            let poll = scope.spawn(|| {
                let command = within(
                    crate::fixture::LIMIT,
                    "echo begun > /var/lib/begun; cat; echo ended",
                    b"first ",
                    Some(&wake),
                );
                remote.executor.execute(Lane::Probe, &command)
            });
            let begun = remote.host.path("/var/lib/begun");
            crate::fixture::wait_until("the command waits", || begun.exists());
            assert!(!poll.is_finished());
            wake.wake();
            assert_eq!(text(poll.join().expect("no panic")), "first ended\n");
        });
        // Woken before it began.
        let command = within(crate::fixture::LIMIT, "cat; echo ended", b"", Some(&wake));
        assert_eq!(text(remote.executor.execute(Lane::Probe, &command)), "ended\n");
    }
}

/// A command that does not read what it is given.
#[test]
fn input_that_nobody_wants() {
    for server in SERVERS {
        let remote = Remote::on(server);
        let bytes = vec![b'x'; 5_000_000];
        let output = remote.executor.execute(Lane::Bulk, &sh("exec <&-; echo done; exit 7", &bytes)).expect("runs");
        assert_eq!((output.stdout.as_slice(), output.exit_code), (&b"done\n"[..], Some(7)));
    }
}

#[test]
fn deadline_of_a_command_that_never_ends() {
    for server in SERVERS {
        let remote = Remote::on(server);
        for script in ["sleep 600", "while :; do echo x; sleep 0.05; done", "while :; do echo x >&2; sleep 0.05; done"]
        {
            let began = std::time::Instant::now();
            let limit = Duration::from_secs(2);
            let result = remote.executor.execute(Lane::Action, &within(limit, script, b"", None));
            assert!(matches!(result, Err(ExecuteError::Deadline)), "{script}: {result:?}");
            assert!(began.elapsed() >= limit);
        }
        assert_eq!(remote.output("echo next"), "next\n");
    }
}
