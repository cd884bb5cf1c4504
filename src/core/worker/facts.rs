//! Whether a host is what its instance type says (spec 52 §1).

use super::{Context, Worker};
use crate::core::effect::{Fault, Level};
use crate::core::instance_type::InstanceType;
use crate::core::vocabulary::{BootOutcome, IdleBehavior};

/// What a host has, by its own word. Bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostFacts {
    pub cpus: i64,
    pub ram: i64,
    /// Free where the runner keeps its files.
    pub scratch: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Somewhat smaller: what fits the type still fits it as far as anybody can tell.
    Short,
    /// What was promised to containers is not there.
    TooSmall,
}

impl HostFacts {
    fn judge(&self, claimed: &InstanceType) -> Verdict {
        // Kernels hide 3–7 % of the RAM.
        let has_ram_share = |percent: i128| i128::from(self.ram) * 100 >= i128::from(claimed.ram) * percent;
        if self.cpus < claimed.vcpus || !has_ram_share(80) {
            Verdict::TooSmall
        } else if !has_ram_share(90) || self.scratch < claimed.scratch() {
            Verdict::Short
        } else {
            Verdict::Good
        }
    }
}

impl Worker {
    /// Compares the host with its type, if that is configured.
    pub(super) fn judge_facts(&mut self, facts: &HostFacts, cx: &mut Context<'_>) {
        let Some(claimed) = self.instance_type.clone().filter(|_| cx.settings.judge_hosts) else { return };
        let verdict = facts.judge(&claimed);
        let message = match verdict {
            Verdict::Good => return,
            // Once per type: all its instances are alike.
            Verdict::Short if !cx.short_types.insert(self.type_name.clone()) => return,
            Verdict::Short => "instances of this type have less than it says",
            Verdict::TooSmall => "instance has much less than its type says",
        };
        let note = self.note(Level::Warn, message).with("InstanceType", &self.type_name);
        let note = note.with("CPUs", facts.cpus).with("CPUsOfType", claimed.vcpus);
        let note = note.with("RAM", facts.ram).with("RAMOfType", claimed.ram);
        cx.note(note.with("Scratch", facts.scratch).with("ScratchOfType", claimed.scratch()));
        if verdict == Verdict::TooSmall {
            self.fault.get_or_insert(Fault::TooSmall {
                cpus: facts.cpus,
                cpus_of_type: claimed.vcpus,
                ram: facts.ram,
                ram_of_type: claimed.ram,
            });
            if self.idle_behavior == IdleBehavior::Run {
                self.report_boot_outcome(BootOutcome::Failure, cx);
                self.set_idle_behavior(IdleBehavior::Drain, cx);
                self.shut_down_if_eligible(cx);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_the_verdicts() {
        let claimed =
            InstanceType { vcpus: 4, ram: 1000, included_scratch: 60, added_scratch: 40, ..Default::default() };
        for (cpus, ram, scratch, expected) in [
            (4, 1000, 100, Verdict::Good),
            (8, 900, 100, Verdict::Good),
            (4, 899, 100, Verdict::Short),
            (4, 800, 100, Verdict::Short),
            (4, 1000, 99, Verdict::Short),
            (4, 799, 100, Verdict::TooSmall),
            (3, 1000, 100, Verdict::TooSmall),
            (4, 1000, 0, Verdict::Short),
            (4, i64::MAX, i64::MAX, Verdict::Good),
        ] {
            assert_eq!(HostFacts { cpus, ram, scratch }.judge(&claimed), expected, "{cpus} {ram} {scratch}");
        }
    }
}
