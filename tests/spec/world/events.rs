//! The language of events: each word and what it calls.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use muster::core::effect::{RunnerOrder, Tags};
use muster::core::ids::{Attempt, ContainerUuid, InstanceId, InstanceSecret, TypeName};
use muster::core::pool::create::InstanceReport;
use muster::core::pool::invariants::{self, Cause};
use muster::core::pool::limits::{CallKind, CapacityScope, CloudRefusal};
use muster::core::vocabulary::{IdleBehavior, WorkerState};
use muster::core::worker::collect::{CollectReturn, StorageFault};
use muster::core::worker::diagram::Event;
use muster::core::worker::facts::HostFacts;
use muster::core::worker::kill::KillReturn;
use muster::core::worker::listing;
use muster::core::worker::round::{RoundReport, When};
use muster::core::worker::running::StartReturn;

use super::{World, id, show};

impl World {
    /// One event. An answer to an order that was never given is nothing.
    pub(super) fn event(&mut self, event: &str) {
        let (verb, rest) = event.split_once(' ').unwrap_or((event, ""));
        let words: Vec<&str> = rest.split_whitespace().collect();
        self.event = kind(verb);
        match verb {
            "list" | "begin-list" | "create" | "created" | "failed" | "freed" | "throttle" | "fault" | "nofault" => {
                self.cloud_event(verb, &words);
            }
            // In service: listed, and a good round of each.
            "up" => {
                self.run(&format!("list {rest}"));
                for word in &words {
                    self.run(&format!("probe {} ok", word.split(':').next().unwrap_or(word)));
                }
            }
            // A create that succeeded: `booting 1 i1`.
            "booting" => self.run(&format!("create t; created {rest}")),
            "begin" | "end" | "probe" | "connect" | "tick" => self.probe_event(verb, &words, rest),
            // What the host of the next round's end says it has: CPUs, RAM, scratch.
            "facts" => {
                let [cpus, ram, scratch] = [0, 1, 2].map(|at| words[at].parse().expect("a number"));
                self.facts = Some(HostFacts { cpus, ram, scratch });
            }
            "wait" | "jump" => self.pass(verb, seconds(words[0])),
            "plain" | "max" | "ops" | "cheap" | "bigger" | "own" => {
                self.change_setting(verb, words.first().copied().unwrap_or("0"))
            }
            "reset" => {
                self.step(Cause::Other, |pool, _, effects| pool.reset_breaker(&TypeName::new(words[0]), effects));
            }
            "run" | "hold" | "drain" => {
                let behavior = IdleBehavior::parse(verb).expect("one of the three");
                let done = self.step(Cause::Other, |pool, now, effects| {
                    pool.set_idle_behavior(&id(words[0]), behavior, now, effects)
                });
                self.refused(done == Some(true));
            }
            "shutdown" => {
                let done = self.step(Cause::Other, |pool, now, effects| pool.shutdown(&id(words[0]), now, effects));
                self.refused(done);
            }
            "destroy" => {
                let done = self.step(Cause::InstanceKilled, |pool, now, effects| {
                    pool.kill_instance(&id(words[0]), "asked", now, effects)
                });
                self.refused(done);
            }
            _ => self.container_event(verb, &words),
        }
    }

    /// `start i1 a` · `kill [i1] a` · `forget a` · `ruleout i1 a` · and the answers to orders.
    fn container_event(&mut self, verb: &str, words: &[&str]) {
        let Some((uuid, attempt)) = words.last().map(|word| container(word)) else {
            panic!("{verb} names no container");
        };
        let done = match verb {
            "start" => self.step(Cause::Other, |pool, now, effects| {
                pool.start_container(&id(words[0]), &uuid, attempt, now, effects)
            }),
            "kill" => {
                let instance = (words.len() > 1).then(|| id(words[0]));
                self.step(Cause::Other, |pool, now, effects| {
                    pool.kill_container(&uuid, instance.as_ref(), "asked", now, effects)
                })
            }
            "ruleout" => {
                self.step(Cause::Other, |pool, now, effects| pool.rule_out(&uuid, attempt, &id(words[0]), now, effects))
            }
            "forget" => self.step(Cause::Other, |pool, _, effects| {
                pool.forget_container(&uuid, effects);
                true
            }),
            _ => {
                self.answer(verb, &show::letter(&uuid));
                true
            }
        };
        self.refused(done);
    }

