//! The suite over a cloud in memory in which every few calls fail, by every class, before or after they did what they were asked for,
//! and whose lists are late. It tries the suite itself, and that the wrapper of all drivers passes everything on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use muster::cloud::boot::Boot;
use muster::cloud::instrumented::Instrumented;
use muster::cloud::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits};
use muster::core::effect::{Ending, Tags};
use muster::core::ids::{InstanceId, InstanceSecret};
use muster::core::instance_type::{InstanceType, PricePoint};
use muster::core::pool::limits::CapacityScope;
use parking_lot::Mutex;

use crate::contract;
use crate::rig::{Reach, Rig, class};
use crate::support::{instance_type, log};

/// Lists that pass until a change is seen.
const LATE: u64 = 2;

#[derive(Debug)]
struct Machine {
    now: CloudInstance,
    /// What lists show until they are late no more, and from which list on they show what is.
    shown: Option<CloudInstance>,
    seen_from: u64,
    gone: bool,
}

#[derive(Debug, Default)]
struct State {
    machines: BTreeMap<InstanceId, Machine>,
    calls: u64,
    lists: u64,
    injected: BTreeMap<&'static str, u64>,
}

/// The cloud; drivers are handles of it.
#[derive(Debug)]
struct Cloud {
    state: Mutex<State>,
    /// Every so many calls one fails. 0: none does, and nothing is late.
    every: u64,
    /// What this driver does wrong, one of [`DEFECTS`]; empty: nothing.
    defect: &'static str,
}

/// Each is a way not to keep the contract.
const DEFECTS: [&str; 10] = [
    "create forgets the tags",
    "create makes two",
    "lists are late",
    "a list has one twice",
    "a list leaves out what has the tags that are asked for",
    "a list shows what nobody ordered",
    "a destroy of what is not there fails",
    "a destroy hides it only",
    "prices are oldest first",
    "another user after the create",
];

#[derive(Debug)]
struct Driver(Arc<Cloud>);

impl Cloud {
    /// What this call fails with, and whether it does first what it was asked for.
    fn fault(&self) -> Option<(CloudError, bool)> {
        let mut state = self.state.lock();
        state.calls += 1;
        let number = state.calls.checked_div(self.every).filter(|_| state.calls.is_multiple_of(self.every))?;
        let message = format!("injected into call {}", state.calls);
        let error = match number % 5 {
            0 => CloudError::RateLimit { message, retry_after: Duration::from_millis(1) },
            1 => CloudError::Quota { message },
            2 => CloudError::Capacity { message, scope: CapacityScope::Group },
            _ => CloudError::Other { message, source: None },
        };
        *state.injected.entry(class(&error)).or_default() += 1;
        Some((error, number.is_multiple_of(2)))
    }

    fn call<T>(&self, act: impl FnOnce(&mut State, u64) -> T) -> Result<T, CloudError> {
        let fault = self.fault();
        // Others get between a call's begin and its end.
        std::thread::yield_now();
        let act = || {
            let mut state = self.state.lock();
            let is_late = self.every != 0 || self.defect == "lists are late";
            let seen_from = state.lists + if is_late { LATE } else { 0 };
            act(&mut state, seen_from)
        };
        match fault {
            None => Ok(act()),
            Some((error, true)) => {
                act();
                Err(error)
            }
            Some((error, false)) => Err(error),
        }
    }
}

