//! What wrappers around drivers have in common (spec 40 §4): whatever a wrapper does not change goes through.

use std::sync::Arc;

use super::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits, UnlistedInstance};
use crate::core::effect::{Ending, Tags};
use crate::core::ids::{InstanceId, InstanceSecret};
use crate::core::instance_type::{InstanceType, PricePoint};

/// A driver, or one that is wrapped already.
pub type Inner = Arc<dyn InstanceSet>;

/// One wrapper: the calls that it changes. [`Layered`] makes a driver of it.
pub trait Layer: Send + Sync + std::fmt::Debug {
    fn inner(&self) -> &Inner;

    /// See [`InstanceSet::create`].
    ///
    /// # Errors
    /// As there, here and in the others.
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        self.inner().create(new)
    }

    /// See [`InstanceSet::list`].
    ///
    /// # Errors
    /// As there.
    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        self.inner().list(tags)
    }

    /// See [`InstanceSet::destroy`].
    ///
    /// # Errors
    /// As there.
    fn destroy(&self, id: &InstanceId, secret: Option<&InstanceSecret>, ending: Ending) -> Result<(), CloudError> {
        self.inner().destroy(id, secret, ending)
    }

    /// See [`InstanceSet::set_tags`].
    ///
    /// # Errors
    /// As there.
    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        self.inner().set_tags(id, tags)
    }

    /// See [`InstanceSet::stop`].
    fn stop(&self) {
        self.inner().stop();
    }
}

/// The driver that a wrapper makes.
#[derive(Debug)]
pub struct Layered<L>(pub L);

impl<L: Layer> InstanceSet for Layered<L> {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        self.0.create(new)
    }

    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        self.0.list(tags)
    }

    fn destroy(&self, id: &InstanceId, secret: Option<&InstanceSecret>, ending: Ending) -> Result<(), CloudError> {
        self.0.destroy(id, secret, ending)
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        self.0.set_tags(id, tags)
    }

    fn quota_group(&self, instance_type: &InstanceType) -> String {
        self.0.inner().quota_group(instance_type)
    }

    fn traits(&self) -> Traits {
        self.0.inner().traits()
    }

    fn price_history(&self, id: &InstanceId, instance_type: &InstanceType) -> Vec<PricePoint> {
        self.0.inner().price_history(id, instance_type)
    }

    fn open(&self, id: &InstanceId, secret: Option<&InstanceSecret>) -> std::io::Result<Access> {
        self.0.inner().open(id, secret)
    }

    fn unlisted(&self) -> Vec<UnlistedInstance> {
        self.0.inner().unlisted()
    }

    fn retry(&self, id: &InstanceId) -> bool {
        self.0.inner().retry(id)
    }

    fn stop(&self) {
        self.0.stop();
    }
}

/// The calls of a driver in the order that they came in, for tests of wrappers.
#[cfg(test)]
pub(crate) mod recorded {
    use parking_lot::Mutex;

    use super::*;
    use crate::core::pool::limits::CapacityScope;

    /// A driver that notes what it is asked for, lists what it is given, and fails all calls if told to.
    #[derive(Debug, Default)]
    pub(crate) struct Recorded {
        pub(crate) calls: Mutex<Vec<(&'static str, Tags)>>,
        pub(crate) instances: Vec<CloudInstance>,
        pub(crate) fails: bool,
        /// There is no provider behind it.
        pub(crate) counts_nothing: bool,
    }

    impl Recorded {
        fn called(&self, name: &'static str, tags: &Tags) -> Result<(), CloudError> {
            self.calls.lock().push((name, tags.clone()));
            let error = CloudError::Capacity { message: "none".to_owned(), scope: CapacityScope::Group };
            if self.fails { Err(error) } else { Ok(()) }
        }

        pub(crate) fn names(&self) -> Vec<&'static str> {
            self.calls.lock().iter().map(|(name, _)| *name).collect()
        }
    }

    /// An instance with these tags.
    pub(crate) fn instance(id: &str, tags: &[(&str, &str)]) -> CloudInstance {
        CloudInstance {
            id: InstanceId::new(id),
            provider_type: "p".to_owned(),
            address: String::new(),
            remote_user: "root".to_owned(),
            tags: tags.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        }
    }

    /// All four calls that reach the provider, and whether each succeeded.
    pub(crate) fn all_calls(driver: &dyn InstanceSet) -> [bool; 4] {
        let id = InstanceId::new("i");
        let new = crate::cloud::boot::Boot::default().order(Arc::default(), Tags::new(), InstanceSecret::new("5"));
        [
            driver.create(&new).is_ok(),
            driver.list(&Tags::new()).is_ok(),
            driver.destroy(&id, None, Ending::Unwanted).is_ok(),
            driver.set_tags(&id, &Tags::new()).is_ok(),
        ]
    }

    impl InstanceSet for Recorded {
        fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
            self.called("Create", &new.tags).map(|()| instance("i-new", &[]))
        }

        fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
            self.called("List", tags).map(|()| self.instances.clone())
        }

        fn destroy(&self, _: &InstanceId, _: Option<&InstanceSecret>, _: Ending) -> Result<(), CloudError> {
            self.called("Destroy", &Tags::new())
        }

        fn set_tags(&self, _: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
            self.called("SetTags", tags)
        }

        fn quota_group(&self, instance_type: &InstanceType) -> String {
            format!("group of {}", instance_type.name)
        }

        fn traits(&self) -> Traits {
            Traits { calls_provider: !self.counts_nothing, ..Traits::default() }
        }

        fn price_history(&self, _: &InstanceId, _: &InstanceType) -> Vec<PricePoint> {
            vec![PricePoint { since: crate::core::time::WallMillis::default(), price: 7.0 }]
        }

        fn open(&self, id: &InstanceId, _: Option<&InstanceSecret>) -> std::io::Result<Access> {
            Err(std::io::Error::other(id.as_str().to_owned()))
        }

        fn unlisted(&self) -> Vec<UnlistedInstance> {
            vec![UnlistedInstance {
                id: InstanceId::new("u"),
                address: String::new(),
                type_name: crate::core::ids::TypeName::new("t"),
                provider_type: String::new(),
                state: "busy",
                detail: String::new(),
                being_given_up: false,
            }]
        }

        fn retry(&self, id: &InstanceId) -> bool {
            id.as_str() == "u"
        }

        fn stop(&self) {
            self.calls.lock().push(("stop", Tags::new()));
        }
    }

    /// What no wrapper changes gets through each of them.
    #[test]
    fn the_rest_goes_through() {
        #[derive(Debug)]
        struct Nothing(Inner);
        impl Layer for Nothing {
            fn inner(&self) -> &Inner {
                &self.0
            }
        }
        let recorded = Arc::new(Recorded::default());
        let driver = Layered(Nothing(recorded.clone()));
        let (id, instance_type) = (InstanceId::new("u"), InstanceType { name: "t".to_owned(), ..Default::default() });
        assert_eq!(driver.quota_group(&instance_type), "group of t");
        assert!(driver.traits().calls_provider);
        assert!(driver.price_history(&id, &instance_type)[0].price > 6.0);
        assert_eq!(driver.open(&id, None).expect_err("as told").to_string(), "u");
        assert_eq!(driver.unlisted().len(), 1);
        assert!(driver.retry(&id) && !driver.retry(&InstanceId::new("other")));
        assert_eq!(all_calls(&driver), [true; 4]);
        driver.stop();
        assert_eq!(recorded.names(), ["Create", "List", "Destroy", "SetTags", "stop"]);
    }
}
