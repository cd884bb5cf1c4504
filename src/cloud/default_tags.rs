//! Gives new instances the configured ResourceTags (spec 40 §4, wrapper 3). The tags of the call win. Tags that are set later are the
//! whole set already: they were read from the instance.

use super::layer::{Inner, Layer, Layered};
use super::{CloudError, CloudInstance, NewInstance};
use crate::core::effect::Tags;

/// A driver whose creates have more tags.
#[derive(Debug)]
pub struct DefaultTags {
    inner: Inner,
    tags: Tags,
}

impl DefaultTags {
    pub fn around(inner: Inner, tags: Tags) -> Layered<Self> {
        Layered(Self { inner, tags })
    }
}

impl Layer for DefaultTags {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        let mut tags = self.tags.clone();
        tags.extend(new.tags.iter().map(|(name, value)| (name.clone(), value.clone())));
        self.inner.create(&NewInstance { tags, ..new.clone() })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::cloud::InstanceSet;
    use crate::cloud::boot::Boot;
    use crate::cloud::layer::recorded::{Recorded, instance};
    use crate::core::ids::{InstanceId, InstanceSecret};

    #[test]
    fn creates_have_the_union_and_the_calls_tags_win() {
        let recorded = Arc::new(Recorded::default());
        let driver = DefaultTags::around(recorded.clone(), instance("i", &[("site", "a"), ("owner", "default")]).tags);
        let own = instance("i", &[("owner", "call"), ("mark", "m")]).tags;
        driver.create(&Boot::default().order(Arc::default(), own.clone(), InstanceSecret::new("5"))).expect("made");
        driver.set_tags(&InstanceId::new("i"), &own).expect("set");
        driver.list(&own).expect("listed");
        let all = instance("i", &[("site", "a"), ("owner", "call"), ("mark", "m")]).tags;
        assert_eq!(*recorded.calls.lock(), [("Create", all), ("SetTags", own.clone()), ("List", own)]);
    }
}
