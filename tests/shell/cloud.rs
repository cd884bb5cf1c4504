//! A cloud that does as it is told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use muster::cloud::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits};
use muster::core::effect::{Ending, Tags};
use muster::core::ids::{InstanceId, InstanceSecret};
use muster::core::instance_type::{InstanceType, PricePoint};
use muster::remote::runner::RunnerPlaces;
use parking_lot::{Condvar, Mutex};

use crate::fake::Host;

/// Where calls hang.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    is_open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn pass(&self) {
        let mut is_open = self.is_open.lock();
        while !*is_open {
            self.opened.wait(&mut is_open);
        }
    }

    pub(crate) fn open(&self) {
        *self.is_open.lock() = true;
        self.opened.notify_all();
    }
}

/// A cloud without delay.
#[derive(Debug, Default)]
pub(crate) struct Cloud {
    pub(crate) instances: Mutex<BTreeMap<String, CloudInstance>>,
    pub(crate) hosts: Mutex<BTreeMap<String, Arc<Host>>>,
    pub(crate) creates: AtomicUsize,
    pub(crate) lists: AtomicUsize,
    pub(crate) refuse_creates: AtomicBool,
    /// With a capacity error of the type.
    pub(crate) no_capacity: AtomicBool,
    /// Creates wait for the gate, and then the cloud asks for none for an hour.
    pub(crate) throttled: AtomicBool,
    pub(crate) refuse_lists: AtomicBool,
    pub(crate) weak_hosts: AtomicBool,
    /// Creates do not know the address yet; lists do.
    pub(crate) late_addresses: AtomicBool,
    pub(crate) prices: Mutex<Vec<PricePoint>>,
    /// Lists are made when they are due, not after each create and destroy.
    pub(crate) dear_lists: AtomicBool,
    /// So many lists do not return until the gate opens.
    pub(crate) hanging_lists: AtomicUsize,
    /// Instances whose destroys do not return until the gate opens, and the destroys that were asked for.
    pub(crate) hanging_destroys: Mutex<BTreeSet<String>>,
    pub(crate) destroys: Mutex<Vec<String>>,
    pub(crate) gate: Gate,
    /// So many opens fail.
    pub(crate) refuse_opens: AtomicUsize,
}

impl Cloud {
    pub(crate) fn add(&self, id: &str, tags: Tags) -> CloudInstance {
        let made = CloudInstance {
            id: InstanceId::new(id),
            provider_type: "small".to_owned(),
            address: "host:22".to_owned(),
            remote_user: "root".to_owned(),
            tags,
        };
        self.instances.lock().insert(id.to_owned(), made.clone());
        made
    }

    pub(crate) fn add_foreign(&self, id: &str) {
        self.add(id, Tags::from_iter([("ArvadosInstanceSetID".to_owned(), "another".to_owned())]));
    }
}

fn refused() -> CloudError {
    CloudError::Other { message: "the test says no".to_owned(), source: None }
}

impl InstanceSet for Cloud {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        let number = self.creates.fetch_add(1, Ordering::SeqCst);
        if self.refuse_creates.load(Ordering::SeqCst) {
            return Err(refused());
        }
        if self.no_capacity.load(Ordering::SeqCst) {
            let scope = muster::core::pool::limits::CapacityScope::Type;
            return Err(CloudError::Capacity { message: "none is free".to_owned(), scope });
        }
        if self.throttled.load(Ordering::SeqCst) {
            self.gate.pass();
            let retry_after = Duration::from_secs(3600);
            return Err(CloudError::RateLimit { message: "too many calls".to_owned(), retry_after });
        }
        let mut made = self.add(&format!("i-{number}"), new.tags.clone());
        if self.late_addresses.load(Ordering::SeqCst) {
            made.address.clear();
        }
        Ok(made)
    }

    fn list(&self, _tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        self.lists.fetch_add(1, Ordering::SeqCst);
        if self.refuse_lists.load(Ordering::SeqCst) {
            return Err(refused());
        }
        let answer = self.instances.lock().values().cloned().collect();
        let one_less = |left: usize| left.checked_sub(1);
        if self.hanging_lists.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok() {
            self.gate.pass();
        }
        Ok(answer)
    }

    fn destroy(&self, id: &InstanceId, _secret: Option<&InstanceSecret>, _ending: Ending) -> Result<(), CloudError> {
        self.destroys.lock().push(id.to_string());
        let hangs = self.hanging_destroys.lock().contains(id.as_str());
        if hangs {
            self.gate.pass();
        }
        self.instances.lock().remove(id.as_str());
        Ok(())
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        if let Some(instance) = self.instances.lock().get_mut(id.as_str()) {
            instance.tags = tags.clone();
        }
        Ok(())
    }

    fn quota_group(&self, _instance_type: &InstanceType) -> String {
        String::new()
    }

    fn traits(&self) -> Traits {
        Traits { cheap_list: !self.dear_lists.load(Ordering::SeqCst), ..Traits::default() }
    }

    fn price_history(&self, _id: &InstanceId, _instance_type: &InstanceType) -> Vec<PricePoint> {
        self.prices.lock().clone()
    }

    fn open(&self, id: &InstanceId, _secret: Option<&InstanceSecret>) -> std::io::Result<Access> {
        let left = self.refuse_opens.load(Ordering::SeqCst);
        if left > 0 {
            self.refuse_opens.store(left - 1, Ordering::SeqCst);
            return Err(std::io::ErrorKind::OutOfMemory.into());
        }
        let host = self.hosts.lock().entry(id.to_string()).or_default().clone();
        host.weak.store(self.weak_hosts.load(Ordering::SeqCst), Ordering::SeqCst);
        let places = RunnerPlaces { directory: Some("/bin".to_owned()), ..RunnerPlaces::default() };
        Ok(Access { executor: host, places })
    }
}
