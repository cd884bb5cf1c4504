//! Every state with every event; pauses; what is listed and what can be taken.

use super::*;
use crate::core::effect::Fault;
use crate::core::ids::InstanceSecret;
use crate::remote::identity::HostKey;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIP7wl7ph/6MNRgATP0w+uDH49iBd43LFbVSi2z5sDBGT";

pub(in crate::cloud::static_hosts) fn spec(name: &str, type_name: &str) -> HostSpec {
    HostSpec {
        id: InstanceId::new(name),
        address: HostAddress::parse(name, 22).expect("an address"),
        user: "root".to_owned(),
        sudo: true,
        type_name: TypeName::new(type_name),
        provider_type: type_name.to_owned(),
        trust: HostTrust::Keys(vec![HostKey::parse(KEY).expect("a key")]),
    }
}

pub(in crate::cloud::static_hosts) fn lease(type_name: &str) -> Lease {
    let tags = Tags::from_iter([("ArvadosInstanceSecret".to_owned(), "s".to_owned())]);
    Lease { id: lease_id("s"), type_name: TypeName::new(type_name), provider_type: type_name.to_owned(), tags }
}

pub(in crate::cloud::static_hosts) fn lease_id(secret: &str) -> LeaseId {
    LeaseId::of(&InstanceSecret::new(secret))
}

fn problem(kind: Kind) -> Problem {
    Problem { kind, detail: "why".to_owned() }
}

fn at(seconds: u64) -> Moment {
    Moment::since_start(Duration::from_secs(seconds))
}

fn host(phase: Phase) -> Host {
    Host::new(spec("a", "big"), true, phase)
}

fn states() -> [(&'static str, Host); 7] {
    let cleaning =
        |listed, running| Phase::Cleaning(Cleaning { running, ..Cleaning::new(lease("big"), listed, at(0)) });
    let paused =
        Host { trouble: Some(Trouble { problem: problem(Kind::Foreign), until: Some(at(500)) }), ..host(Phase::Free) };
    [
        ("free", host(Phase::Free)),
        ("paused", paused),
        ("claiming", host(Phase::Claiming(lease("big")))),
        ("taken", host(Phase::Taken(lease("big")))),
        ("going", host(cleaning(true, false))),
        ("cleaned", host(cleaning(true, true))),
        ("unreachable", host(cleaning(false, true))),
    ]
}

/// The state's name after an event.
fn name(host: &Host) -> &'static str {
    match &host.phase {
        Phase::Free if host.pause_end().is_some() => "paused",
        Phase::Free if host.unseen => "unseen",
        Phase::Free => "free",
        Phase::Claiming(_) => "claiming",
        Phase::Taken(_) => "taken",
        Phase::Cleaning(Cleaning { listed: true, running: false, .. }) => "going",
        Phase::Cleaning(Cleaning { listed: true, running: true, .. }) => "cleaned",
        Phase::Cleaning(Cleaning { listed: false, running: true, .. }) => "unreachable",
        Phase::Cleaning(Cleaning { listed: false, running: false, .. }) => "waiting",
    }
}

/// Each row: an event, and what it makes of the states above in their order.
#[test]
fn every_state_with_every_event() {
    let failed = |left: bool| Event::ClaimFailed { problem: problem(Kind::Failed), left: left.then(|| lease_id("s")) };
    let destroyed = |of: &str, ending| Event::Destroyed { of: Some(lease_id(of)), ending };
    let same = ["free", "paused", "claiming", "taken", "going", "cleaned", "unreachable"];
    let rows: [(Event, [&str; 7]); 15] = [
        (Event::Chosen(lease("big")), ["claiming", "paused", "claiming", "taken", "going", "cleaned", "unreachable"]),
        (Event::Claimed, ["free", "paused", "taken", "taken", "going", "cleaned", "unreachable"]),
        (failed(false), ["free", "paused", "paused", "taken", "going", "cleaned", "unreachable"]),
        (failed(true), ["free", "paused", "waiting", "taken", "going", "cleaned", "unreachable"]),
        (Event::TagsSet { of: Some(lease_id("s")), tags: Tags::new() }, same),
        (destroyed("s", Ending::Unwanted), ["free", "paused", "claiming", "going", "going", "cleaned", "unreachable"]),
        (
            destroyed("s", Ending::Faulty(Fault::Broken)),
            ["free", "paused", "claiming", "going", "going", "cleaned", "unreachable"],
        ),
        (destroyed("of another life", Ending::Faulty(Fault::Broken)), same),
        (Event::CleaningBegan, ["free", "paused", "claiming", "taken", "cleaned", "cleaned", "unreachable"]),
        (Event::Cleaned, ["free", "paused", "claiming", "taken", "going", "unseen", "free"]),
        (Event::NotOurs(problem(Kind::Foreign)), ["free", "paused", "claiming", "taken", "going", "paused", "paused"]),
        (
            Event::CleaningFailed(problem(Kind::Unreachable)),
            ["free", "paused", "claiming", "taken", "going", "waiting", "waiting"],
        ),
        (Event::ListMade, same),
        (Event::Tick, same),
        (Event::Corrected, ["free", "free", "claiming", "taken", "going", "cleaned", "unreachable"]),
    ];
    for (event, expected) in rows {
        for ((state, host), expected) in states().into_iter().zip(expected) {
            let mut after = host.clone();
            after.apply(event.clone(), at(100));
            assert_eq!(name(&after), expected, "{event:?} in {state}");
            if expected == state && !matches!(event, Event::TagsSet { .. } | Event::Corrected) {
                assert_eq!(after, host, "{event:?} in {state} changes nothing");
            }
        }
    }
}

