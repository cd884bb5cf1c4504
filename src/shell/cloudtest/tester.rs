//! The steps of spec 40 §7.2 with one driver: look for leftovers, create, list, tags, boot, command, pause, destroy. Whatever fails,
//! what was created is destroyed.

use std::time::{Duration, Instant};

use crossbeam_channel::select;

use super::remote::{self, Outcome};
use crate::cloud::boot::Boot;
use crate::cloud::{Access, CloudError, CloudInstance, InstanceSet};
use crate::core::effect::{Ending, Level, Note, Tags, seconds};
use crate::core::errors::chain;
use crate::core::ids::InstanceSecret;
use crate::core::instance_type::InstanceType;
use crate::log::write_note;
use crate::shell::stop::Stop;

/// One boot probe or secret check; a machine that hangs must not use up the whole time to boot.
const PROBE_LIMIT: Duration = Duration::from_secs(60);
/// Of the operator's command.
const COMMAND_LIMIT: Duration = Duration::from_secs(3600);
/// After a list that failed while the instance is destroyed: soon, but not as often as the machine can.
const RETRY: Duration = Duration::from_secs(1);

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
    pub ssh_port: Option<String>,
    pub probe_interval: Duration,
    pub sync_interval: Duration,
    pub timeout_booting: Duration,
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
    /// Waits for the operator.
    pub pause: &'a dyn Fn(),
}

impl std::fmt::Debug for Tester<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tester").field("plan", &self.plan).finish_non_exhaustive()
    }
}

fn note(level: Level, message: &'static str) -> Note {
    Note::new(level, "cloudtest", message)
}

/// Whatever happens.
fn pass(time: Duration) {
    let _ = crossbeam_channel::after(time).recv();
}

/// The test has been stopped by a signal, or has nothing to go on with. What was to be said is in the log.
struct GiveUp;

