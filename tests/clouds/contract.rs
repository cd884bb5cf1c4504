//! The contract of drivers (spec 40 §2, §3, §8), as functions over a [`Rig`].

use std::sync::Barrier;
use std::time::Instant;

use muster::cloud::CloudInstance;
use muster::core::effect::Tags;
use muster::core::ids::{InstanceId, InstanceSecret};
use muster::remote::{Command, ExecuteError, Lane, Output, Program};

use crate::rig::{Caller, Reach, Rig};
use crate::support::{LIMIT, new_secret, wait_until};

/// More do not find more.
const CROWD: usize = 4;

/// Everything, one after the other on the same cloud.
pub(crate) fn check(rig: &Rig) {
    one_life(rig);
    nothing_is_there_any_more(rig);
    crowd(rig);
    restart(rig);
    full(rig);
    stopped(rig);
    Caller::new(rig).remove_all();
}

fn has_all(one: &CloudInstance, tags: &Tags) -> bool {
    tags.iter().all(|(name, value)| one.tags.get(name) == Some(value))
}

fn ordered_tags(rig: &Rig, secret: &InstanceSecret) -> Tags {
    crate::support::order(&rig.boot, &rig.instance_type, secret).tags
}

fn with(tags: &Tags, name: &str, value: &str) -> Tags {
    let mut tags = tags.clone();
    tags.insert(name.to_owned(), value.to_owned());
    tags
}

/// Created, listed, reached, tagged, destroyed.
fn one_life(rig: &Rig) {
    let caller = Caller::new(rig);
    let (made, secret) = caller.create();
    assert!(!made.id.as_str().is_empty() && !made.remote_user.is_empty(), "{made:?}");
    assert_eq!(made.provider_type, rig.instance_type.provider_type);
    let tags = ordered_tags(rig, &secret);
    assert!(has_all(&made, &tags), "{}: {made:?}", rig.name);

    let listed = caller.listed(&made.id);
    assert!(has_all(&listed, &tags), "{}: {listed:?}", rig.name);
    assert_eq!((&listed.provider_type, &listed.remote_user), (&made.provider_type, &made.remote_user));
    if rig.shared {
        let other = Caller { ordered: caller.ordered.lock().clone().into(), ..Caller::new(rig) };
        assert!(has_all(&other.listed(&made.id), &tags), "{}: another process sees it", rig.name);
    }
    prices(&caller, &made.id);
    reached(&caller, &made.id, &secret);

    let changed = with(&tags, "ArvadosIdleBehavior", "drain");
    caller.set_tags(&made.id, &changed);
    wait_until("the tags are seen", || has_all(&caller.listed(&made.id), &changed));
    let caller = caller.restarted();
    wait_until("the tags are seen later", || has_all(&caller.listed(&made.id), &changed));

    caller.destroy(&made.id, Some(&secret));
    // Whether it is still listed or not.
    caller.destroy(&made.id, Some(&secret));
    caller.remove(&made.id);
    caller.destroy(&made.id, Some(&secret));
    caller.remove_all();
}

/// A destroy of what is not there is no error, and a list of nothing is empty.
fn nothing_is_there_any_more(rig: &Rig) {
    let caller = Caller::new(rig);
    caller.destroy(&InstanceId::new(rig.unknown_id), None);
    caller.destroy(&InstanceId::new(rig.unknown_id), Some(&new_secret()));
    assert!(caller.list().is_empty());
    assert!(caller.driver.price_history(&InstanceId::new(rig.unknown_id), &rig.instance_type).is_empty());
    let group = caller.driver.quota_group(&rig.instance_type);
    let traits = caller.driver.traits();
    assert!(traits.instances_max.is_none() || traits.instances_max == rig.full.map(|(most, _)| most));
    let again = caller.restarted();
    assert_eq!((again.driver.quota_group(&rig.instance_type), again.driver.traits()), (group, traits), "{}", rig.name);
}

/// Newest first, and each entry another price (spec 40 §8).
fn prices(caller: &Caller<'_>, id: &InstanceId) {
    let prices = caller.driver.price_history(id, &caller.rig.instance_type);
    assert_eq!(!prices.is_empty(), caller.rig.prices, "{}: {prices:?}", caller.rig.name);
    for pair in prices.windows(2) {
        assert!(pair[0].since > pair[1].since && pair[0].price != pair[1].price, "{}: {prices:?}", caller.rig.name);
    }
}

fn run(caller: &Caller<'_>, id: &InstanceId, secret: Option<&InstanceSecret>) -> Result<Output, ExecuteError> {
    let one = caller.listed(id);
    let access = caller.driver.open(id, secret).expect("a descriptor");
    access.executor.set_target(&one.address, &one.remote_user);
    let program = Program::Arguments(["echo", "in"].map(str::to_owned).to_vec());
    let command = Command { program, stdin: b"", open_until: None, deadline: Instant::now() + LIMIT };
    let result = access.executor.execute(Lane::Action, &command);
    access.executor.close();
    result
}

