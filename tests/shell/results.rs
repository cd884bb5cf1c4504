//! Results on their way to our own disk, from hosts that send what they like.

use muster::core::effect::RunnerOrder;
use muster::core::ids::{InstanceId, OperationId};
use muster::shell::containers::REFUSALS_MAX;
use muster::shell::lanes::Work;
use muster::shell::results::result_dir;
use serde_json::json;

use crate::fake::{Fake, archive, wait_until};

/// A result that is never acceptable ends its attempt after some tries, instead of keeping the container for ever.
#[test]
fn a_refused_result_becomes_an_engine_error() {
    let fake = Fake::start(|_| {});
    assert!(fake.create());
    let instance = fake.wait_idle(0);
    *fake.host(&instance).archive.lock() = Some(archive(&[("../result.json", b"{}")]));
    let order = RunnerOrder { operation: OperationId(0), instance, uuid: Fake::uuid(1), attempt: 2 };
    let place = result_dir(fake.results.path(), &order.uuid, order.attempt);
    for _ in 1..REFUSALS_MAX {
        assert_eq!(fake.containers.carry_out(&Work::Collect(order.clone())), None);
        assert!(!place.exists(), "nothing of it is kept");
    }
    assert_eq!(fake.containers.carry_out(&Work::Collect(order.clone())), Some((Work::Forget(order), 2)));
    let text = std::fs::read_to_string(place.join("result.json")).expect("made");
    assert!(text.contains("engine error") && text.contains("leads out of it"), "{text}");
    assert!(!fake.results.path().join("result.json").exists());
    fake.stop();
}

/// Spec 70 §4 after MaxOutputBytes was lowered: what the job did counts, and its outputs stay where they are.
#[test]
fn outputs_above_a_limit_that_was_lowered() {
    let fake = Fake::start(|_| {});
    assert!(fake.create());
    let instance = fake.wait_idle(0);
    let host = fake.host(&instance);
    let uuid = Fake::uuid(1);
    let record = json!({"uuid": uuid.as_str(), "attempt": 1, "reason": "exited", "exit_code": 3, "signal": null, "started_at": 1,
        "finished_at": 2, "peak_memory": null, "cpu_seconds": null, "detail": "", "stdout_bytes": 5, "stderr_bytes": 0,
        "outputs": ["out"], "skipped": [], "outputs_too_large": false});
    let record = record.to_string();
    // The first one would be in the way of a record that is written inside.
    let files: [(&str, &[u8]); 4] = [
        ("result.json.new/x", b""),
        ("result.json", record.as_bytes()),
        ("stdout", b"hello"),
        ("outputs/out", &[7; 1001]),
    ];
    *host.archive.lock() = Some(archive(&files));
    let order = |operation| RunnerOrder {
        operation: OperationId(operation),
        instance: instance.clone(),
        uuid: uuid.clone(),
        attempt: 1,
    };
    // A crash in the middle of an earlier one.
    let folder = fake.results.path().join(uuid.as_str());
    std::fs::create_dir(&folder).expect("made");
    std::fs::write(folder.join(".1.99.record"), "half").expect("written");
    std::fs::create_dir(folder.join(".1.99.new")).expect("made");
    // The second time it is here already, as after a crash.
    for operation in 0..2 {
        let forget = Work::Forget(order(operation));
        assert_eq!(fake.containers.carry_out(&Work::Collect(order(operation))), Some((forget.clone(), 2)));
        let place = result_dir(fake.results.path(), &uuid, 1);
        let text = std::fs::read_to_string(place.join("result.json")).expect("made");
        let kept: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!((&kept["exit_code"], &kept["outputs_too_large"]), (&json!(3), &json!(true)));
        let detail = kept["detail"].as_str().expect("text");
        assert!(detail.contains("above the limit of 1000 bytes (MaxOutputBytes)"), "{detail}");
        assert_eq!(std::fs::read(place.join("stdout")).expect("there"), b"hello");
        assert!(!place.join("outputs").exists());
        assert_eq!(std::fs::read_dir(&folder).expect("there").count(), 1, "nothing is left of others");
        host.kept.lock().clear();
        assert_eq!(fake.containers.carry_out(&forget), None);
        assert!(host.kept.lock().contains(&uuid), "its outputs stay there");
    }
    fake.stop();
}

/// A database that was restored from a backup knows less than the directory of results: an old result must not pass for the new run's.
#[test]
fn a_result_of_before_a_backup_was_restored() {
    let fake = Fake::start(|_| {});
    assert!(fake.create());
    let instance: InstanceId = fake.wait_idle(0);
    let host = fake.host(&instance);
    let uuid = Fake::uuid(1);
    let place = result_dir(fake.results.path(), &uuid, 1);
    std::fs::create_dir_all(&place).expect("made");
    std::fs::write(place.join("result.json"), "old").expect("written");
    std::fs::write(place.join("stdout"), "old").expect("written");
    assert!(fake.door.start_container(&instance, &uuid, 1));
    fake.wait_runs(&uuid);
    assert!(!place.exists(), "out of the way before it begins");
    *host.archive.lock() = Some(archive(&[("result.json", b"{}"), ("stdout", b"new")]));
    assert!(host.finish(&uuid));
    wait_until("its result was collected", || host.forgotten.lock().contains(&uuid));
    assert_eq!(std::fs::read(place.join("stdout")).expect("there"), b"new");
    let folder = std::fs::read_dir(place.parent().expect("one")).expect("there").flatten();
    let aside: Vec<_> = folder.map(|entry| entry.path()).filter(|path| *path != place).collect();
    assert!(aside.len() == 1 && aside[0].to_string_lossy().contains("/1.old-"), "{aside:?}");
    assert_eq!(std::fs::read(aside[0].join("stdout")).expect("there"), b"old", "nothing is lost");
    fake.stop();
}