impl Tester<'_> {
    /// True if all was well. Returns when nothing of it is left.
    pub fn run(&self) -> bool {
        if self.clear_leftovers().is_err() {
            return false;
        }
        let deadline = Instant::now() + self.plan.timeout_booting;
        let (instance, mut all_is_well) = match self.create(deadline) {
            Ok(created) => created,
            Err(GiveUp) => return false,
        };
        all_is_well &= self.try_out(&instance, deadline);
        self.destroy(&instance);
        all_is_well
    }

    fn set_tag(&self) -> Tags {
        Tags::from_iter([(format!("{}InstanceSetID", self.plan.tag_prefix), self.plan.set.clone())])
    }

    /// All instances of our set id, whoever made them.
    fn ours(&self, filter: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        let mine = self.set_tag();
        let mut instances = self.cloud.list(filter)?;
        let all = instances.len();
        instances.retain(|instance| mine.iter().all(|(name, value)| instance.tags.get(name) == Some(value)));
        let line = note(Level::Info, "listed instances").with("Instances", all);
        write_note(&line.with("Ours", instances.len()).with("InstanceSetID", &self.plan.set));
        Ok(instances)
    }

    /// Waits; false: the test is to end.
    fn wait(&self, time: Duration) -> bool {
        select! {
            recv(self.stop.channel()) -> _ => false,
            default(time) => true,
        }
    }

    /// Without a filter: so the driver's unfiltered list is tried, too.
    fn clear_leftovers(&self) -> Result<(), GiveUp> {
        write_note(&note(Level::Info, "checking for existing instances").with("InstanceSetID", &self.plan.set));
        loop {
            let found = self.ours(&Tags::new()).map_err(|error| {
                write_note(&note(Level::Error, "error getting list of instances").with("error", chain(&error)));
                GiveUp
            })?;
            if found.is_empty() {
                return Ok(());
            }
            for instance in &found {
                let level = if self.plan.destroy_existing { Level::Info } else { Level::Error };
                write_note(&note(level, "found existing instance").with("Instance", &instance.id));
                if self.plan.destroy_existing {
                    self.ask_to_destroy(instance);
                }
            }
            if !self.plan.destroy_existing {
                let advice = "destroy them by hand, or use -destroy-existing, or another -instance-set-id";
                write_note(&note(Level::Error, "there are instances of an earlier test").with("Advice", advice));
                return Err(GiveUp);
            }
            if !self.wait(self.plan.sync_interval) {
                return Err(GiveUp);
            }
        }
    }

    /// The instance, and whether all was well so far.
    fn create(&self, deadline: Instant) -> Result<(CloudInstance, bool), GiveUp> {
        let plan = self.plan;
        let mut tags = plan.resource_tags.clone();
        tags.insert(format!("{}CloudTestPID", plan.tag_prefix), std::process::id().to_string());
        tags.extend(self.set_tag().iter().map(|(name, value)| (name.clone(), value.clone())));
        tags.insert(format!("{}InstanceSecret", plan.tag_prefix), self.secret.reveal().to_owned());
        let order = plan.boot.order(plan.instance_type.clone(), tags, self.secret.clone());
        let line = note(Level::Info, "creating instance")
            .with("InstanceType", &plan.instance_type.name)
            .with("ProviderType", &plan.instance_type.provider_type)
            .with("ImageID", &order.image_id)
            .with("Tags", format!("{:?}", order.tags))
            .with("InitCommand", order.init_command.replace(self.secret.reveal(), "***"))
            .with("DeployPublicKey", order.public_key.is_some());
        write_note(&line);
        let began = Instant::now();
        match self.cloud.create(&order) {
            Ok(instance) => {
                let line = note(Level::Info, "created instance").with("Instance", &instance.id);
                write_note(&line.with("Duration", seconds(began.elapsed())));
                self.next_list_has(instance)
            }
            Err(error) => {
                let line = note(Level::Error, "error creating test instance").with("error", chain(&error));
                write_note(&line.with("Duration", seconds(began.elapsed())));
                self.created_all_the_same(deadline).map(|instance| (instance, false))
            }
        }
    }

    /// An error does not rule out that there is an instance. It must not be left behind.
    fn created_all_the_same(&self, deadline: Instant) -> Result<CloudInstance, GiveUp> {
        write_note(&note(Level::Info, "looking for an instance that was created despite the error"));
        loop {
            match self.ours(&self.set_tag()) {
                Ok(found) => {
                    if let Some(instance) = found.into_iter().next() {
                        return Ok(instance);
                    }
                }
                Err(error) => {
                    write_note(&note(Level::Warn, "error getting list of instances").with("error", chain(&error)));
                }
            }
            if Instant::now() >= deadline || !self.wait(self.plan.sync_interval) {
                write_note(&note(Level::Error, "no instance was created"));
                return Err(GiveUp);
            }
        }
    }

    fn next_list_has(&self, made: CloudInstance) -> Result<(CloudInstance, bool), GiveUp> {
        match self.ours(&self.set_tag()) {
            Ok(found) => match found.into_iter().find(|instance| instance.id == made.id) {
                Some(listed) => {
                    let tags_are_right = self.has_expected_tags(&listed);
                    Ok((listed, tags_are_right))
                }
                None => {
                    let line = note(Level::Error, "Create succeeded, but instance is not in list");
                    write_note(&line.with("Instance", &made.id));
                    Ok((made, false))
                }
            },
            Err(error) => {
                write_note(&note(Level::Error, "error getting list of instances").with("error", chain(&error)));
                self.destroy(&made);
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

    /// Boot, command, pause.
    fn try_out(&self, instance: &CloudInstance, deadline: Instant) -> bool {
        let access = match self.cloud.open(&instance.id, Some(&self.secret)) {
            Ok(access) => access,
            Err(error) => {
                write_note(&note(Level::Error, "cannot connect to the instance").with("error", chain(&error)));
                return false;
            }
        };
        let (mut instance, mut all_is_well) = (instance.clone(), true);
        if !self.boot(&mut instance, &access, deadline) {
            all_is_well = false;
        }
        if !self.plan.command.is_empty() && !self.stop.is_stopped() {
            all_is_well &= remote::run(&access, &instance, &self.plan.command, COMMAND_LIMIT) == Outcome::Succeeded;
        }
        if self.plan.pause_before_destroy && !self.stop.is_stopped() {
            self.show_login(&instance);
            (self.pause)();
        }
        access.executor.close();
        all_is_well && !self.stop.is_stopped()
    }

    fn boot(&self, instance: &mut CloudInstance, access: &Access, deadline: Instant) -> bool {
        let line = note(Level::Info, "waiting for instance to boot").with("Instance", &instance.id);
        write_note(&line.with("TimeoutBooting", seconds(deadline.saturating_duration_since(Instant::now()))));
        let mut shown = false;
        loop {
            if !shown && !instance.address.is_empty() {
                self.show_login(instance);
                shown = true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            let limit = left.min(PROBE_LIMIT);
            if remote::run(access, instance, &self.plan.boot_probe_command, limit) == Outcome::Succeeded {
                write_note(&note(Level::Info, "instance has booted").with("Instance", &instance.id));
                return true;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                write_note(&note(Level::Error, "timed out").with("Instance", &instance.id));
                return false;
            }
            if !self.wait(left.min(self.plan.probe_interval)) {
                return false;
            }
            self.refresh(instance);
        }
    }

    /// Its address may have become known.
    fn refresh(&self, instance: &mut CloudInstance) {
        match self.ours(&self.set_tag()) {
            Ok(found) => {
                if let Some(now) = found.into_iter().find(|one| one.id == instance.id) {
                    *instance = now;
                }
            }
            Err(error) => {
                write_note(&note(Level::Warn, "error getting list of instances").with("error", chain(&error)));
            }
        }
    }

    fn show_login(&self, instance: &CloudInstance) {
        let Some(default_port) = &self.plan.ssh_port else { return };
        let (host, port) = match instance.address.rsplit_once(':') {
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, port),
            _ => (instance.address.as_str(), default_port.as_str()),
        };
        let command = format!("ssh -p{port} {}@{host}", instance.remote_user);
        write_note(&note(Level::Info, "to log in").with("Command", command));
    }

    fn ask_to_destroy(&self, instance: &CloudInstance) {
        let secret = instance.tags.get(&format!("{}InstanceSecret", self.plan.tag_prefix));
        let secret = secret.map(|text| InstanceSecret::new(text));
        write_note(&note(Level::Info, "destroying instance").with("Instance", &instance.id));
        if let Err(error) = self.cloud.destroy(&instance.id, secret.as_ref(), Ending::Unwanted) {
            write_note(&note(Level::Warn, "error destroying instance").with("error", chain(&error)));
        }
    }

    /// A host that is there already is cleaned up in the background.
    fn is_being_cleaned(&self, instance: &CloudInstance) -> bool {
        self.cloud.unlisted().iter().any(|one| one.id == instance.id && one.state == "cleaning")
    }

    /// Until it is gone, for as long as that takes: no instance is left behind silently.
    fn destroy(&self, instance: &CloudInstance) {
        loop {
            self.ask_to_destroy(instance);
            match self.ours(&self.set_tag()) {
                Ok(found) if found.iter().all(|one| one.id != instance.id) && !self.is_being_cleaned(instance) => {
                    write_note(&note(Level::Info, "instance is gone").with("Instance", &instance.id));
                    return;
                }
                Ok(_) => pass(self.plan.sync_interval),
                Err(error) => {
                    write_note(&note(Level::Warn, "error getting list of instances").with("error", chain(&error)));
                    pass(RETRY);
                }
            }
        }
    }
}
