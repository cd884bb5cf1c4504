//! Which host is given out, what is said when there is none, and random histories with restarts.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cloud::static_hosts::host::tests::{lease, lease_id, spec};
use crate::cloud::static_hosts::host::{Cleaning, Event, Problem};
use crate::cloud::static_hosts::record;
use crate::core::effect::{Ending, Fault};

fn at(seconds: u64) -> Moment {
    Moment::since_start(Duration::from_secs(seconds))
}

fn times(seconds: u64) -> record::Times {
    record::Times { now: at(seconds), began: 1_800_000_000_000 }
}

fn table(hosts: &[(&str, &str)]) -> Table {
    let specs = hosts.iter().map(|(name, type_name)| spec(name, type_name)).collect();
    record::read(None, specs, "set", times(0)).expect("nothing to read")
}

fn problem(kind: Kind) -> Problem {
    Problem { kind, detail: "why".to_owned() }
}

fn change(table: &mut Table, name: &str, event: Event, seconds: u64) {
    table.hosts.get_mut(name).expect("there").apply(event, at(seconds));
}

#[test]
fn the_least_recently_failed_free_host_of_the_type() {
    let mut table = table(&[("a", "big"), ("b", "big"), ("c", "big"), ("d", "small")]);
    let big = TypeName::new("big");
    let next = |table: &Table| table.free_host(&big).map(|id| id.to_string());
    assert_eq!(next(&table).as_deref(), Some("a"));
    for (name, seconds) in [("a", 20), ("b", 10)] {
        change(&mut table, name, Event::Chosen(lease("big")), seconds);
        change(&mut table, name, Event::ClaimFailed { problem: problem(Kind::Failed), left: None }, seconds);
        change(&mut table, name, Event::Tick, 1000);
    }
    assert_eq!(next(&table).as_deref(), Some("c"), "never failed goes before failed");
    change(&mut table, "c", Event::Chosen(lease("big")), 1000);
    assert_eq!(next(&table).as_deref(), Some("b"), "longer ago goes before recently");
    change(&mut table, "b", Event::Chosen(lease("big")), 1000);
    change(&mut table, "a", Event::Chosen(lease("big")), 1000);
    assert_eq!(next(&table), None, "the small one is no big one");
}

#[test]
fn a_shortage_counts_what_the_hosts_are_doing() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut table = table(&names.map(|name| (name, "big")));
    assert_eq!(table.shortage(&TypeName::new("none")).to_string(), "no host has this type");
    for name in names {
        change(&mut table, name, Event::Chosen(lease("big")), 0);
    }
    for (name, kind) in [("b", Kind::Failed), ("c", Kind::Unreachable), ("d", Kind::Foreign)] {
        change(&mut table, name, Event::ClaimFailed { problem: problem(kind), left: None }, 0);
    }
    change(&mut table, "e", Event::Claimed, 0);
    change(&mut table, "e", Event::Destroyed { of: None, ending: Ending::Unwanted }, 0);
    change(&mut table, "f", Event::ClaimFailed { problem: problem(Kind::Failed), left: Some(lease_id("s")) }, 0);
    let text = table.shortage(&TypeName::new("big")).to_string();
    assert_eq!(text, "1 busy, 2 being cleaned up, 1 failed, 1 unreachable, 1 used by another dispatcher");
    let unlisted = table.unlisted(at(20));
    let shown: Vec<_> = unlisted.iter().map(|one| (one.id.as_str(), one.state, one.detail.as_str())).collect();
    assert_eq!(
        shown,
        [
            ("b", "failed", "why; not used for 40 s"),
            ("c", "unreachable", "why; not used for 40 s"),
            ("d", "foreign", "why; not used for 40 s"),
            ("f", "cleaning", "clean-up is tried in 0 s"),
        ]
    );
    let given_up: Vec<_> = unlisted.iter().filter(|one| one.being_given_up).map(|one| one.id.as_str()).collect();
    assert_eq!(given_up, ["f"]);
    change(&mut table, "f", Event::CleaningBegan, 20);
    change(&mut table, "f", Event::CleaningFailed(problem(Kind::Unreachable)), 20);
    let unlisted = table.unlisted(at(20));
    let last = unlisted.last().expect("still f");
    assert_eq!((last.id.as_str(), last.state, last.being_given_up), ("f", "unreachable", true));
}

