//! What must hold of a run that has ended, from the queue's records and the hosts' journal.

use std::collections::{BTreeMap, BTreeSet};

use muster::core::ids::ContainerUuid;
use muster::core::vocabulary::ContainerState;
use muster::queue::local::LocalQueue;
use muster_fake_hosts::{JournalEntry, JournalEvent};

use super::cloud::Counts;

/// Every container has ended once, Complete; no attempt was run twice, and never two of one container at a time. Adds what hosts did to
/// the counts.
///
/// # Errors
/// All that is wrong.
pub(crate) fn judge(
    queue: &LocalQueue,
    uuids: &[ContainerUuid],
    journal: &[JournalEntry],
    counts: &mut Counts,
) -> Result<(), String> {
    let mut wrong = Vec::new();
    one_at_a_time(journal, &mut wrong);
    for entry in journal {
        let name = match entry.event {
            JournalEvent::Started => "attempts that ran",
            JournalEvent::Finished => "attempts with a result",
            JournalEvent::Crashed => "runners that crashed",
            JournalEvent::SwitchedOff => "attempts whose machine ended",
        };
        *counts.entry(name).or_default() += 1;
    }
    for uuid in uuids {
        ended_once(queue, uuid, journal, &mut wrong);
    }
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n")) }
}

fn one_at_a_time(journal: &[JournalEntry], wrong: &mut Vec<String>) {
    let mut running: BTreeMap<&str, &JournalEntry> = BTreeMap::new();
    let mut started = BTreeSet::new();
    for entry in journal {
        if entry.event != JournalEvent::Started {
            running.remove(entry.uuid.as_str());
            continue;
        }
        if !started.insert((&entry.uuid, entry.attempt)) {
            wrong.push(format!("run twice: {entry:?}"));
        }
        if let Some(other) = running.insert(&entry.uuid, entry) {
            wrong.push(format!("two at a time: {entry:?} beside {other:?}"));
        }
    }
}

fn ended_once(queue: &LocalQueue, uuid: &ContainerUuid, journal: &[JournalEntry], wrong: &mut Vec<String>) {
    let detail = match queue.show(uuid) {
        Ok(Some(detail)) => detail,
        other => return wrong.push(format!("{uuid} is lost: {other:?}")),
    };
    let ends = detail.history.iter().filter(|line| matches!(line.event.as_str(), "finished" | "cancelled")).count();
    let complete = detail.container.state == ContainerState::Complete && detail.container.exit_code == Some(0);
    let last = detail.container.attempt;
    let has_result = journal
        .iter()
        .any(|entry| entry.uuid == uuid.as_str() && entry.attempt == last && entry.event == JournalEvent::Finished);
    if !complete || ends != 1 || !has_result {
        wrong.push(format!("{uuid} has ended {ends} times, a result of its last attempt: {has_result}: {detail:?}"));
    }
}
