//! Five hundred times `kill -9`: runners, jobs, the daemon, and the command that brings results, all at random moments.
//!
//! Every container has to end exactly once, as its script says or as the kill of its job says, after as many attempts as runners of
//! it were killed; and nothing may be left anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::harness::{LIMIT, Site};
use crate::procs::{Kind, Victim, left, victims};
use crate::random::Random;
use crate::verdict;

/// Of each of the four kinds.
const KILLS_EACH: usize = 125;
/// Between two of those that are planned, at most.
const GAP: Duration = Duration::from_millis(200);
/// Containers of one submission.
const ARRAY: usize = 50;
/// Room for more than a submission's containers would be work that nobody kills.
const TYPES: &str = "InstanceTypes: {localhost: {VCPUs: 8, RAM: 64GiB, IncludedScratch: 100GiB, Price: 1}}\n";
/// Fetches of one container that are killed: each one doubles the pause before the next.
const COLLECTS_EACH: usize = 2;

/// `None`: the daemon.
type Target = Option<Kind>;

struct Battle {
    site: Site,
    random: Random,
    uuids: Vec<String>,
    /// The attempts that were hit, as often as they were.
    hits: BTreeMap<Target, Vec<(String, u64)>>,
}

/// What each job does: it says that this attempt runs, prints a little or two megabytes, sleeps up to half a second, and ends with its own
/// exit code.
fn script(site: &Site) -> String {
    let mark = format!("echo $MUSTER_ATTEMPT >> {}/$MUSTER_UUID", site.folder().join("runs").display());
    format!(
        "{mark}; echo begin $MUSTER_ARRAY_INDEX; \
         if [ $((MUSTER_ARRAY_INDEX % 2)) = 0 ]; then head -c {} /dev/zero; fi; \
         sleep 0.$((MUSTER_ARRAY_INDEX % 5 + 2)); echo end $MUSTER_ARRAY_INDEX; exit $((MUSTER_ARRAY_INDEX % 3))",
        verdict::BULK
    )
}

impl Battle {
    /// So many containers that kills find some: one submission more, if most have begun.
    fn reinforce(&mut self) {
        let begun = std::fs::read_dir(self.site.folder().join("runs")).expect("there").count();
        if begun + ARRAY / 2 < self.uuids.len() {
            return;
        }
        let (token, array) = (self.uuids.len().to_string(), format!("1-{ARRAY}"));
        let script = script(&self.site);
        let words = ["submit", "--token", &token, "--max-attempts", "50", "--array", &array, "--", "sh", "-c", &script];
        let mut text = String::new();
        self.site.wait_until("the daemon takes a submission", |site| {
            let output = site.run(&words);
            text = String::from_utf8(output.stdout).expect("text");
            output.status.success()
        });
        self.uuids.extend(text.lines().map(str::to_owned));
    }

    /// In a while; meanwhile fetches are killed as they come.
    fn kill(&mut self, target: Target) {
        let due = Instant::now() + self.random.below(GAP);
        while Instant::now() < due {
            self.intercept();
        }
        let Some(kind) = target else {
            self.site.kill_9();
            self.site.launch(&[]);
            self.hits.entry(None).or_default().push((String::new(), 0));
            return;
        };
        let until = Instant::now() + LIMIT;
        while !self.kill_one(kind) {
            assert!(Instant::now() < until, "nobody to kill: {kind:?}\n{}", self.site.log());
            self.intercept();
        }
    }

    /// Kills a fetch, if one is under way and not all have been killed that are to be.
    fn intercept(&mut self) {
        self.reinforce();
        let wanted = self.hits.get(&Some(Kind::Collect)).map_or(0, Vec::len) < KILLS_EACH;
        if !wanted || !self.kill_one(Kind::Collect) {
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }

    fn kill_one(&mut self, kind: Kind) -> bool {
        let Some(victim) = self.choose(kind) else { return false };
        self.random.pause(match kind {
            Kind::Runner | Kind::Job => Duration::from_millis(100),
            Kind::Collect => Duration::from_millis(3),
        });
        let hit = victim.kill();
        if hit {
            self.hits.entry(Some(kind)).or_default().push((victim.uuid, victim.attempt));
        }
        hit
    }

    fn choose(&mut self, kind: Kind) -> Option<Victim> {
        let mut found = victims(self.site.folder(), kind);
        if kind == Kind::Collect {
            let hits = self.hits.get(&Some(kind)).map(Vec::as_slice).unwrap_or_default();
            found.retain(|victim| hits.iter().filter(|(uuid, _)| *uuid == victim.uuid).count() < COLLECTS_EACH);
        }
        (!found.is_empty()).then(|| found.swap_remove(self.random.index(found.len())))
    }

    fn hit(&self, kind: Kind) -> BTreeSet<(String, u64)> {
        self.hits.get(&Some(kind)).into_iter().flatten().cloned().collect()
    }
}

/// In an order that nobody has planned. Fetches are not in it: they are too short to be waited for.
fn orders(random: &mut Random) -> Vec<Target> {
    let kinds = [None, Some(Kind::Runner), Some(Kind::Job)];
    let mut orders: Vec<Target> = kinds.into_iter().flat_map(|kind| [kind; KILLS_EACH]).collect();
    for last in (1..orders.len()).rev() {
        orders.swap(last, random.index(last + 1));
    }
    orders
}

#[test]
fn five_hundred_kills() {
    let mut random = Random::new();
    let orders = orders(&mut random);
    let mut site = Site::with(TYPES);
    site.start();
    let mut battle = Battle { site, random, uuids: Vec::new(), hits: BTreeMap::new() };
    for target in orders {
        battle.kill(target);
    }
    let until = Instant::now() + LIMIT;
    while battle.hits.get(&Some(Kind::Collect)).map_or(0, Vec::len) < KILLS_EACH {
        assert!(Instant::now() < until, "no fetch to kill\n{}", battle.site.log());
        battle.intercept();
    }
    for (target, hits) in &battle.hits {
        assert_eq!(hits.len(), KILLS_EACH, "{target:?}");
    }
    assert_eq!(battle.hits.len(), 4);
    let site = &mut battle.site;
    site.wait_until("the daemon answers", |site| site.run(&["status"]).status.success());
    site.wait_until("all have ended", |site| {
        let counts = site.json(&["status"])["containers"].clone();
        ["Queued", "Locked", "Running"].iter().all(|state| counts[state].as_u64().unwrap_or(0) == 0)
    });
    // A fetch that is cut off is noticed, unless the daemon that wanted it was killed as well.
    let noticed = battle.site.log().matches("collecting the result failed").count();
    assert!(noticed >= KILLS_EACH / 2, "{noticed} of {KILLS_EACH}");
    verdict::of_containers(&battle.site, &battle.uuids, &battle.hit(Kind::Runner), &battle.hit(Kind::Job));
    let site = &mut battle.site;
    site.wait_until("the worker is clean", |site| verdict::leftovers(site).is_empty());
    site.stop();
    let (folder, uuids) = (battle.site.folder().to_owned(), &battle.uuids);
    battle.site.wait_until("no process is left", |_| left(&folder, uuids).is_empty());
}
