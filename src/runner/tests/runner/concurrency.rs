//! Many at once.

use std::thread;

use muster_runner::protocol::Reason;

use crate::common::{Host, script, uuid};

#[test]
fn fifty_starts_at_once() {
    let host = Host::new();
    host.ok("--list");
    thread::scope(|scope| {
        for n in 0..50 {
            let host = &host;
            scope.spawn(move || host.started(&script(n, &format!("echo {n}"))));
        }
    });
    let deadline = std::time::Instant::now() + crate::common::PATIENCE;
    let all: Vec<String> = (0..50).map(|n| format!("{} finished", uuid(n))).collect();
    loop {
        let (lines, _) = host.list();
        // Every container that was started is in every list, running or finished.
        assert_eq!(lines.len(), 50, "{lines:?}");
        if lines == all {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{lines:?}");
        crate::common::pause();
    }
    for n in 0..50 {
        let spec = script(n, "");
        assert_eq!((host.result(&spec).reason, host.stream(&spec, "stdout")), (Reason::Exited, format!("{n}\n")));
    }
}

#[test]
fn one_of_many_starts_of_the_same_attempt_wins() {
    let host = Host::new();
    let spec = script(1, "echo once; echo > ready; while :; do sleep 1; done");
    let won = thread::scope(|scope| {
        let starts: Vec<_> = (0..12).map(|_| scope.spawn(|| host.start(&spec).status.success())).collect();
        starts.into_iter().map(|start| start.join().unwrap()).filter(|won| *won).count()
    });
    assert_eq!(won, 1);
    host.wait_for_file(&spec, "ready");
    assert_eq!(host.list().0, [uuid(1)]);
}
