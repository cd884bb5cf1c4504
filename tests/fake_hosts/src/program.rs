//! `fake-hosts N --key FILE --user NAME`: N hosts in a process of their own, for a daemon that is measured in another.
//!
//! Prints one line of JSON for each host (`address`, `host_key`), then stays until standard input ends. `--key` is the public
//! key that may log in (default: any), `--user` the only user name (default: any), `--job-ms` how long a container runs
//! (default: for ever), `--plain` makes the runner a crunch-run, `--bare` has the runner brought by a deployment. Exit status 2: wrong usage.

use std::process::ExitCode;

fn main() -> ExitCode {
    muster_fake_hosts::command::run(std::env::args().skip(1))
}
