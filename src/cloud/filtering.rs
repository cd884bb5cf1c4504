//! Drops what a list has too much (spec 40 §4, wrapper 4): drivers may ignore the tags that are asked for.

use super::layer::{Inner, Layer, Layered};
use super::{CloudError, CloudInstance};
use crate::core::effect::{Level, Note, Tags};
use crate::log::write_note;

/// A driver whose lists have the instances with all tags that were asked for, and no others.
#[derive(Debug)]
pub struct Filtering {
    inner: Inner,
}

impl Filtering {
    pub fn around(inner: Inner) -> Layered<Self> {
        Layered(Self { inner })
    }
}

impl Layer for Filtering {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        let mut instances = self.inner.list(tags)?;
        let all = instances.len();
        instances.retain(|instance| tags.iter().all(|(name, value)| instance.tags.get(name) == Some(value)));
        let note = Note::new(Level::Debug, "cloud", "filtered instance list");
        write_note(&note.with("returning", instances.len()).with("skipped", all - instances.len()));
        Ok(instances)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cloud::InstanceSet;
    use crate::cloud::layer::recorded::{Recorded, instance};

    #[test]
    fn every_tag_must_have_its_value() {
        let instances = vec![
            instance("both", &[("a", "1"), ("b", "2"), ("c", "3")]),
            instance("one", &[("a", "1")]),
            instance("other", &[("a", "1"), ("b", "3")]),
            instance("none", &[]),
        ];
        let recorded = Arc::new(Recorded { instances: instances.clone(), ..Recorded::default() });
        let driver = Filtering::around(recorded.clone());
        let asked = instance("i", &[("a", "1"), ("b", "2")]).tags;
        assert_eq!(driver.list(&asked).expect("listed"), instances[..1]);
        assert_eq!(driver.list(&Tags::new()).expect("listed"), instances);
        assert_eq!(recorded.calls.lock()[0], ("List", asked), "the driver may use them");
        let failing = Filtering::around(Arc::new(Recorded { fails: true, ..Recorded::default() }));
        assert!(matches!(failing.list(&Tags::new()), Err(CloudError::Capacity { .. })), "classes stay");
    }
}