#[test]
fn back_off_doubles_up_to_its_limit() {
    let minutes = |failures| back_off(PAUSE, PAUSE_MAX, failures).as_secs() / 60;
    assert_eq!([1, 2, 3, 4, 5, 6, 7, 8, 1000].map(minutes), [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    let seconds = |failures| back_off(RETRY, RETRY_MAX, failures).as_secs();
    assert_eq!([1, 2, 3, 4, 5, 6, 7, u32::MAX].map(seconds), [10, 20, 40, 80, 160, 300, 300, 300]);
}

fn life(host: &mut Host, ending: Ending, now: Moment) {
    host.apply(Event::ListMade, now);
    host.apply(Event::Tick, now);
    for event in
        [Event::Chosen(lease("big")), Event::Claimed, Event::Destroyed { of: None, ending }, Event::CleaningBegan]
    {
        host.apply(event, now);
    }
    host.apply(Event::Cleaned, now);
}

/// After a failed boot, broken or unresponsive: one minute, doubling to an hour; a normal life starts anew.
#[test]
fn faulty_lives_pause_and_normal_ones_forgive() {
    let mut host = host(Phase::Free);
    let mut now = at(0);
    for minutes in [1, 2, 4, 8, 16, 32, 60, 60] {
        life(&mut host, Ending::Faulty(Fault::Broken), now);
        let end = now + Duration::from_secs(minutes * 60);
        assert_eq!(host.pause_end(), Some(end));
        host.apply(Event::ListMade, now);
        host.apply(Event::Tick, end - Duration::from_secs(1));
        assert!(!host.can_be_taken());
        host.apply(Event::Tick, end);
        assert!(host.can_be_taken());
        now = end;
    }
    life(&mut host, Ending::Unwanted, now);
    assert_eq!((host.strikes, host.pause_end()), (0, None));
    life(&mut host, Ending::Faulty(Fault::Broken), now);
    assert_eq!(host.pause_end(), Some(now + Duration::from_secs(60)));
}

/// Whoever knows the instance as one that goes must see it gone before it comes back.
#[test]
fn a_host_comes_back_only_after_a_list_without_it() {
    let mut host = host(Phase::Free);
    life(&mut host, Ending::Unwanted, at(0));
    assert!(host.phase == Phase::Free && !host.can_be_taken());
    host.apply(Event::ListMade, at(0));
    assert!(host.can_be_taken());
}

#[test]
fn listed_while_taken_and_until_the_first_clean_up_has_failed() {
    let mut host = host(Phase::Free);
    let listed = |host: &Host| host.listed().is_some();
    host.apply(Event::Chosen(lease("big")), at(0));
    assert!(!listed(&host));
    host.apply(Event::Claimed, at(0));
    assert!(listed(&host));
    host.apply(Event::Destroyed { of: None, ending: Ending::Unwanted }, at(0));
    host.apply(Event::CleaningBegan, at(0));
    assert!(listed(&host));
    host.apply(Event::CleaningFailed(problem(Kind::Unreachable)), at(5));
    assert!(!listed(&host));
    assert_eq!(host.dues().collect::<Vec<_>>(), [at(15)]);
    host.apply(Event::CleaningBegan, at(15));
    assert!(!listed(&host) && host.dues().next().is_none());
}

#[test]
fn one_that_is_not_configured_is_never_taken_again() {
    let mut host = Host::new(spec("a", "big"), false, Phase::Taken(lease("big")));
    assert!(!host.is_over());
    for event in
        [Event::Destroyed { of: None, ending: Ending::Unwanted }, Event::CleaningBegan, Event::Cleaned, Event::ListMade]
    {
        host.apply(event, at(0));
    }
    assert!(host.is_over() && !host.can_be_taken());
}

/// That another dispatcher had it was no failure of the host: its first one pauses it for the shortest time.
#[test]
fn a_host_that_was_elsewhere_has_not_failed() {
    for (kind, pause) in [(Kind::Foreign, 60), (Kind::Busy, 60), (Kind::Failed, 60 << 4)] {
        let mut host = host(Phase::Free);
        for round in 0..4 {
            let now = at(10_000 * round);
            host.apply(Event::Tick, now);
            host.apply(Event::Chosen(lease("big")), now);
            host.apply(Event::ClaimFailed { problem: problem(kind), left: None }, now);
            assert!(!host.can_be_taken(), "{kind:?}");
        }
        let now = at(100_000);
        host.apply(Event::Tick, now);
        host.apply(Event::Chosen(lease("big")), now);
        host.apply(Event::Claimed, now);
        host.apply(Event::Destroyed { of: None, ending: Ending::Faulty(Fault::Broken) }, now);
        assert_eq!(host.pause_end(), Some(at(100_000 + pause)), "{kind:?}");
    }
}
