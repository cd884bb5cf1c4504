//! What the suite has to know of a cloud, and calls to it as the dispatcher makes them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use muster::cloud::boot::Boot;
use muster::cloud::{CloudError, CloudInstance, InstanceSet};
use muster::core::effect::{Ending, Tags};
use muster::core::ids::{InstanceId, InstanceSecret};
use muster::core::instance_type::InstanceType;
use parking_lot::Mutex;

use crate::support::{order, wait_until};

/// How far a test gets with [`InstanceSet::open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    /// There are no machines behind the instances.
    Nothing,
    /// Commands run; the host is known by other means than the instance's secret.
    Commands,
    /// Commands run, and the secret decides whether it is the host: a wrong one is refused.
    BySecret,
}

/// Whether an error is the one that it should be.
pub(crate) type IsRefusal = fn(&CloudError) -> bool;

/// One cloud with a driver for it. To add a driver, write a function that gives one of these, and a test that calls
/// [`crate::contract::check`] with it. The cloud has no instances of [`crate::support::SET`] when the suite begins, and none when it ends.
pub(crate) struct Rig {
    pub(crate) name: &'static str,
    /// A new driver over the same cloud, as after a restart. It must not share memory with the ones before it.
    pub(crate) open: Box<dyn Fn() -> Arc<dyn InstanceSet> + Send + Sync>,
    /// Two drivers may be open at once; else the suite drops one before it opens the next.
    pub(crate) shared: bool,
    pub(crate) instance_type: Arc<InstanceType>,
    /// Image, key and operator's init command.
    pub(crate) boot: Boot,
    /// How many instances there can be, if that is few enough to try, and whether an error is the one for more.
    pub(crate) full: Option<(usize, IsRefusal)>,
    pub(crate) reach: Reach,
    /// Instances have prices once they were listed.
    pub(crate) prices: bool,
    /// An id in the cloud's form that no instance has.
    pub(crate) unknown_id: &'static str,
    /// What is injected: calls may fail (also after they did what they were asked for) and lists may be late by some lists. The suite then
    /// repeats its calls as the dispatcher would, and holds what must be true all the same.
    pub(crate) faulty: bool,
    /// What is left of instances in the cloud itself, in words; asked when none is listed any more.
    pub(crate) leftovers: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    /// How many errors of each class came back.
    pub(crate) errors: Mutex<BTreeMap<&'static str, u64>>,
}

pub(crate) fn class(error: &CloudError) -> &'static str {
    match error {
        CloudError::RateLimit { .. } => "rate limit",
        CloudError::Quota { .. } => "quota",
        CloudError::Capacity { .. } => "capacity",
        CloudError::Other { .. } => "other",
    }
}

/// A driver, and what was ordered from it. May be used by several threads.
pub(crate) struct Caller<'a> {
    pub(crate) rig: &'a Rig,
    pub(crate) driver: Arc<dyn InstanceSet>,
    /// Secrets of all creates that were ever tried.
    pub(crate) ordered: Mutex<BTreeSet<String>>,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(rig: &'a Rig) -> Self {
        Self { rig, driver: (rig.open)(), ordered: Mutex::default() }
    }

    /// The same after a restart of the dispatcher.
    pub(crate) fn restarted(self) -> Self {
        let Self { rig, driver, ordered } = self;
        drop(driver);
        Self { rig, driver: (rig.open)(), ordered }
    }

    /// Repeats a call that fails, if calls may fail.
    #[track_caller]
    fn patiently<T>(&self, what: &str, mut call: impl FnMut() -> Result<T, CloudError>) -> T {
        let mut result = None;
        wait_until(what, || match call() {
            Ok(value) => {
                result = Some(value);
                true
            }
            Err(error) => {
                assert!(self.rig.faulty, "{}: {what}: {error:?}", self.rig.name);
                *self.rig.errors.lock().entry(class(&error)).or_default() += 1;
                false
            }
        });
        result.expect("it has succeeded")
    }

    pub(crate) fn try_create(&self, secret: &InstanceSecret) -> Result<CloudInstance, CloudError> {
        self.ordered.lock().insert(secret.reveal().to_owned());
        self.driver.create(&order(&self.rig.boot, &self.rig.instance_type, secret))
    }

    /// Gives the instance with its secret. Each try has a secret of its own, since one that failed may have made an instance.
    #[track_caller]
    pub(crate) fn create(&self) -> (CloudInstance, InstanceSecret) {
        let mut secret = crate::support::new_secret();
        let instance = self.patiently("create", || {
            secret = crate::support::new_secret();
            self.try_create(&secret)
        });
        (instance, secret)
    }

    /// All that are ours, by id. Each is one that was ordered, and none is there twice.
    #[track_caller]
    pub(crate) fn list(&self) -> BTreeMap<InstanceId, CloudInstance> {
        let set = ("ArvadosInstanceSetID", crate::support::SET);
        let asked = Tags::from_iter([(set.0.to_owned(), set.1.to_owned())]);
        let all = self.patiently("list", || self.driver.list(&asked));
        let mut ours = BTreeMap::new();
        let mut secrets = BTreeSet::new();
        for one in all.into_iter().filter(|one| one.tags.get(set.0).map(String::as_str) == Some(set.1)) {
            let secret = one.tags.get("ArvadosInstanceSecret").expect("it was ordered with one");
            assert!(self.ordered.lock().contains(secret), "{}: nobody ordered {one:?}", self.rig.name);
            assert!(secrets.insert(secret.clone()), "{}: two of one create: {one:?}", self.rig.name);
            let before = ours.insert(one.id.clone(), one);
            assert!(before.is_none(), "{}: listed twice: {before:?}", self.rig.name);
        }
        ours
    }

    /// The instance as it is listed: in the first list, or, where lists are late, in a later one.
    #[track_caller]
    pub(crate) fn listed(&self, id: &InstanceId) -> CloudInstance {
        let mut found = None;
        wait_until(&format!("{id} is listed"), || {
            found = self.list().remove(id);
            assert!(found.is_some() || self.rig.faulty, "{}: {id} is not in the list", self.rig.name);
            found.is_some()
        });
        found.expect("it is there")
    }

    #[track_caller]
    pub(crate) fn set_tags(&self, id: &InstanceId, tags: &Tags) {
        self.patiently("set tags", || self.driver.set_tags(id, tags));
    }

    #[track_caller]
    pub(crate) fn destroy(&self, id: &InstanceId, secret: Option<&InstanceSecret>) {
        self.patiently("destroy", || self.driver.destroy(id, secret, Ending::Unwanted));
    }

    /// Destroyed as the dispatcher does it: again and again until it is not listed.
    #[track_caller]
    pub(crate) fn remove(&self, id: &InstanceId) {
        wait_until(&format!("{id} is gone"), || {
            let listed = self.list().remove(id);
            let Some(one) = listed else { return true };
            let secret = one.tags.get("ArvadosInstanceSecret").map(|secret| InstanceSecret::new(secret));
            self.destroy(id, secret.as_ref());
            false
        });
    }

    /// Nothing is listed, and nothing is left.
    #[track_caller]
    pub(crate) fn remove_all(&self) {
        wait_until("nothing is left", || {
            self.list().keys().for_each(|id| self.remove(id));
            let left = (self.rig.leftovers)();
            assert!(left.is_empty() || self.rig.faulty, "{}: {left:?}", self.rig.name);
            left.is_empty()
        });
    }
}
