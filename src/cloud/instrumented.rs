//! Counts the results of driver calls (spec 40 §4, wrapper 1): only real calls, not the time they waited for their turn.

use std::sync::Arc;

use super::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits, UnlistedInstance};
use crate::core::effect::{Ending, Tags};
use crate::core::ids::{InstanceId, InstanceSecret};
use crate::core::instance_type::{InstanceType, PricePoint};

/// Called after each call with its name (`Create`, `List`, `Destroy`, `SetTags`) and whether it failed.
pub type Count = Arc<dyn Fn(&'static str, bool) + Send + Sync>;

/// A driver whose calls are counted.
pub struct Instrumented {
    inner: Arc<dyn InstanceSet>,
    count: Count,
}

impl std::fmt::Debug for Instrumented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Instrumented").field(&self.inner).finish()
    }
}

impl Instrumented {
    pub fn new(inner: Arc<dyn InstanceSet>, count: Count) -> Self {
        Self { inner, count }
    }

    fn counted<T>(&self, name: &'static str, result: Result<T, CloudError>) -> Result<T, CloudError> {
        (self.count)(name, result.is_err());
        result
    }
}

impl InstanceSet for Instrumented {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        self.counted("Create", self.inner.create(new))
    }

    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        self.counted("List", self.inner.list(tags))
    }

    fn destroy(&self, id: &InstanceId, secret: Option<&InstanceSecret>, ending: Ending) -> Result<(), CloudError> {
        self.counted("Destroy", self.inner.destroy(id, secret, ending))
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        self.counted("SetTags", self.inner.set_tags(id, tags))
    }

    fn quota_group(&self, instance_type: &InstanceType) -> String {
        self.inner.quota_group(instance_type)
    }

    fn traits(&self) -> Traits {
        self.inner.traits()
    }

    fn price_history(&self, id: &InstanceId, instance_type: &InstanceType) -> Vec<PricePoint> {
        self.inner.price_history(id, instance_type)
    }

    fn open(&self, id: &InstanceId, secret: Option<&InstanceSecret>) -> std::io::Result<Access> {
        self.inner.open(id, secret)
    }

    fn retry(&self, id: &InstanceId) -> bool {
        self.inner.retry(id)
    }

    fn unlisted(&self) -> Vec<UnlistedInstance> {
        self.inner.unlisted()
    }

    fn stop(&self) {
        self.inner.stop();
    }
}