impl InstanceSet for Driver {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        self.0.call(|state, seen_from| {
            let mut now = CloudInstance {
                id: InstanceId::new(&format!("stub-{}", new.secret.reveal())),
                provider_type: new.instance_type.provider_type.clone(),
                address: "192.0.2.1".to_owned(),
                remote_user: "root".to_owned(),
                tags: new.tags.clone(),
            };
            match self.0.defect {
                "create forgets the tags" => now.tags = Tags::new(),
                "create makes two" => {
                    let more = CloudInstance { id: InstanceId::new(&format!("{}-2", now.id)), ..now.clone() };
                    state.machines.insert(more.id.clone(), Machine { now: more, shown: None, seen_from, gone: false });
                }
                _ => {}
            }
            let machine = Machine { now: now.clone(), shown: None, seen_from, gone: false };
            state.machines.insert(now.id.clone(), machine);
            now
        })
    }

    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        self.0.call(|state, _| {
            let number = state.lists;
            state.lists += 1;
            let seen = |machine: &Machine| machine.seen_from <= number;
            let is_hidden = |machine: &Machine| machine.gone && seen(machine);
            if self.0.defect != "a destroy hides it only" {
                state.machines.retain(|_, machine| !is_hidden(machine));
            }
            let shown = |machine: &Machine| {
                if seen(machine) { Some(machine.now.clone()) } else { machine.shown.clone() }
            };
            let mut all: Vec<CloudInstance> =
                state.machines.values().filter(|machine| !is_hidden(machine)).filter_map(shown).collect();
            match self.0.defect {
                "a list has one twice" => all.extend(all.first().cloned()),
                "a list leaves out what has the tags that are asked for" if tags.contains_key("mine") => all.clear(),
                "a list shows what nobody ordered" => {
                    all.iter_mut().for_each(|one| drop(one.tags.insert("ArvadosInstanceSecret".into(), "x".into())));
                }
                "another user after the create" => all.iter_mut().for_each(|one| one.remote_user = "admin".to_owned()),
                _ => {}
            }
            all
        })
    }

    fn destroy(&self, id: &InstanceId, _secret: Option<&InstanceSecret>, _ending: Ending) -> Result<(), CloudError> {
        let is_there = self.0.state.lock().machines.contains_key(id);
        if self.0.defect == "a destroy of what is not there fails" && !is_there {
            return Err(CloudError::Other { message: "no such instance".to_owned(), source: None });
        }
        self.0.call(|state, seen_from| {
            if let Some(machine) = state.machines.get_mut(id).filter(|machine| !machine.gone) {
                *machine =
                    Machine { shown: Some(machine.now.clone()), now: machine.now.clone(), seen_from, gone: true };
            }
        })
    }

    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        self.0.call(|state, seen_from| {
            if let Some(machine) = state.machines.get_mut(id).filter(|machine| !machine.gone) {
                machine.shown = Some(machine.now.clone());
                machine.now.tags = tags.clone();
                machine.seen_from = seen_from;
            }
        })
    }

    fn quota_group(&self, instance_type: &InstanceType) -> String {
        instance_type.name.clone()
    }

    fn traits(&self) -> Traits {
        Traits { calls_provider: true, ..Traits::default() }
    }

    fn price_history(&self, id: &InstanceId, _instance_type: &InstanceType) -> Vec<PricePoint> {
        let mut points = [(3, 0.5), (2, 0.25), (1, 0.5)].map(|(since, price)| PricePoint { since, price });
        if self.0.defect == "prices are oldest first" {
            points.reverse();
        }
        if self.0.state.lock().machines.contains_key(id) { points.to_vec() } else { Vec::new() }
    }

    fn open(&self, _id: &InstanceId, _secret: Option<&InstanceSecret>) -> std::io::Result<Access> {
        Err(std::io::ErrorKind::Unsupported.into())
    }
}

fn check(every: u64, defect: &'static str) {
    log();
    let cloud = Arc::new(Cloud { state: Mutex::default(), every, defect });
    let counted = Arc::new(AtomicU64::new(0));
    let (cloud_of_driver, count) = (cloud.clone(), counted.clone());
    let open = move || -> Arc<dyn InstanceSet> {
        let count = count.clone();
        let count = move |_: &'static str, failed| {
            count.fetch_add(u64::from(failed), Ordering::SeqCst);
        };
        Arc::new(Instrumented::around(Arc::new(Driver(cloud_of_driver.clone())), Arc::new(count)))
    };
    let cloud_left = cloud.clone();
    let leftovers = move || {
        let state = cloud_left.state.lock();
        let is_left = |machine: &&Machine| !machine.gone || cloud_left.defect == "a destroy hides it only";
        state.machines.values().filter(is_left).map(|machine| machine.now.id.to_string()).collect()
    };
    let rig = Rig {
        name: "stub",
        open: Box::new(open),
        shared: true,
        instance_type: instance_type("stub"),
        boot: Boot::default(),
        full: None,
        reach: Reach::Nothing,
        prices: true,
        unknown_id: "stub-none",
        faulty: every > 0,
        leftovers: Box::new(leftovers),
        errors: Default::default(),
    };
    contract::check(&rig);
    // Every error came back as what it was, and was counted.
    let (came, injected) = (rig.errors.lock().clone(), cloud.state.lock().injected.clone());
    assert_eq!(came, injected, "every {every}");
    assert_eq!(counted.load(Ordering::SeqCst), injected.values().sum::<u64>());
    assert!(every == 0 || every > 7 || injected.len() == 4, "{injected:?}");
}

#[test]
fn without_faults_the_stub_keeps_the_contract() {
    check(0, "");
}

#[test]
fn the_contract_holds_under_faults() {
    for every in [2, 3, 4, 5, 7, 11] {
        check(every, "");
    }
}

/// The suite finds what it is for: a driver with a defect does not pass.
#[test]
fn drivers_with_defects_do_not_pass() {
    for defect in DEFECTS {
        let result = std::panic::catch_unwind(|| check(0, defect));
        assert!(result.is_err(), "not found: {defect}");
    }
}