/// It gets an address, and a command runs there; not where it could be somebody else's machine.
fn reached(caller: &Caller<'_>, id: &InstanceId, secret: &InstanceSecret) {
    wait_until("it has an address", || !caller.listed(id).address.is_empty());
    if caller.rig.reach == Reach::Nothing {
        return;
    }
    let mut last = String::new();
    wait_until("a command runs there", || match run(caller, id, Some(secret)) {
        Ok(output) => {
            assert_eq!(String::from_utf8_lossy(&output.stdout), "in\n");
            true
        }
        Err(error) => {
            last = error.to_string();
            false
        }
    });
    if caller.rig.reach == Reach::BySecret {
        for wrong in [Some(new_secret()), None] {
            let result = run(caller, id, wrong.as_ref());
            assert!(matches!(result, Err(ExecuteError::HostKey { .. })), "{}: {result:?}", caller.rig.name);
        }
    }
}

/// Many threads at once: exactly as many instances as were made, each listed while it is there.
fn crowd(rig: &Rig) {
    let caller = Caller::new(rig);
    let count = rig.full.map_or(CROWD, |(most, _)| most.min(CROWD));
    let begin = Barrier::new(count + 2);
    std::thread::scope(|scope| {
        let creators: Vec<_> = (0..count)
            .map(|_| {
                scope.spawn(|| {
                    begin.wait();
                    let (made, secret) = caller.create();
                    let tags = with(&ordered_tags(rig, &secret), "mine", made.id.as_str());
                    assert!(caller.listed(&made.id).tags.get("ArvadosInstanceSecret").is_some());
                    caller.set_tags(&made.id, &tags);
                    (made.id, tags)
                })
            })
            .collect();
        for _ in 0..2 {
            scope.spawn(|| {
                begin.wait();
                (0..5).for_each(|_| assert!(caller.list().len() <= count || rig.faulty));
            });
        }
        let mut made: Vec<_> = creators.into_iter().map(|creator| creator.join().expect("no panic")).collect();
        wait_until("all show their tags", || {
            let all = caller.list();
            made.iter().all(|(id, tags)| all.get(id).is_some_and(|one| has_all(one, tags)))
        });
        let all = caller.list();
        // A create that failed may have made one more.
        assert!(all.len() == count || rig.faulty && all.len() >= count, "{}: {all:?}", rig.name);
        asked_by_tag(&caller, &made);
        made.dedup_by(|one, other| one.0 == other.0);
        assert_eq!(made.len(), count, "{}: ids are different", rig.name);
        for (id, _) in made {
            let caller = &caller;
            scope.spawn(move || caller.remove(&id));
        }
    });
    caller.remove_all();
}

/// A driver may ignore the tags that a list asks for; it may not leave out what has them.
fn asked_by_tag(caller: &Caller<'_>, made: &[(InstanceId, Tags)]) {
    if caller.rig.faulty {
        return;
    }
    for (id, tags) in made {
        let asked = with(&Tags::new(), "mine", &tags["mine"]);
        let all = caller.driver.list(&asked).expect("a list");
        assert!(all.iter().any(|one| one.id == *id), "{}: {id} has the tag: {all:?}", caller.rig.name);
    }
}

/// What there is outlives the dispatcher.
fn restart(rig: &Rig) {
    let caller = Caller::new(rig);
    let count = rig.full.map_or(2, |(most, _)| most.min(2));
    let made: Vec<_> = (0..count).map(|_| caller.create().0.id).collect();
    let before: Vec<_> = made.iter().map(|id| caller.listed(id)).collect();
    let caller = caller.restarted();
    for one in before {
        let after = caller.listed(&one.id);
        assert_eq!((&after.tags, &after.provider_type), (&one.tags, &one.provider_type), "{}", rig.name);
        assert_eq!(after.remote_user, one.remote_user);
        prices(&caller, &one.id);
    }
    caller.remove_all();
}

/// More than there can be are refused in a way that says so, and one that goes makes room.
fn full(rig: &Rig) {
    let Some((most, is_refusal)) = rig.full else { return };
    let caller = Caller::new(rig);
    let made: Vec<_> = (0..most).map(|_| caller.create().0.id).collect();
    for _ in 0..2 {
        let error = caller.try_create(&new_secret()).expect_err("there is no room");
        assert!(is_refusal(&error), "{}: {error:?}", rig.name);
        assert_eq!(caller.list().len(), most);
    }
    caller.remove(&made[0]);
    caller.create();
    assert_eq!(caller.list().len(), most);
    caller.remove_all();
}

/// A stop takes nothing away.
fn stopped(rig: &Rig) {
    let caller = Caller::new(rig);
    let (made, _) = caller.create();
    caller.listed(&made.id);
    caller.driver.stop();
    let caller = caller.restarted();
    caller.listed(&made.id);
    caller.remove_all();
}
