//! Drops what a list has too much (spec 40 §4, wrapper 4): drivers may ignore the tags that are asked for.
//!
//! What lacks our tags is somebody else's, and nobody is told. But an instance that a create of this process returned costs money, and
//! nobody else ends it: one that a driver (most likely a program of an operator's) lists without the tags that the create gave it
//! is kept with those, and told of. Not so once it has been listed with them: then somebody took them away, as one does who wants to
//! have the instance for himself (40 §2.3). A driver without this wrapper hides nothing, so `muster cloudtest` finds its fault.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::layer::{Inner, Layer, Layered};
use super::{CloudError, CloudInstance, NewInstance};
use crate::core::effect::{Level, Note, Tags};
use crate::core::ids::InstanceId;
use crate::log::write_note;

/// Created instances that are remembered: far more than there are. The oldest is forgotten.
const CREATED_MAX: usize = 25_000;
/// One that so many lists in a row lack is gone: one or two may lack what is there.
const LACKED_MAX: u32 = 3;

/// A driver whose lists have the instances with all tags that were asked for, and no others.
#[derive(Debug)]
pub struct Filtering {
    inner: Inner,
    created: Mutex<State>,
}

/// What creates have returned, until it is gone: listed once, and then not any more. A create that returns the same id again begins anew.
#[derive(Debug, Default)]
struct State {
    instances: BTreeMap<InstanceId, Created>,
    /// Numbers creates and lists.
    drawn: u64,
}

#[derive(Debug)]
struct Created {
    number: u64,
    /// What it was given last.
    tags: Tags,
    /// It has been listed with the tags that were asked for.
    had_them: bool,
    /// What was told of it last: it is kept, or not.
    told: Option<bool>,
    /// The last list that had it. A list may be late, so that an earlier one lacks it after that.
    listed: Option<u64>,
    /// Later lists in a row that lacked it.
    lacked: u32,
}

impl Filtering {
    pub fn around(inner: Inner) -> Layered<Self> {
        Layered(Self { inner, created: Mutex::default() })
    }
}

impl State {
    fn draw(&mut self) -> u64 {
        self.drawn += 1;
        self.drawn
    }

    fn created(&mut self, id: &InstanceId, tags: &Tags) {
        let number = self.draw();
        let made = Created { number, tags: tags.clone(), had_them: false, told: None, listed: None, lacked: 0 };
        self.instances.insert(id.clone(), made);
        if self.instances.len() > CREATED_MAX {
            let oldest = self.instances.iter().min_by_key(|(_, one)| one.number).map(|(id, _)| id.clone());
            oldest.map(|id| self.instances.remove(&id));
        }
    }

    /// Whether it has these tags, now at least.
    fn is_wanted(&mut self, instance: &mut CloudInstance, tags: &Tags, list: u64) -> bool {
        let Some(made) = self.instances.get_mut(&instance.id) else { return has(instance, tags) };
        (made.listed, made.lacked) = (made.listed.max(Some(list)), 0);
        if has(instance, tags) {
            made.had_them |= !tags.is_empty();
            return true;
        }
        // One with another value belongs to somebody else by now.
        let lost = tags.iter().all(|(name, value)| instance.tags.get(name).is_none_or(|found| found == value));
        if lost && !made.had_them {
            for (name, value) in &made.tags {
                instance.tags.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
        let is_kept = has(instance, tags);
        if made.told.replace(is_kept) != Some(is_kept) {
            tell(&instance.id, tags, is_kept);
        }
        is_kept
    }

    /// After this list, of which [`State::is_wanted`] was asked for each instance.
    fn forget_gone(&mut self, list: u64) {
        self.instances.retain(|_, made| {
            made.lacked += u32::from(made.listed.is_some_and(|last| last < list));
            made.lacked < LACKED_MAX
        });
    }
}

fn has(instance: &CloudInstance, tags: &Tags) -> bool {
    tags.iter().all(|(name, value)| instance.tags.get(name) == Some(value))
}

fn tell(id: &InstanceId, tags: &Tags, is_kept: bool) {
    let (message, advice) = match is_kept {
        true => (
            "an instance of ours is listed without the tags that it was created with; it is kept while lists show it and this process runs",
            "have the driver's list show the tags of create and set-tags; destroy this instance by hand before a restart, \
             which would not find it",
        ),
        false => (
            "an instance of ours is listed without our tags, so it is not ours any more: nothing is run on it, nor is it destroyed",
            "destroy it by hand if nobody needs it",
        ),
    };
    let names: Vec<&str> = tags.keys().map(String::as_str).collect();
    let note = Note::new(Level::Warn, "cloud", message).with("Instance", id).with("Tags", names.join(" "));
    write_note(&note.with("Advice", advice));
}

impl Layer for Filtering {
    fn inner(&self) -> &Inner {
        &self.inner
    }

    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        let instance = self.inner.create(new)?;
        self.created.lock().created(&instance.id, &new.tags);
        Ok(instance)
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        self.inner.set_tags(id, tags)?;
        if let Some(made) = self.created.lock().instances.get_mut(id) {
            made.tags.clone_from(tags);
        }
        Ok(())
    }

    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        let list = self.created.lock().draw();
        let mut instances = self.inner.list(tags)?;
        let all = instances.len();
        {
            let mut state = self.created.lock();
            instances.retain_mut(|instance| state.is_wanted(instance, tags, list));
            state.forget_gone(list);
        }
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
