//! The steps of spec 40 §7.2 with one driver: look for leftovers, create, list, tags, boot, command, pause, destroy. Whatever fails,
//! what was created is destroyed.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossbeam_channel::select;

use super::note;
use crate::cloud::boot::Boot;
use crate::cloud::{CloudError, CloudInstance, InstanceSet};
use crate::core::effect::{Level, Tags};
use crate::core::errors::chain;
use crate::core::ids::{InstanceId, InstanceSecret};
use crate::core::instance_type::InstanceType;
use crate::log::write_note;
use crate::shell::stop::Stop;

/// What is tested. Intervals as in the configuration.
#[derive(Clone, Debug)]
pub struct Plan {
    /// InstanceSetID of the instance under test.
    pub set: String,
    pub tag_prefix: String,
    pub resource_tags: Tags,
    pub boot: Boot,
    pub instance_type: std::sync::Arc<InstanceType>,
    /// Destroy what earlier tests left, instead of failing.
    pub destroy_existing: bool,
    pub boot_probe_command: String,
    /// Run after the boot; empty: none.
    pub command: String,
    pub pause_before_destroy: bool,
    /// For the line that shows how to log in; `None`: no SSH is used.
    pub login: Option<Login>,
    pub probe_interval: Duration,
    pub sync_interval: Duration,
    pub timeout_booting: Duration,
    /// After a create that has returned: an instance that has not been listed by then does not exist.
    pub appears_within: Duration,
}

/// How people log in.
#[derive(Clone, Debug)]
pub struct Login {
    /// Of an address without one.
    pub port: String,
    /// The private key; `None`: it is in the configuration.
    pub key_file: Option<PathBuf>,
}

/// One test of one driver.
pub struct Tester<'a> {
    /// Without wrappers.
    pub cloud: &'a dyn InstanceSet,
    pub plan: &'a Plan,
    /// Of the instance that is created.
    pub secret: InstanceSecret,
    /// Ends the waiting, and never the destroying.
    pub stop: &'a Stop,
    /// Waits for the operator, or the stop.
    pub pause: &'a dyn Fn(&Stop),
}

impl std::fmt::Debug for Tester<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tester").field("plan", &self.plan).finish_non_exhaustive()
    }
}

/// The test has been stopped by a signal, or has nothing to go on with. What was to be said is in the log.
pub(super) struct GiveUp;

/// The instance under test.
pub(super) struct Created {
    pub(super) instance: CloudInstance,
    /// When its create returned.
    pub(super) at: Instant,
    /// It has been listed: whoever is told to destroy it, knows it.
    pub(super) seen: bool,
}

impl Tester<'_> {
    /// True if all was well. Returns when nothing of it is left.
    pub fn run(&self) -> bool {
        if self.clear_leftovers().is_err() {
            return false;
        }
        let before = self.given_up();
        if self.stop.is_stopped() {
            write_note(&note(Level::Error, "stopped before anything was created"));
            return false;
        }
        let deadline = Instant::now() + self.plan.timeout_booting;
        let all_is_well = match self.create(deadline) {
            Ok((mut made, good_so_far)) => {
                let good = self.try_out(&mut made, deadline);
                self.destroy(&mut made);
                good && good_so_far
            }
            Err(GiveUp) => false,
        };
        self.wait_until_given_back(&before);
        all_is_well
    }

    pub(super) fn set_tag(&self) -> Tags {
        Tags::from_iter([(self.set_tag_name(), self.plan.set.clone())])
    }

    pub(super) fn set_tag_name(&self) -> String {
        format!("{}InstanceSetID", self.plan.tag_prefix)
    }

    pub(super) fn secret_tag_name(&self) -> String {
        format!("{}InstanceSecret", self.plan.tag_prefix)
    }

    /// All instances of our set id, whoever made them.
    pub(super) fn ours(&self, filter: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        let mut instances = self.listed(filter)?;
        instances.retain(|instance| self.is_ours(instance));
        Ok(instances)
    }

    /// As the driver tells it.
    pub(super) fn listed(&self, filter: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        let instances = self.cloud.list(filter)?;
        let ours = instances.iter().filter(|instance| self.is_ours(instance)).count();
        let line = note(Level::Info, "listed instances").with("Instances", instances.len());
        write_note(&line.with("Ours", ours).with("InstanceSetID", &self.plan.set));
        Ok(instances)
    }

    pub(super) fn is_ours(&self, instance: &CloudInstance) -> bool {
        instance.tags.get(&self.set_tag_name()) == Some(&self.plan.set)
    }

    /// Those that a driver gives up in the background, and that are not listed any more.
    pub(super) fn given_up(&self) -> BTreeSet<InstanceId> {
        self.cloud.unlisted().into_iter().filter(|one| one.being_given_up).map(|one| one.id).collect()
    }

    /// Waits; false: the test is to end.
    pub(super) fn wait(&self, time: Duration) -> bool {
        select! {
            recv(self.stop.channel()) -> _ => false,
            default(time) => true,
        }
    }

    /// Without a filter: so the driver's unfiltered list is tried, too.
    fn clear_leftovers(&self) -> Result<(), GiveUp> {
        write_note(&note(Level::Info, "checking for existing instances").with("InstanceSetID", &self.plan.set));
        let (mut asked, mut left) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let found = self.ours(&Tags::new()).map_err(|error| {
                write_note(&note(Level::Error, "error getting list of instances").with("error", chain(&error)));
                self.tell_left(&left);
                GiveUp
            })?;
            left = found.iter().map(|instance| instance.id.clone()).collect();
            left.extend(self.given_up().intersection(&asked).cloned());
            if left.is_empty() {
                return Ok(());
            }
            for instance in &found {
                let level = if self.plan.destroy_existing { Level::Info } else { Level::Error };
                write_note(&note(level, "found existing instance").with("Instance", &instance.id));
                if self.plan.destroy_existing {
                    let _ = self.ask_to_destroy(instance);
                    asked.insert(instance.id.clone());
                }
            }
            if !self.plan.destroy_existing {
                let advice = "destroy them by hand, or use -destroy-existing, or another -instance-set-id";
                write_note(&note(Level::Error, "there are instances of an earlier test").with("Advice", advice));
                return Err(GiveUp);
            }
            self.tell_given_up(&left);
            if !self.wait(self.plan.sync_interval) {
                self.tell_left(&left);
                return Err(GiveUp);
            }
        }
    }

    fn tell_left(&self, left: &BTreeSet<InstanceId>) {
        if !left.is_empty() {
            let ids: Vec<&str> = left.iter().map(InstanceId::as_str).collect();
            let line = note(Level::Error, "instances of an earlier test may still exist");
            write_note(&line.with("Instances", ids.join(" ")).with("Advice", self.advice()));
        }
    }

    /// For whatever may be left behind.
    pub(super) fn advice(&self) -> String {
        let (name, set) = (self.set_tag_name(), &self.plan.set);
        format!("look for instances with the tag {name}={set}, or run this again with -destroy-existing")
    }
}