#[test]
fn clean_ups_begin_in_order_and_not_too_many() {
    let mut table = table(&[("a", "big"), ("b", "big"), ("c", "big")]);
    for (name, seconds) in [("a", 30), ("b", 10), ("c", 20)] {
        table.hosts.get_mut(name).expect("there").phase =
            Phase::Cleaning(Cleaning::new(lease("big"), true, at(seconds)));
    }
    let due = |table: &Table, at_once, seconds| {
        table.due_cleanings(at_once, at(seconds)).iter().map(ToString::to_string).collect::<Vec<_>>()
    };
    assert_eq!(due(&table, 16, 5), Vec::<String>::new());
    assert_eq!(due(&table, 16, 20), ["b", "c"]);
    assert_eq!(due(&table, 2, 30), ["b", "c"]);
    change(&mut table, "b", Event::CleaningBegan, 30);
    assert_eq!(due(&table, 2, 30), ["c"]);
    change(&mut table, "c", Event::CleaningBegan, 30);
    assert_eq!(due(&table, 2, 30), Vec::<String>::new());
    assert_eq!(table.next_due(at(20)), Some(at(30)));
    assert_eq!(table.next_due(at(30)), None, "what is due already waits for an end");
}

/// A hundred dead hosts hold up none that lives.
#[test]
fn first_tries_go_before_retries() {
    let dead: Vec<String> = (0..100).map(|number| format!("dead{number:03}")).collect();
    let mut hosts: Vec<(&str, &str)> = dead.iter().map(|name| (name.as_str(), "big")).collect();
    hosts.extend([("live1", "big"), ("live2", "big")]);
    let mut table = table(&hosts);
    for (name, _) in &hosts {
        let mut cleaning = Cleaning::new(lease("big"), true, at(10));
        if name.starts_with("dead") {
            (cleaning.failures, cleaning.due) = (1, at(1));
        }
        table.hosts.get_mut(*name).expect("there").phase = Phase::Cleaning(cleaning);
    }
    let due = |table: &Table, seconds| table.due_cleanings(16, at(seconds));
    assert_eq!(due(&table, 9).len(), 8, "half of the places for what failed before");
    let begin = |table: &mut Table, seconds| {
        for id in due(table, seconds) {
            change(table, id.as_str(), Event::CleaningBegan, seconds);
        }
    };
    begin(&mut table, 9);
    assert_eq!(due(&table, 9), Vec::<InstanceId>::new(), "those run already");
    assert_eq!(due(&table, 10).iter().map(ToString::to_string).collect::<Vec<_>>(), ["live1", "live2"]);
    begin(&mut table, 10);
    change(&mut table, "dead000", Event::CleaningFailed(problem(Kind::Unreachable)), 15);
    assert_eq!(due(&table, 15).iter().map(ToString::to_string).collect::<Vec<_>>(), ["dead008"]);
}

