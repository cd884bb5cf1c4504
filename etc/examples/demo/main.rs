//! `make demo`: the main job, for real, in two parts: on this host ([`local`]), and on three hosts over SSH ([`hosts`]).
//!
//! Self-contained: temporary directories hold everything and are removed; each daemon listens on a free port and a socket of its own.
#![expect(clippy::print_stdout, reason = "a program that tells people what it does")]

mod check;
mod cluster;
mod crash;
mod daemon;
mod folder;
mod hosts;
mod hosts_check;
mod jobs;
mod local;
mod table;

use std::process::ExitCode;

use daemon::Failure;

type Part = (&'static str, fn() -> Result<(), Failure>);

const PARTS: [Part; 2] = [("local", local::run), ("hosts", hosts::run)];

/// All parts, or the one that is named; behind the name, the program `muster` to use.
fn main() -> ExitCode {
    let wanted = std::env::args().nth(1);
    let parts: Vec<_> =
        PARTS.iter().filter(|(name, _)| wanted.as_deref().is_none_or(|wanted| wanted == *name)).collect();
    if parts.is_empty() {
        println!("usage: demo [local|hosts [MUSTER]]: the part, all if none is named, and the program to use");
        return ExitCode::from(2);
    }
    for (name, run) in parts {
        if let Err(failure) = run() {
            println!("\nDEMO FAILED, part {name}: {failure}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
