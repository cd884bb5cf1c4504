//! What people wait for while a long queue waits: submitting one more, a list, a status, one container.
//!
//! How it is measured: a daemon of its own on the loopback driver, with one array of so many containers, which it works off meanwhile; each
//! command as a process of the installed program, from its start to its end.

use std::os::unix::fs::PermissionsExt;
use std::time::Instant;

use crate::daemon::{Demo, Failure};

const ROUNDS: usize = 51;

pub(crate) fn run(waiting: usize) -> Result<(), Failure> {
    let folder = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o711))?;
    let mut demo = Demo::start(folder.path(), "")?;
    let began = Instant::now();
    demo.muster(&["submit", "--array", &format!("1-{waiting}"), "--", "true"])?;
    println!("{waiting} containers wait; they were submitted in {:.1} s", began.elapsed().as_secs_f64());
    let one = demo.submit(&["--", "true"])?;
    let commands: [(&str, &[&str]); 5] = [
        ("submit", &["submit", "--", "true"]),
        ("list (the newest 100)", &["list", "--limit", "100"]),
        ("status", &["status"]),
        ("show", &["show", &one]),
        ("--version, for comparison", &["--version"]),
    ];
    for (name, words) in commands {
        let mut times = Vec::new();
        for _ in 0..ROUNDS {
            let began = Instant::now();
            demo.muster(words)?;
            times.push(i64::try_from(began.elapsed().as_millis()).unwrap_or(i64::MAX));
        }
        times.sort_unstable();
        crate::show(&format!("  {name}"), &times);
    }
    let status = demo.json(&["status"])?;
    println!("  still waiting                        {}", status["containers"]["Queued"]);
    demo.stop()
}
