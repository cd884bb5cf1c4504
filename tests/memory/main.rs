//! What is given up is freed. Alone in its process, since it looks at the memory of it.

#[path = "../ssh/fixture.rs"]
#[expect(dead_code, reason = "shared with the tests of the executor, which use the rest")]
mod fixture;
#[path = "../ssh/uplink.rs"]
#[expect(dead_code, reason = "shared with the tests of the executor, which use the rest")]
mod uplink;

use std::time::Duration;

use muster::remote::{ExecuteError, Executor, Lane};

use fixture::{Remote, SERVERS, within};
use uplink::Uplink;

const ROUNDS: usize = 20;
/// A session has about 85 KiB: so much for each one would be a leak, a tenth of it is what the allocator makes of it.
const KIB_PER_ROUND_MAX: usize = 20;

fn resident_kib() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a line");
    line.split_ascii_whitespace().next().expect("a number").parse().expect("a number")
}

/// Uploads that are given up in the middle of a packet, and commands that are given up while they run.
#[test]
fn what_is_given_up_is_freed() {
    let remote = Remote::on(SERVERS[0]);
    let uplink = Uplink::to(&remote.host.address());
    let bytes = vec![b'x'; 3_000_000];
    let round = || {
        uplink.release();
        remote.executor.set_target(&uplink.address(), remote.host.user());
        assert_eq!(remote.output("echo up"), "up\n");
        uplink.hold_after(100_000);
        let command = within(Duration::from_millis(500), "cat > /dev/null", &bytes, None);
        assert!(matches!(remote.executor.execute(Lane::Action, &command), Err(ExecuteError::Deadline)));
        remote.executor.set_target(&remote.host.address(), remote.host.user());
        let command = within(Duration::from_millis(150), "sleep 600", b"", None);
        let result = remote.executor.execute(Lane::Bulk, &command);
        assert!(matches!(result, Err(ExecuteError::Deadline | ExecuteError::Connect { .. })), "{result:?}");
    };
    // Buffers that stay are there after some rounds.
    (0..ROUNDS / 4).for_each(|_| round());
    let before = resident_kib();
    (0..ROUNDS).for_each(|_| round());
    let grown = resident_kib().saturating_sub(before);
    assert!(grown < ROUNDS * KIB_PER_ROUND_MAX, "{grown} KiB more after {ROUNDS} rounds");
}