    /// The answer to the last order of its kind for the container, on each worker that was given one.
    fn answer(&mut self, verb: &str, letter: &str) {
        let kind = match verb {
            "returned" | "unknown" | "refused" => "start",
            "gone" | "alive" => "kill",
            "collected" | "uncollected" | "storage" | "full" | "forgotten" => "collect",
            "reaped" | "unreaped" => "reap",
            _ => panic!("no such event: {verb}"),
        };
        let orders = self.orders.get(&(kind, letter.to_owned())).cloned().unwrap_or_default();
        for order in orders.values() {
            self.answer_to(verb, order);
        }
    }

    fn answer_to(&mut self, verb: &str, order: &RunnerOrder) {
        self.step(Cause::Other, |pool, now, effects| match verb {
            "returned" => pool.start_returned(order, StartReturn::Settled, now, effects),
            "unknown" => pool.start_returned(order, StartReturn::Unknown, now, effects),
            "refused" => pool.start_refused(order, now, effects),
            "gone" => pool.kill_returned(order, KillReturn::Gone, now, effects),
            "alive" => pool.kill_returned(order, KillReturn::Failed, now, effects),
            "collected" => pool.collect_returned(order, CollectReturn::Done, now, effects),
            "uncollected" => pool.collect_returned(order, CollectReturn::Failed, now, effects),
            "full" => {
                pool.collect_returned(order, CollectReturn::StorageFailed(Some(StorageFault::Full)), now, effects)
            }
            "storage" => pool.collect_returned(order, CollectReturn::StorageFailed(None), now, effects),
            "forgotten" => pool.forget_returned(order, now, effects),
            _ => pool.reap_returned(order, verb == "reaped", now, effects),
        });
    }

    /// `list i1 i2:hold` (a complete list; words after `:` say how the cloud shows it) · `begin-list` (the next one began now) ·
    /// `create t` · `created 1 i1` · `failed 1 quota` · `freed t` (a machine) · `throttle list 30` · `fault` and `nofault` (of the runner binary).
    fn cloud_event(&mut self, verb: &str, words: &[&str]) {
        match verb {
            "list" => {
                let listed: BTreeMap<_, _> = words.iter().map(|word| self.report(word)).collect();
                let began = self.list_began.take().unwrap_or(self.now);
                self.step(Cause::ListApplied, |pool, now, effects| pool.apply_list(began, &listed, now, effects));
                self.demand(invariants::check_list(&listed, &self.pool));
            }
            "freed" => {
                self.step(Cause::Other, |pool, now, effects| {
                    pool.capacity_freed(&TypeName::new(words[0]), now, effects);
                });
            }
            "begin-list" => self.list_began = Some(self.now),
            "create" => {
                let secret = InstanceSecret::new(&format!("s{}", self.creates.len() + 1));
                let done = self.step(Cause::Other, |pool, now, effects| {
                    pool.create(&TypeName::new(words[0]), secret, now, effects)
                });
                self.refused(done.is_some());
            }
            "created" => {
                let number: usize = words[0].parse().expect("number of a create");
                let (name, how) = words[1].split_once(':').unwrap_or((words[1], ""));
                let (instance, report) = self.report(&format!("{name}:s{number},{how}"));
                if let Some(operation) = self.creates.get(number - 1).copied() {
                    self.step(Cause::Other, |pool, now, effects| {
                        pool.create_succeeded(operation, &instance, &report, now, effects);
                    });
                }
            }
            "failed" => {
                let refusal = self.refusal(&words[1..]);
                if let Some(operation) = self.creates.get(words[0].parse::<usize>().expect("a number") - 1).copied() {
                    self.step(Cause::Other, |pool, now, effects| {
                        pool.create_failed(operation, &refusal, "no", now, effects);
                    });
                }
            }
            "throttle" => {
                let kind = if words[0] == "list" { CallKind::List } else { CallKind::Create };
                let until = self.now + seconds(words[1]);
                self.step(Cause::Other, |pool, now, effects| pool.suspend_calls(kind, until, now, effects));
            }
            _ => self.step(Cause::Other, |pool, _, effects| {
                pool.set_runner_fault((verb == "fault").then(|| "no such file".to_owned()), effects);
            }),
        }
    }

