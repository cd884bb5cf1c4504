//! Part 1: this host is the worker. Hundreds of containers checksum and count files of this machine; in the middle the daemon gets
//! `kill -9`; in the end every result is compared with the same computed directly, and every container must have run exactly once.

use std::time::{Duration, Instant};

use crate::check::check_results;
use crate::daemon::{Demo, Failure};
use crate::folder::Folder;
use crate::jobs::{self, ARRAY, BY_FILE, FAILS_WITH};
use crate::table;

/// Containers that are submitted one at a time while nothing else waits, to measure latencies.
const SINGLES: usize = 20;
/// A hang is a failure; a slow machine is not.
const LIMIT: Duration = Duration::from_secs(600);

pub(crate) fn run() -> Result<(), Failure> {
    println!("\nPart 1: this host.");
    let folder = Folder::make()?;
    let mut demo = Demo::start(folder.path(), "")?;
    println!("1. The daemon runs (process {}): this host is its only worker; all else is the default.", demo.pid());

    let work = jobs::prepare(folder.path())?;
    println!("2. {} files below /usr/share are to be checksummed and counted.", work.files.len());
    let began = Instant::now();
    let mut uuids = jobs::submit_array(&demo, &work)?;
    uuids.extend(jobs::submit_file(&demo, &work)?);
    let fails = demo.submit(&["--name", "fails", "--", "sh", "-c", &format!("{} ; exit {FAILS_WITH}", work.mark())])?;
    println!(
        "3. Submitted {ARRAY} checksums as one array, {BY_FILE} counts of mixed priority as one file, and one that fails on purpose."
    );
    let total = uuids.len() + 1;
    demo.wait_until_finished(total * 2 / 5, began + LIMIT)?;
    demo.kill_9()?;
    println!(
        "4. With two fifths of them finished the daemon got kill -9. Containers go on without it; starting it again."
    );
    demo.start_again()?;
    demo.wait_until_finished(total, began + LIMIT)?;
    let took = began.elapsed();

    println!("5. All have ended. One at a time now, {SINGLES} more: what a single short job feels like.");
    let mut singles = Vec::new();
    for number in 0..SINGLES {
        let name = format!("single-{number}");
        let uuid = demo.submit(&["--name", &name, "--", "sh", "-c", &format!("{} ; echo {number}", work.mark())])?;
        demo.wait_for(&uuid, 0)?;
        singles.push(uuid);
    }
    demo.wait_for(&fails, 1)?;

    println!("6. Comparing every result with the same computed directly, and counting how often each container ran.");
    let report = check_results(&demo, &work, &uuids, &fails, &singles)?;
    table::print(total, took, &report);
    demo.stop()?;
    if let Some(problem) = report.problems.first() {
        return Err(Failure::Wrong(format!("{} problems, the first: {problem}", report.problems.len())));
    }
    folder.remove()?;
    println!("All results are right, every container ran exactly once, and nothing is left of it.");
    Ok(())
}
