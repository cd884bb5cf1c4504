//! What the program has said of instances beyond their snapshots: host keys and prices, from memory since both are asked for before
//! every probe; and the judge of host keys that it makes.
//!
//! Answers may cross: a list that began before a create returned does not have its instance. So each change has a number, and
//! an answer does not undo what was learnt after it was asked for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use parking_lot::Mutex;

use super::answers::Described;
use crate::core::effect::{Level, Note};
use crate::core::ids::InstanceId;
use crate::core::instance_type::PricePoint;
use crate::log::write_note;
use crate::remote::identity::{HostCheck, HostKey, Verdict};

/// Instances by id: those of the last list, and those that were created since it began.
#[derive(Debug, Default)]
pub(super) struct Known(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    instances: HashMap<InstanceId, Instance>,
    changes: u64,
}

#[derive(Debug)]
struct Instance {
    /// Kept as long as the instance is: a console from which a program reads it may not show it for ever.
    host_key: Option<HostKey>,
    prices: Vec<PricePoint>,
    /// The number of the change that said so.
    told: u64,
}

/// When a list was asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked(u64);

impl Known {
    /// Call it before the program is run.
    pub(super) fn asked(&self) -> Asked {
        let mut state = self.0.lock();
        state.changes += 1;
        Asked(state.changes)
    }

    /// A create has returned this.
    pub(super) fn created(&self, one: &Described) {
        let mut state = self.0.lock();
        state.changes += 1;
        let told = state.changes;
        state.learn(one, told);
    }

    /// A list has returned exactly these.
    pub(super) fn listed(&self, Asked(asked): Asked, all: &[Described]) {
        let ids: HashSet<&InstanceId> = all.iter().map(|one| &one.instance.id).collect();
        let mut state = self.0.lock();
        state.instances.retain(|id, known| known.told > asked || ids.contains(id));
        all.iter().for_each(|one| state.learn(one, asked));
    }

    pub(super) fn host_key(&self, id: &InstanceId) -> Option<HostKey> {
        self.0.lock().instances.get(id)?.host_key.clone()
    }

    pub(super) fn prices(&self, id: &InstanceId) -> Vec<PricePoint> {
        self.0.lock().instances.get(id).map(|known| known.prices.clone()).unwrap_or_default()
    }
}

impl State {
    fn learn(&mut self, one: &Described, told: u64) {
        let mut newer = Instance { host_key: one.host_key.clone(), prices: one.prices.clone(), told };
        let mut older = self.instances.remove(&one.instance.id);
        if let Some(known) = older.as_mut().filter(|known| known.told > told) {
            std::mem::swap(known, &mut newer);
        }
        // What is older fills gaps only.
        newer.host_key = newer.host_key.or(older.and_then(|older| older.host_key));
        self.instances.insert(one.instance.id.clone(), newer);
    }
}

/// Judges the keys of one instance by what is known of it when a connection is made.
#[derive(Debug)]
pub(super) struct Check {
    pub(super) id: InstanceId,
    /// Executors may live longer than the driver.
    pub(super) known: Arc<Known>,
    /// The program has announced that host keys come (`verify_host_key`).
    pub(super) announced: bool,
}

impl HostCheck for Check {
    fn check(&self, key: &HostKey, address: &str) -> Verdict {
        let Some(expected) = self.known.host_key(&self.id) else {
            let waiting =
                "the driver program says that it verifies host keys (verify_host_key), and has not told this one's yet";
            return if self.announced { Verdict::Refused(waiting.to_owned()) } else { Verdict::Unknown };
        };
        if *key == expected {
            return Verdict::Trusted;
        }
        let shown = |key: &HostKey| format!("{} {}", key.algorithm(), key.fingerprint());
        let reason = format!("it shows {}, the driver program says {}", shown(key), shown(&expected));
        let note = Note::new(Level::Error, "cloud", "HOST KEY MISMATCH: the connection is refused");
        write_note(&note.with("Instance", &self.id).with("Address", address).with("Reason", &reason));
        Verdict::Refused(reason)
    }

    fn algorithms(&self, _address: &str) -> Vec<String> {
        self.known.host_key(&self.id).iter().map(|key| key.algorithm().to_owned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::CloudInstance;
    use crate::core::effect::Tags;

    fn key(letter: char) -> HostKey {
        let blob = [&[0, 0, 0, 11][..], b"ssh-ed25519", letter.to_string().as_bytes()].concat();
        HostKey::new(&blob).expect("a key")
    }

    fn described(id: &str, host_key: Option<HostKey>, price: f64) -> Described {
        let instance = CloudInstance {
            id: InstanceId::new(id),
            provider_type: String::new(),
            address: String::new(),
            remote_user: "root".to_owned(),
            tags: Tags::new(),
        };
        Described { instance, host_key, prices: vec![PricePoint { since: 0, price }] }
    }

    fn price(known: &Known, id: &str) -> Option<f64> {
        known.prices(&InstanceId::new(id)).first().map(|point| point.price)
    }

    #[test]
    fn entries_go_with_their_instances() {
        let known = Known::default();
        known.created(&described("a", None, 1.0));
        known.listed(known.asked(), &[described("a", None, 2.0), described("b", None, 3.0)]);
        assert_eq!((price(&known, "a"), price(&known, "b")), (Some(2.0), Some(3.0)));
        known.listed(known.asked(), &[described("b", None, 4.0)]);
        assert_eq!((price(&known, "a"), price(&known, "b")), (None, Some(4.0)));
    }

    /// Answers that come in another order than they were asked for.
    #[test]
    fn what_is_older_undoes_nothing() {
        let known = Known::default();
        let before = known.asked();
        known.created(&described("a", Some(key('a')), 1.0));
        known.listed(before, &[]);
        assert_eq!(known.host_key(&InstanceId::new("a")), Some(key('a')));

        let (first, second) = (known.asked(), known.asked());
        known.listed(second, &[described("a", None, 2.0), described("b", None, 5.0)]);
        known.listed(first, &[described("a", Some(key('x')), 9.0), described("b", Some(key('b')), 9.0)]);
        assert_eq!((price(&known, "a"), price(&known, "b")), (Some(2.0), Some(5.0)));
        // A key that was told once stays, and one that was not known is taken from whoever tells it.
        assert_eq!(known.host_key(&InstanceId::new("a")), Some(key('a')));
        assert_eq!(known.host_key(&InstanceId::new("b")), Some(key('b')));
        known.listed(known.asked(), &[described("a", Some(key('c')), 2.0)]);
        assert_eq!(known.host_key(&InstanceId::new("a")), Some(key('c')));
    }

    #[test]
    fn verdicts() {
        let known = Arc::new(Known::default());
        let check = |announced| Check { id: InstanceId::new("a"), known: known.clone(), announced };
        assert_eq!(check(false).check(&key('a'), "host"), Verdict::Unknown);
        let Verdict::Refused(reason) = check(true).check(&key('a'), "host") else { panic!("it is not known yet") };
        assert!(reason.contains("not told"), "{reason}");
        assert!(check(true).algorithms("host").is_empty());

        known.created(&described("a", Some(key('a')), 1.0));
        for announced in [false, true] {
            assert_eq!(check(announced).check(&key('a'), "host"), Verdict::Trusted);
            let Verdict::Refused(reason) = check(announced).check(&key('b'), "host") else { panic!("it is another") };
            assert!(reason.contains(&key('a').fingerprint()) && reason.contains(&key('b').fingerprint()), "{reason}");
            assert_eq!(check(announced).algorithms("host"), ["ssh-ed25519"]);
        }
    }
}
