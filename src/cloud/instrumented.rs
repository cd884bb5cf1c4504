//! Counts the results of driver calls (spec 40 §4, wrapper 1): only real calls, not the time they waited for their turn.

use std::sync::Arc;

use super::layer::{Inner, Layer, Layered};
use super::{CloudError, CloudInstance, NewInstance};
use crate::core::effect::{Ending, Tags};
use crate::core::ids::{InstanceId, InstanceSecret};

/// Called after each call with its name (`Create`, `List`, `Destroy`, `SetTags`) and whether it failed.
pub type Count = Arc<dyn Fn(&'static str, bool) + Send + Sync>;

/// A driver whose calls are counted.
pub struct Instrumented {
    inner: Inner,
    count: Count,
}

impl std::fmt::Debug for Instrumented {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Instrumented").field(&self.inner).finish()
    }
}

impl Instrumented {
    pub fn around(inner: Inner, count: Count) -> Layered<Self> {
        Layered(Self { inner, count })
    }

    fn counted<T>(&self, name: &'static str, result: Result<T, CloudError>) -> Result<T, CloudError> {
        (self.count)(name, result.is_err());
        result
    }
}

impl Layer for Instrumented {
    fn inner(&self) -> &Inner {
        &self.inner
    }

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
}

#[cfg(test)]
mod tests {
    use parking_lot::Mutex;

    use super::*;
    use crate::cloud::layer::recorded::{Recorded, all_calls};

    #[test]
    fn each_call_is_counted_once_by_name_and_result() {
        for fails in [false, true] {
            let counts = Arc::new(Mutex::new(Vec::new()));
            let recorded = Arc::new(Recorded { fails, ..Recorded::default() });
            let of_driver = counts.clone();
            let driver =
                Instrumented::around(recorded, Arc::new(move |name, failed| of_driver.lock().push((name, failed))));
            assert_eq!(all_calls(&driver), [!fails; 4]);
            assert_eq!(*counts.lock(), ["Create", "List", "Destroy", "SetTags"].map(|name| (name, fails)));
        }
    }
}
