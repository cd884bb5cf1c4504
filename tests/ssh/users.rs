//! Login users and what they find: sudo or not, `secure_path`, noisy start files, no bash, busybox only.

use muster::remote::{Command, Executor, Lane, Program};
use muster_ssh_hosts::{Login, Shell, Sudo, caller_is_root};

use crate::fixture::{Remote, SERVERS, pin, sh, text};

fn shell_line(line: &str) -> Command<'static> {
    Command { program: Program::Shell(line.to_owned()), ..sh("", b"") }
}

#[test]
fn sudo_where_the_user_is_not_root() {
    if !caller_is_root() {
        // Without root there is one login, the caller's own: then sudo is never part of it.
        let mut access = None;
        let remote = Remote::with(
            |options| options,
            |host| {
                let mut without = pin(host);
                without.sudo = false;
                access = Some(without.clone());
                without
            },
        );
        let own = rustix::process::geteuid().as_raw();
        assert_eq!(remote.output("id -u"), format!("{own}\n"));
        return;
    }
    for server in SERVERS {
        let remote = Remote::new(|options| options.server(server).login(Login::Worker));
        assert!(remote.executor.runs_as_root());
        assert_eq!(remote.output("id -u"), "0\n");
        // The operator's own line runs as the login user.
        assert_eq!(text(remote.executor.execute(Lane::Probe, &shell_line("id -un"))), "worker\n");
        // Input and output pass through sudo unchanged.
        let bytes: Vec<u8> = (0..=255).cycle().take(300_000).collect();
        assert_eq!(remote.executor.execute(Lane::Bulk, &sh("cat", &bytes)).expect("runs").stdout, bytes);

        let mut without = pin(&remote.host);
        without.sudo = false;
        let executor = remote.another(without);
        assert!(!executor.runs_as_root());
        assert_eq!(text(executor.execute(Lane::Action, &sh("id -un", b""))), "worker\n");
    }
}

#[test]
fn sudo_that_does_not_work_is_named() {
    if !caller_is_root() {
        return;
    }
    for (sudo, expected) in [(Sudo::Refused, "sudo"), (Sudo::Missing, "sudo")] {
        let remote = Remote::new(|options| options.login(Login::Worker).sudo(sudo));
        let output = remote.sh(Lane::Action, "id -u").expect("ends");
        assert!(!output.succeeded() && output.stderr_text().contains(expected), "{sudo:?}: {output:?}");
    }
}

#[test]
fn start_files_that_talk() {
    let remote = Remote::new(muster_ssh_hosts::HostOptions::noisy_bashrc);
    let raw = remote.host.ssh(&remote.key, "true").expect("a command").output().expect("runs");
    assert!(!raw.stdout.is_empty(), "it is noisy");
    assert_eq!(remote.output("echo only this"), "only this\n");
    assert_eq!(remote.output("true"), "");
    let mut found = Vec::new();
    let mut consume = |from: &mut dyn std::io::Read| from.read_to_end(&mut found).map(drop);
    remote.executor.stream(Lane::Bulk, &sh("printf bytes", b""), &mut consume).expect("runs");
    assert_eq!(found, b"bytes");
}

#[test]
fn shells_of_all_kinds() {
    let kinds: &[Shell] = if caller_is_root() { &[Shell::Sh, Shell::Busybox] } else { &[] };
    for shell in kinds {
        let remote = Remote::new(|options| options.shell(*shell));
        assert_eq!(remote.output("echo \"it's\"; exit 0"), "it's\n", "{shell:?}");
        assert_eq!(remote.sh(Lane::Action, "exit 4").expect("ends").exit_code, Some(4), "{shell:?}");
    }
}