    fn refusal(&self, words: &[&str]) -> CloudRefusal {
        match words[0] {
            "quota" => CloudRefusal::Quota,
            "type" => CloudRefusal::Capacity(CapacityScope::Type),
            "group" => CloudRefusal::Capacity(CapacityScope::Group),
            "all" => CloudRefusal::Capacity(CapacityScope::Everything),
            "rate" => CloudRefusal::RateLimit { until: self.now + seconds(words[1]) },
            "past" => CloudRefusal::RateLimit { until: self.now - seconds("5") },
            _ => CloudRefusal::Other,
        }
    }

    /// `i1:hold,noaddr`: remembered, so that a later `i1` alone looks the same. A tag that we saved is what the cloud reports.
    fn report(&mut self, word: &str) -> (InstanceId, InstanceReport) {
        let (name, how) = word.split_once(':').unwrap_or((word, ""));
        let fresh = InstanceReport {
            address: format!("{name}.example:22"),
            remote_user: "root".to_owned(),
            provider_type: "p1".to_owned(),
            tags: Tags::from_iter([("ArvadosInstanceType".to_owned(), "t".to_owned())]),
        };
        let report = self.reports.entry(id(name)).or_insert(fresh);
        for flag in how.split(',').filter(|flag| !flag.is_empty()) {
            let tag = match flag {
                "run" | "hold" | "drain" | "sideways" => ("IdleBehavior", flag),
                "oldtype" => ("InstanceType", "removed"),
                "noaddr" => {
                    report.address.clear();
                    continue;
                }
                "addr" | "moved" => {
                    report.address = format!("{name}.{flag}:22");
                    continue;
                }
                "untagged" => {
                    report.tags.clear();
                    continue;
                }
                secret => ("InstanceSecret", secret),
            };
            report.tags.insert(format!("Arvados{}", tag.0), tag.1.to_owned());
        }
        (id(name), report.clone())
    }

    /// `probe i1 ok a, b stale` = `begin i1; end i1 ok a, b stale`. How: `ok` (booted, a list), `noboot` (not booted, a list),
    /// `fail` (booted, no list), `dead` (neither); a round that may list only what has booted follows its plan. Lines are those of the runner; `a@2` adds its `#attempt` line.
    fn probe_event(&mut self, verb: &str, words: &[&str], rest: &str) {
        let instance = id(words[0]);
        match verb {
            "connect" => self.step(Cause::Other, |pool, now, effects| pool.connected(&instance, now, effects)),
            "tick" => self.step(Cause::Other, |pool, now, effects| pool.tick_worker(&instance, now, effects)),
            "begin" => self.begin_round(&instance),
            "end" => self.end_round(&instance, words[1], rest),
            _ => {
                self.begin_round(&instance);
                self.end_round(&instance, words[1], rest);
            }
        }
    }

    /// With the shell's guard: nothing if a round is in flight.
    fn begin_round(&mut self, instance: &InstanceId) {
        if !self.round_is_of_worker(instance)
            && let Some(plan) = self.pool.begin_round(instance, self.now)
        {
            self.rounds.insert(instance.clone(), plan);
        }
    }

