//! Which connection each command uses (spec 45 §2): neither a large file nor somebody who reads logs delays a kill.

use super::*;
use crate::remote::scripted::Scripted;

#[test]
fn lanes_and_deadlines() {
    let executor = Arc::new(Scripted::default());
    let runner = Runner::at("/r", executor.clone(), Arc::default(), "set".into(), "".into());
    let uuid = ContainerUuid::parse("local-dz642-000000000000001").expect("well formed");
    let second = Duration::from_secs(1);
    let wake = Wake::new().expect("a descriptor");
    let config = StartConfig { env: std::collections::BTreeMap::new(), container: None };
    let noted = |what: &str, lane: Lane, limit: Duration| {
        let all: Vec<_> = executor.asked.lock().drain(..).collect();
        let fits = all.iter().all(|asked| asked.lane == lane && asked.left <= limit);
        assert!(all.len() == 1 && fits, "{what}: {all:?}");
    };
    let _ = runner.list(None, second, 20 * second, &wake);
    noted("list", Lane::Probe, 21 * second);
    let _ = runner.boot_probe("", 20 * second);
    noted("boot probe", Lane::Probe, 20 * second);
    let _ = runner.facts();
    noted("facts", Lane::Probe, COMMAND_DEADLINE);
    let _ = runner.start(&uuid, 1, &config);
    noted("start", Lane::Action, COMMAND_DEADLINE);
    let _ = runner.kill(&uuid, 1);
    noted("kill", Lane::Action, COMMAND_DEADLINE);
    let _ = runner.terminate(&uuid, 1);
    noted("terminate", Lane::Action, COMMAND_DEADLINE);
    let _ = runner.reap(&uuid, 1);
    noted("reap", Lane::Action, COMMAND_DEADLINE);
    let _ = runner.forget(&uuid, 1, true);
    noted("forget", Lane::Action, COMMAND_DEADLINE);
    let _ = runner.collect(&uuid, 1, 60 * second, &mut |_| Ok(()));
    noted("collect", Lane::Bulk, 60 * second);
    // Whoever reads logs waits for it.
    let _ = runner.tail(&uuid, 1, "stdout", 0, 30 * second);
    noted("tail", Lane::Bulk, second + TAIL_LIMIT);
}

/// A runner that was put on an instance by others may be older than the flag (exit status 2): then it forgets as it can.
#[test]
fn an_older_runner_forgets_too() {
    let uuid = ContainerUuid::parse("local-dz642-000000000000001").expect("a uuid");
    let forgotten = |unknown, keep| {
        let executor = Arc::new(Scripted { unknown, ..Scripted::default() });
        let runner = Runner::at("/r", executor.clone(), Arc::default(), "set".into(), "".into());
        let result = runner.forget(&uuid, 1, keep);
        let asked = executor.asked.lock().len();
        (result.is_ok(), asked)
    };
    assert_eq!(forgotten(None, false), (true, 1));
    assert_eq!(forgotten(None, true), (true, 1));
    assert_eq!(forgotten(Some("--keep-outputs"), true), (true, 2));
    assert_eq!(forgotten(Some("--forget"), true), (false, 1), "it is something else that it does not know");
}
