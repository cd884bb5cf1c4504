//! The program `fake-hosts`, as a function: whoever measures a daemon runs it in another process.

use std::io::{Read, Write};
use std::process::ExitCode;
use std::time::Duration;

use crate::{Fleet, HostOptions};

const USAGE: &str =
    "usage: fake-hosts N [--key FILE.pub] [--user NAME] [--job-ms MILLISECONDS] [--secret TEXT] [--plain] [--bare]";

/// Serves hosts as `words` (without the program's name) say, until standard input ends. Exit status 2: wrong usage.
pub fn run(words: impl Iterator<Item = String>) -> ExitCode {
    match arguments(words).and_then(|(count, options)| serve(count, options)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(text) => {
            let _ = writeln!(std::io::stderr(), "fake-hosts: {text}\n{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn arguments(mut words: impl Iterator<Item = String>) -> Result<(usize, HostOptions), String> {
    let mut options = HostOptions::default();
    let mut count = None;
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--key" => {
                let file = value()?;
                let text = std::fs::read_to_string(&file).map_err(|error| format!("cannot read {file}: {error}"))?;
                options.client_key = Some(text.trim().to_owned());
            }
            "--user" => options.user = Some(value()?),
            "--secret" => options.secret = Some(value()?),
            "--job-ms" => {
                let milliseconds = value()?.parse().map_err(|_| "--job-ms needs a number")?;
                options.job.time = Some(Duration::from_millis(milliseconds));
            }
            "--plain" => options.plain_runner = true,
            "--bare" => options.deployed = false,
            number => count = Some(number.parse().map_err(|_| format!("{number:?} is not a number of hosts"))?),
        }
    }
    Ok((count.ok_or("how many hosts?")?, options))
}

fn serve(count: usize, options: HostOptions) -> Result<(), String> {
    let fleet = Fleet::start(count, options);
    let mut stdout = std::io::stdout().lock();
    let mut text = String::new();
    for host in fleet.hosts() {
        let line = serde_json::json!({ "address": host.address().to_string(), "host_key": host.host_key_openssh() });
        text.push_str(&format!("{line}\n"));
    }
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(|error| error.to_string())?;
    // Ends with whoever started this.
    let mut input = std::io::stdin().lock();
    let mut buffer = [0; 1024];
    while matches!(input.read(&mut buffer), Ok(count) if count > 0) {}
    Ok(())
}
