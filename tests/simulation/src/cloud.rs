//! The provider: instances, and a list that is late.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::core::effect::Tags;
use crate::core::ids::{InstanceId, TypeName};
use crate::core::pool::create::InstanceReport;
use crate::core::time::Moment;
use crate::faults::Fault;
use crate::host::Host;
use crate::world::World;

#[derive(Debug)]
pub struct Instance {
    pub type_name: TypeName,
    pub provider_type: String,
    pub tags: Tags,
    pub born: Moment,
    /// The address is known from then on.
    pub address_from: Moment,
    /// Its host is off and the list lacks it from then on.
    pub gone_at: Option<Moment>,
    pub host: Host,
}

#[derive(Debug)]
pub struct Cloud {
    pub instances: BTreeMap<InstanceId, Instance>,
    /// Instances of this account, others' included.
    pub quota: usize,
    /// Provider types that are out of capacity, until then.
    pub out_of_capacity: BTreeMap<String, Moment>,
    /// Types whose image is bad, until then.
    pub bad_images: BTreeMap<TypeName, Moment>,
    /// The state that the last list showed: lists never go back in time.
    last_shown: Moment,
    made: u64,
}

/// The tag that names the dispatcher an instance belongs to.
pub const SET_TAG: &str = "ArvadosInstanceSetID";

impl Cloud {
    pub fn new(quota: usize) -> Self {
        Self {
            instances: BTreeMap::new(),
            quota,
            out_of_capacity: BTreeMap::new(),
            bad_images: BTreeMap::new(),
            last_shown: Moment::ZERO,
            made: 0,
        }
    }

    /// Exists now, as a machine.
    pub fn alive(&self, id: &InstanceId, now: Moment) -> bool {
        self.instances.get(id).is_some_and(|instance| instance.gone_at.is_none_or(|gone| now < gone))
    }

    pub fn host_mut(&mut self, id: &InstanceId, now: Moment) -> Option<&mut Host> {
        let alive = self.alive(id, now);
        self.instances.get_mut(id).filter(|_| alive).map(|instance| &mut instance.host)
    }

    pub fn host(&self, id: &InstanceId, now: Moment) -> Option<&Host> {
        self.instances.get(id).filter(|_| self.alive(id, now)).map(|instance| &instance.host)
    }

    /// How many machines the account has now.
    pub fn count(&self, now: Moment) -> usize {
        self.instances.keys().filter(|id| self.alive(id, now)).count()
    }

    /// What a list shows that looks at the state of `age` ago, or at the one that the list before it showed.
    pub fn list(&mut self, age: Duration, now: Moment) -> BTreeMap<InstanceId, InstanceReport> {
        let shown = (now - age).max(self.last_shown);
        self.last_shown = shown;
        let exists = |instance: &Instance| instance.born <= shown && instance.gone_at.is_none_or(|gone| shown < gone);
        let instances = self.instances.iter().filter(|(_, instance)| exists(instance));
        instances.map(|(id, instance)| (id.clone(), report(id, instance, shown))).collect()
    }

    pub fn ours(instance: &Instance) -> bool {
        instance.tags.get(SET_TAG).is_some_and(|set| set == "local")
    }
}

/// What is said of an instance at this moment.
pub fn report(id: &InstanceId, instance: &Instance, shown: Moment) -> InstanceReport {
    let address = if instance.address_from <= shown { format!("10.0.0.{id}") } else { String::new() };
    InstanceReport {
        address,
        remote_user: "root".to_owned(),
        provider_type: instance.provider_type.clone(),
        tags: instance.tags.clone(),
    }
}

impl World {
    /// A new machine, with all that may be wrong with it drawn.
    pub fn make_instance(&mut self, type_name: &TypeName, provider_type: &str, tags: Tags) -> InstanceId {
        self.cloud.made += 1;
        let id = InstanceId::new(&format!("i{:04}", self.cloud.made));
        let late = self.fault(Fault::AddressLate);
        let address_in = if late { self.random.seconds(5, 60) } else { Duration::ZERO };
        let boots_in = if self.has_bad_image(type_name) || self.fault(Fault::NeverBoots) {
            None
        } else {
            Some(self.random.millis(200, 60_000))
        };
        let host = Host {
            boots_at: boots_in.map(|after| self.now + address_in + after),
            runner_fails: self.fault(Fault::RunnerMissing),
            list_fails: self.fault(Fault::ListNever),
            too_small: self.fault(Fault::TooSmall),
            ..Host::default()
        };
        let instance = Instance {
            type_name: type_name.clone(),
            provider_type: provider_type.to_owned(),
            tags,
            born: self.now,
            address_from: self.now + address_in,
            gone_at: None,
            host,
        };
        self.say(|| format!("cloud: {id} of {type_name} exists, boots in {boots_in:?}"));
        let ours = Cloud::ours(&instance);
        self.cloud.instances.insert(id.clone(), instance);
        if ours {
            self.plan_troubles(&id);
        }
        id
    }

    fn has_bad_image(&mut self, type_name: &TypeName) -> bool {
        if self.fault(Fault::BadImage) {
            let until = self.now + self.random.seconds(600, 6000);
            self.cloud.bad_images.insert(type_name.clone(), until);
        }
        self.faults_on && self.cloud.bad_images.get(type_name).is_some_and(|until| self.now < *until)
    }

    /// The machine goes: at once, or after a while in which it is still listed.
    pub fn remove_instance(&mut self, id: &InstanceId, after: Duration) {
        let gone = self.now + after;
        if let Some(instance) = self.cloud.instances.get_mut(id) {
            let gone = instance.gone_at.map_or(gone, |known| known.min(gone));
            instance.gone_at = Some(gone);
            self.say(|| format!("cloud: {id} goes in {after:?}"));
        }
    }

    /// What will befall this machine by itself.
    fn plan_troubles(&mut self, id: &InstanceId) {
        if self.fault(Fault::Vanishes) {
            let (after, id) = (self.random.seconds(10, 1800), id.clone());
            self.after(after, move |world| {
                if world.faults_on && world.cloud.alive(&id, world.now) {
                    world.truth.vanished.insert(id.clone());
                    world.remove_instance(&id, Duration::ZERO);
                }
            });
        }
        if self.fault(Fault::Broken) {
            let (after, id) = (self.random.seconds(10, 1800), id.clone());
            self.after(after, move |world| {
                if let Some(host) = world.cloud.host_mut(&id, world.now) {
                    host.broken = true;
                    world.host_changed(&id);
                }
            });
        }
        for fault in [Fault::Refused, Fault::Hangs, Fault::KeyChanged] {
            if self.fault(fault) {
                let (after, lasts, id) = (self.random.seconds(5, 1200), self.random.seconds(1, 1500), id.clone());
                self.after(after, move |world| world.trouble(&id, fault, lasts));
            }
        }
    }

    fn trouble(&mut self, id: &InstanceId, fault: Fault, lasts: Duration) {
        if !self.faults_on {
            return;
        }
        let until = self.now + lasts;
        if let Some(host) = self.cloud.host_mut(id, self.now) {
            host.trouble = Some((fault, until));
            self.say(|| format!("host {id}: {fault} for {lasts:?}"));
        }
    }
}
