//! Which faults the dispatcher is seen to have noticed: by what it logs about a machine or container that has them.

use std::time::Duration;

use crate::core::effect::Note;
use crate::core::ids::{ContainerUuid, InstanceId, TypeName};
use crate::faults::Fault;
use crate::host::Host;
use crate::world::World;

/// The shortest pause of the circuit breaker, less what a note may be late.
const BREAKER_PAUSE: Duration = Duration::from_secs(290);

fn field<'a>(note: &'a Note, name: &str) -> Option<&'a str> {
    note.fields.iter().find(|(key, _)| *key == name).map(|(_, value)| value.as_str())
}

impl World {
    pub fn notice(&mut self, note: &Note) {
        let instance = field(note, "Instance").map(InstanceId::new);
        let host = instance.as_ref().and_then(|id| Some(&self.cloud.instances.get(id)?.host));
        let is = |wrong: fn(&Host) -> bool| host.is_some_and(wrong);
        let known = |of: &std::collections::BTreeSet<InstanceId>| instance.as_ref().is_some_and(|id| of.contains(id));
        let mut noticed: Vec<(Fault, bool)> = Vec::new();
        match note.message {
            "instance disappeared in cloud" => noticed.push((Fault::Vanishes, known(&self.truth.vanished))),
            "instance appeared in cloud" => {
                noticed.push((Fault::CreateMadeButFailed, known(&self.truth.unreported)));
            }
            "boot failed" => {
                noticed.push((Fault::NeverBoots, is(|host| host.boots_at.is_none())));
                noticed.push((Fault::RunnerMissing, is(|host| host.runner_fails)));
                noticed.push((Fault::ListNever, is(|host| host.list_fails)));
            }
            "instance reports itself broken; draining it" => noticed.push((Fault::Broken, is(|host| host.broken))),
            "instance has much less than its type says" => noticed.push((Fault::TooSmall, true)),
            "unkillable container; draining the instance"
            | "unkillable container; instance is on hold, not draining it" => {
                let uuid = field(note, "ContainerUUID").and_then(ContainerUuid::parse);
                let runner = host.zip(uuid).and_then(|(host, uuid)| host.runners.get(&uuid));
                noticed.push((Fault::Unkillable, runner.is_some_and(|runner| runner.unkillable)));
            }
            "probe reported stale run lock" => {
                noticed.push((Fault::StaleLock, true));
                noticed.push((Fault::CrashAfterResult, is(|host| !host.results.is_empty())));
            }
            "stale run lock resists; treating the instance as broken" => noticed.push((Fault::StaleResists, true)),
            "instance type is not configured; draining the instance" => noticed.push((Fault::TypesRemoved, true)),
            "suspending remote calls due to rate-limit error" => {
                let create = field(note, "CallType") == Some("Create");
                let fault = if create { Fault::CreateRateLimited } else { Fault::ListRateLimited };
                noticed.push((fault, true));
            }
            "instances of this type do not boot; none is created during a pause" => {
                noticed.push((Fault::BadImage, true));
                let least = self.now + BREAKER_PAUSE;
                self.truth.tripped.extend(field(note, "InstanceType").map(|name| (TypeName::new(name), least)));
            }
            "instances of this type boot again" | "the failed boots of this type are forgotten, as asked" => {
                let name = field(note, "InstanceType").map(TypeName::new);
                self.truth.tripped.retain(|tripped, _| Some(tripped) != name.as_ref());
            }
            "start command has not returned in time" => noticed.push((Fault::EffectLost, true)),
            "create failed" => {
                let late = field(note, "error").is_some_and(|error| error.contains("did not answer in time"));
                noticed.push((Fault::CreateSlow, late));
                noticed.push((Fault::CreateSilent, late));
                noticed.push((Fault::CreateFails, field(note, "Class") == Some("other") && !late));
                noticed.push((Fault::Quota, field(note, "Class") == Some("quota")));
                noticed.push((Fault::Capacity, field(note, "Class") == Some("capacity")));
            }
            "worker still listed after shutdown; retrying" => {
                noticed.push((Fault::DestroyFails, true));
                noticed.push((Fault::DestroySlow, true));
            }
            "killing instance" | "set idle behavior" => noticed.push((Fault::Operator, true)),
            _ => {}
        }
        for (fault, seen) in noticed {
            if seen {
                self.counts.notice(fault);
            }
        }
    }
}