#[test]
fn another_set_and_damage_are_refused_with_the_reason() {
    let mut table = table(&[("a", "big")]);
    let read = |bytes: &[u8], set: &str| record::read(Some(bytes), vec![spec("a", "big")], set, times(0));
    let empty = record::write(&table, "theirs").expect("JSON");
    assert!(read(&empty, "ours").is_ok(), "nothing would be lost");
    change(&mut table, "a", Event::Chosen(lease("big")), 0);
    let bytes = record::write(&table, "theirs").expect("JSON");
    let error = read(&bytes, "ours").expect_err("theirs");
    assert!(error.contains("dispatcher theirs, we are ours") && error.contains("(a)"), "{error}");
    for (bytes, part) in [
        (&b"{"[..], "is damaged: EOF"),
        (b"{", "move the file away"),
        (br#"{"version":2,"set":"ours","hosts":{},"pins":{}}"#, "version 2"),
        (br#"{"version":1,"set":"ours","hosts":{"a":{}},"pins":{}}"#, "move the file away"),
    ] {
        let error = read(bytes, "ours").expect_err("bad");
        assert!(error.contains(part), "{error}");
    }
}

/// Something that happens, to a host by its number.
#[derive(Clone, Debug)]
enum Happening {
    Create { big: bool },
    Claim { host: usize, good: bool, touched: bool },
    Destroy { host: usize, faulty: bool },
    BeginCleanings,
    EndCleaning { host: usize, good: bool },
    List,
    Wait { seconds: u64 },
    Restart { without: Option<usize> },
}

fn happening() -> impl Strategy<Value = Happening> {
    let host = 0..NAMES.len();
    prop_oneof![
        3 => any::<bool>().prop_map(|big| Happening::Create { big }),
        3 => (host.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(host, good, touched)| Happening::Claim { host, good, touched }),
        2 => (host.clone(), any::<bool>()).prop_map(|(host, faulty)| Happening::Destroy { host, faulty }),
        3 => Just(Happening::BeginCleanings),
        3 => (host.clone(), any::<bool>()).prop_map(|(host, good)| Happening::EndCleaning { host, good }),
        2 => Just(Happening::List),
        2 => (0_u64..200).prop_map(|seconds| Happening::Wait { seconds }),
        1 => proptest::option::of(host).prop_map(|without| Happening::Restart { without }),
    ]
}

const NAMES: [&str; 3] = ["a", "b", "c"];

/// What is really there, beside what the table believes.
#[derive(Default)]
struct World {
    now: u64,
    /// Hosts with something of ours on them.
    dirty: BTreeSet<InstanceId>,
    /// Instances that the pool knows, until a list is made without them.
    known: BTreeSet<InstanceId>,
    /// Given out and not given back.
    out: BTreeSet<InstanceId>,
}

fn specs(without: Option<usize>) -> Vec<crate::cloud::static_hosts::HostSpec> {
    let named = NAMES.iter().enumerate().filter(|(number, _)| Some(*number) != without);
    named.map(|(number, name)| spec(name, if number % 2 == 0 { "big" } else { "small" })).collect()
}

impl World {
    fn happen(&mut self, table: &mut Table, happening: &Happening) {
        match happening {
            Happening::Create { big } => self.create(table, if *big { "big" } else { "small" }),
            Happening::Claim { host, good, touched } => {
                let id = InstanceId::new(NAMES[*host]);
                let claiming = table.hosts.get(&id).is_some_and(|host| matches!(host.phase, Phase::Claiming(_)));
                let failed =
                    Event::ClaimFailed { problem: problem(Kind::Failed), left: touched.then(|| lease_id("s")) };
                self.event(table, &id, if *good { Event::Claimed } else { failed });
                if claiming && (*good || *touched) {
                    self.dirty.insert(id.clone());
                }
                match (claiming, *good) {
                    (true, true) => drop(self.known.insert(id)),
                    (true, false) => drop(self.out.remove(&id)),
                    (false, _) => {}
                }
            }
            Happening::Destroy { host, faulty } => {
                let ending = if *faulty { Ending::Faulty(Fault::NotBooted) } else { Ending::Unwanted };
                self.event(table, &InstanceId::new(NAMES[*host]), Event::Destroyed { of: None, ending });
            }
            Happening::BeginCleanings => {
                for id in table.due_cleanings(2, at(self.now)) {
                    self.event(table, &id, Event::CleaningBegan);
                }
            }
            Happening::EndCleaning { host, good } => self.end_cleaning(table, &InstanceId::new(NAMES[*host]), *good),
            Happening::List => {
                let ids: Vec<InstanceId> = table.hosts.keys().cloned().collect();
                for id in ids {
                    self.event(table, &id, Event::ListMade);
                }
                self.known.retain(|id| table.hosts.get(id).is_some_and(|host| host.listed().is_some()));
            }
            Happening::Wait { seconds } => {
                self.now += seconds;
                for id in table.ended_pauses(at(self.now)) {
                    self.event(table, &id, Event::Tick);
                }
            }
            Happening::Restart { without } => {
                let bytes = record::write(table, "set").expect("JSON");
                *table = record::read(Some(&bytes), specs(*without), "set", times(self.now)).expect("ours");
                self.known.clear();
                // A create that was cut off may have done anything.
                for host in table.hosts.values() {
                    if let Phase::Cleaning(_) = host.phase {
                        self.dirty.insert(host.spec.id.clone());
                    }
                }
            }
        }
    }

    fn event(&self, table: &mut Table, id: &InstanceId, event: Event) {
        if let Some(host) = table.hosts.get_mut(id) {
            host.apply(event, at(self.now));
            if host.is_over() {
                table.hosts.remove(id);
            }
        }
    }

    fn create(&mut self, table: &mut Table, type_name: &str) {
        let Some(id) = table.free_host(&TypeName::new(type_name)) else { return };
        assert!(self.out.insert(id.clone()), "{id} is given to two");
        assert!(!self.dirty.contains(&id), "{id} is given out before it is clean");
        assert!(!self.known.contains(&id), "{id} comes back before anybody saw it go");
        assert!(table.hosts[&id].pause_end().is_none(), "{id} has a pause");
        self.event(table, &id, Event::Chosen(lease(type_name)));
    }

    fn end_cleaning(&mut self, table: &mut Table, id: &InstanceId, good: bool) {
        let running = table
            .hosts
            .get(id)
            .is_some_and(|host| matches!(&host.phase, Phase::Cleaning(cleaning) if cleaning.running));
        if !running {
            return;
        }
        if good {
            self.dirty.remove(id);
            self.out.remove(id);
        }
        let event = if good { Event::Cleaned } else { Event::CleaningFailed(problem(Kind::Unreachable)) };
        self.event(table, id, event);
    }

    /// After every event.
    fn check(&self, table: &Table) {
        for (id, host) in &table.hosts {
            let in_use = host.phase != Phase::Free;
            assert!(in_use || !self.dirty.contains(id), "{id} is free and not clean");
            assert!(!host.is_over(), "{id} should be dropped");
            if matches!(&host.phase, Phase::Cleaning(cleaning) if !cleaning.running) {
                assert!(host.dues().next().is_some(), "{id} is never cleaned up");
            }
        }
        assert!(self.dirty.iter().all(|id| table.hosts.contains_key(id)), "a host was forgotten that is not clean");
        let bytes = record::write(table, "set").expect("JSON");
        let again = record::read(Some(&bytes), specs(None), "set", times(self.now)).expect("ours");
        for (id, host) in &table.hosts {
            let taken = |host: &Host| match &host.phase {
                Phase::Taken(lease) => Some(lease.clone()),
                _ => None,
            };
            assert_eq!(taken(host), again.hosts.get(id).and_then(taken), "{id} after a restart");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 300 } else { 3000 }))]
    #[test]
    fn histories(happenings in proptest::collection::vec(happening(), 1..250)) {
        let mut table = record::read(None, specs(None), "set", times(0)).expect("nothing to read");
        let mut world = World::default();
        for happening in &happenings {
            world.happen(&mut table, happening);
            world.check(&table);
        }
        // When all goes well from now on, every host is free at last.
        for _ in 0..20 {
            for number in 0..NAMES.len() {
                for happening in [
                    Happening::Claim { host: number, good: true, touched: false },
                    Happening::Destroy { host: number, faulty: false },
                    Happening::BeginCleanings,
                    Happening::EndCleaning { host: number, good: true },
                    Happening::List,
                    Happening::Wait { seconds: 4000 },
                ] {
                    world.happen(&mut table, &happening);
                    world.check(&table);
                }
            }
        }
        assert!(table.hosts.values().all(Host::can_be_taken), "{table:?}");
        assert!(world.dirty.is_empty() && world.out.is_empty());
    }
}
