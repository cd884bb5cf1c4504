//! The create, and whether the cloud shows what it has made.

use std::time::{Duration, Instant};

use super::destroy::pause_after;
use super::note;
use super::tester::{Created, GiveUp, Tester};
use crate::cloud::{CloudInstance, NewInstance};
use crate::core::effect::{Level, seconds};
use crate::core::errors::chain;
use crate::log::write_note;

/// Between two looks for an instance that is not listed yet.
pub(super) const LOOK_AGAIN: Duration = Duration::from_secs(5);

impl Tester<'_> {
    fn order(&self) -> NewInstance {
        let plan = self.plan;
        let mut tags = plan.resource_tags.clone();
        tags.insert(format!("{}CloudTestPID", plan.tag_prefix), std::process::id().to_string());
        tags.insert(self.set_tag_name(), plan.set.clone());
        tags.insert(self.secret_tag_name(), self.secret.reveal().to_owned());
        plan.boot.order(plan.instance_type.clone(), tags, self.secret.clone())
    }

    /// The instance, and whether all was well so far.
    pub(super) fn create(&self, deadline: Instant) -> Result<(Created, bool), GiveUp> {
        let order = self.order();
        let line = note(Level::Info, "creating instance")
            .with("InstanceType", &order.instance_type.name)
            .with("ProviderType", &order.instance_type.provider_type)
            .with("ImageID", &order.image_id)
            .with("Tags", format!("{:?}", order.tags))
            .with("InitCommand", order.init_command.replace(self.secret.reveal(), "***"))
            .with("DeployPublicKey", order.public_key.is_some());
        write_note(&line);
        let began = Instant::now();
        let result = self.cloud.create(&order);
        let at = Instant::now();
        match result {
            Ok(instance) => {
                let line = note(Level::Info, "created instance").with("Instance", &instance.id);
                write_note(&line.with("Duration", seconds(at - began)));
                self.next_list_has(Created { instance, at, seen: false })
            }
            Err(error) => {
                let line = note(Level::Error, "error creating test instance").with("error", chain(&error));
                write_note(&line.with("Duration", seconds(at - began)));
                let instance = self.created_all_the_same(deadline, at)?;
                self.has_expected_tags(&instance);
                Ok((Created { instance, at, seen: true }, false))
            }
        }
    }

    /// An error does not rule out that there is an instance, which must not be left behind. Nobody but this test knows its secret: one
    /// of another test with the same set id is not taken for it. A stop shortens the search to the time in which it must appear.
    fn created_all_the_same(&self, deadline: Instant, at: Instant) -> Result<CloudInstance, GiveUp> {
        write_note(&note(Level::Info, "looking for an instance that was created despite the error"));
        let name = self.secret_tag_name();
        let is_this = |one: &CloudInstance| one.tags.get(&name).is_some_and(|secret| *secret == self.secret.reveal());
        let shown_by = at + self.plan.appears_within;
        let deadline = deadline.max(shown_by);
        let mut errors = 0;
        loop {
            let (asked, stopped) = (Instant::now(), self.stop.is_stopped());
            let until = if stopped { shown_by } else { deadline };
            let pause = match self.ours(&self.set_tag()) {
                Ok(found) => {
                    if let Some(instance) = found.into_iter().find(&is_this) {
                        return Ok(instance);
                    }
                    if self.cloud.traits().exact_list || asked >= deadline {
                        write_note(&note(Level::Error, "no instance was created"));
                        return Err(GiveUp);
                    }
                    errors = 0;
                    self.plan.sync_interval
                }
                Err(error) => {
                    write_note(&note(Level::Warn, "error getting list of instances").with("error", chain(&error)));
                    errors += 1;
                    pause_after(&error, errors)
                }
            };
            if asked >= until {
                let message = "it is not known whether an instance was created";
                write_note(&note(Level::Error, message).with("Advice", self.advice()));
                return Err(GiveUp);
            }
            let left = until.saturating_duration_since(asked);
            match stopped {
                // Whatever happens.
                true => super::destroy::pass(pause.min(LOOK_AGAIN).min(left)),
                false => drop(self.wait(pause.min(left))),
            }
        }
    }

    fn next_list_has(&self, mut made: Created) -> Result<(Created, bool), GiveUp> {
        match self.listed(&self.set_tag()) {
            Ok(found) => {
                let listed = found.into_iter().find(|instance| instance.id == made.instance.id);
                made.seen = listed.is_some();
                let mut good = true;
                match listed {
                    Some(listed) if self.is_ours(&listed) => made.instance = listed,
                    other => {
                        let message = match other {
                            Some(_) => "Create succeeded, but instance is listed without the tag of its set",
                            None => "Create succeeded, but instance is not in list",
                        };
                        write_note(&note(Level::Error, message).with("Instance", &made.instance.id));
                        good = false;
                    }
                }
                let good = self.has_expected_tags(&made.instance) && good;
                Ok((made, good))
            }
            Err(error) => {
                write_note(&note(Level::Error, "error getting list of instances").with("error", chain(&error)));
                self.destroy(&mut made);
                Err(GiveUp)
            }
        }
    }

    fn has_expected_tags(&self, instance: &CloudInstance) -> bool {
        let mut good = true;
        for (name, value) in &self.plan.resource_tags {
            let found = instance.tags.get(name);
            if found != Some(value) {
                let line = note(Level::Error, "expected tag is missing or different").with("Key", name);
                let line = line.with("ExpectedValue", value).with("GotValue", found.map_or("", String::as_str));
                write_note(&line);
                good = false;
            }
        }
        if good {
            write_note(&note(Level::Info, "all expected tags are present"));
        }
        good
    }
}