    fn end_round(&mut self, instance: &InstanceId, how: &str, rest: &str) {
        let lines = rest.splitn(3, ' ').nth(2).unwrap_or("");
        let facts = self.facts.take();
        let Some(plan) = self.rounds.remove(instance) else {
            return;
        };
        let booted = matches!(how, "ok" | "fail");
        let may_list = booted || plan.run_probe == When::Always;
        let lists = may_list && matches!(how, "ok" | "noboot");
        let report = RoundReport {
            booted,
            boot_stderr: "not yet".to_owned(),
            last_error: Some("refused".to_owned()),
            facts,
            listing: lists.then(|| listing_of(lines)),
        };
        let is_unknown = self.pool.worker(instance).is_some_and(|worker| worker.state == WorkerState::Unknown);
        let failed = !lists || (is_unknown && !booted && lines.trim().is_empty());
        self.event = Some(if failed { Event::ProbeFailed } else { Event::Probed });
        let before = self.pool.worker(instance).filter(|worker| worker.appeared <= plan.began).cloned();
        let next =
            self.step(Cause::Other, |pool, now, effects| pool.finish_round(instance, &plan, &report, now, effects));
        self.next_round = Some(next);
        if let Some(before) = before {
            self.demand(invariants::check_round(&before, &plan, &self.pool));
        }
    }

    /// `wait 60`: every deadline on the way is handled in its time. `jump 60`: the clock jumps, then all are handled.
    fn pass(&mut self, verb: &str, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.pool.next_deadline().filter(|at| *at <= end && verb == "wait") {
            self.now = self.now.max(at);
            self.step(Cause::Other, |pool, now, effects| pool.tick(now, effects));
        }
        self.now = end;
        self.step(Cause::Other, |pool, now, effects| pool.tick(now, effects));
    }

    /// `plain` (a runner that keeps no results) · `max 3` (MaxInstances) · `ops 1` (MaxConcurrentInstanceCreateOps) · `cheap` ·
    /// `bigger` (type `t`) · `own` (machines of a type have nothing in common).
    fn change_setting(&mut self, name: &str, value: &str) {
        let value = value.parse().expect("a number");
        match name {
            "plain" => self.settings.runner_keeps_results = false,
            "max" => self.settings.max_instances = value,
            "ops" => self.settings.max_concurrent_create_ops = value,
            "own" => self.settings.instances_alike = false,
            "bigger" => {
                if let Some(known) = self.types.get_mut("t") {
                    Arc::make_mut(known).vcpus += 1;
                }
            }
            _ => self.settings.cheap_list = true,
        }
        let (settings, types) = (self.settings.clone(), self.types.clone());
        self.step(Cause::Other, |pool, _, effects| pool.reconfigure(settings, types, effects));
    }
}

/// The kind of an event by its word, if it can change a worker's state.
fn kind(verb: &str) -> Option<Event> {
    Some(match verb {
        "list" => Event::Listed,
        "created" => Event::CreateReturned,
        "start" => Event::Started,
        "refused" => Event::StartRefused,
        "ruleout" => Event::RuledOut,
        "gone" => Event::KillReturned,
        "collected" | "forgotten" => Event::Collected,
        "run" | "hold" | "drain" => Event::BehaviorSet,
        "tick" => Event::Tick,
        "wait" | "jump" => Event::DeadlinePassed,
        "shutdown" => Event::RoomWanted,
        "destroy" => Event::InstanceKilled,
        _ => return None,
    })
}

/// `a` or `a@2`.
fn container(word: &str) -> (ContainerUuid, Attempt) {
    let (letter, attempt) = word.split_once('@').unwrap_or((word, "1"));
    let uuid = ContainerUuid::parse(&format!("local-dz642-00000000000000{letter}")).expect("one letter");
    (uuid, attempt.parse().expect("a number"))
}

fn listing_of(lines: &str) -> listing::Listing {
    let mut text = String::new();
    for line in lines.split(',').map(str::trim).filter(|line| !line.is_empty()) {
        let (word, state) = line.split_once(' ').unwrap_or((line, ""));
        if word == "broken" {
            text += "broken\n";
            continue;
        }
        let (uuid, attempt) = container(word);
        text += &format!("{uuid} {state}\n#attempt {uuid} {attempt}\n");
    }
    listing::parse((text + "# t1\n").as_bytes(), "local", true).expect("complete")
}

fn seconds(word: &str) -> Duration {
    Duration::from_secs_f64(word.parse().expect("seconds"))
}
