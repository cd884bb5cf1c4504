//! Lists, and what is told of instances without a call.

use std::sync::Arc;
use std::time::Duration;

use super::creating::{new_instance, small};
use super::stub::{NoConnector, Stub, api, clock, driver, instance, leaf, lines, node, options, page, tags};
use crate::cloud::ec2::Ec2Options;
use crate::cloud::ec2::query::{Element, QueryError};
use crate::cloud::ssh_access::SshAccess;
use crate::cloud::{CloudError, CloudInstance, InstanceSet, Traits};
use crate::core::ids::{InstanceId, InstanceSecret};
use crate::core::instance_type::{InstanceType, PricePoint};
use crate::remote::identity::{HostKey, Verdict};
use crate::remote::runner::RunnerPlaces;

fn ids(listed: &[CloudInstance]) -> Vec<&str> {
    listed.iter().map(|one| one.id.as_str()).collect()
}

fn plain(id: &str) -> Element {
    instance(&[&format!("instanceId={id}"), "instanceState/name=running"])
}

#[test]
fn all_pages_until_there_is_no_token_or_an_empty_one() {
    for last in [None, Some("")] {
        let stub = Stub::new(move |_, params| match params.get("NextToken") {
            None => Ok(page(vec![plain("i-1"), plain("i-2")], Some("second"))),
            Some("second") => Ok(page(Vec::new(), Some("third"))),
            Some(_) => Ok(page(vec![plain("i-3")], last)),
        });
        let listed = driver(options(), &stub).list(&tags(&[("ArvadosInstanceSetID", "set")])).expect("listed");
        assert_eq!(ids(&listed), ["i-1", "i-2", "i-3"]);
        let asked: Vec<Vec<String>> = stub.asked().iter().map(|(_, params)| lines(params)).collect();
        let first = ["MaxResults=1000", "Filter.1.Name=tag:ArvadosInstanceSetID", "Filter.1.Value.1=set"];
        assert_eq!(asked[0], first);
        assert_eq!(asked[1], [&first[..], &["NextToken=second"]].concat());
        assert_eq!(asked[2], [&first[..], &["NextToken=third"]].concat());
        assert_eq!(asked.len(), 3);
    }
}

#[test]
fn filters_are_taken_literally_and_none_lists_all() {
    let stub = Stub::new(|_, _| Ok(page(Vec::new(), None)));
    let driver = driver(options(), &stub);
    driver.list(&tags(&[])).expect("listed");
    driver.list(&tags(&[("a", r"*?\x"), ("b", "")])).expect("listed");
    let asked: Vec<Vec<String>> = stub.asked().iter().map(|(_, params)| lines(params)).collect();
    assert_eq!(asked[0], ["MaxResults=100"], "what others have may be large");
    let filters = ["Filter.1.Name=tag:a", r"Filter.1.Value.1=\*\?\\x", "Filter.2.Name=tag:b", "Filter.2.Value.1="];
    assert_eq!(asked[1], [&["MaxResults=1000"][..], &filters].concat());
}

#[test]
fn pages_without_end_are_an_error() {
    let mut number = 0;
    let endless = Stub::new(move |_, _| {
        number += 1;
        Ok(page(Vec::new(), Some(&number.to_string())))
    });
    let error = driver(options(), &endless).list(&tags(&[])).expect_err("endless").to_string();
    assert!(error.contains("more than 1000 pages"), "{error}");
    assert_eq!(endless.actions().len(), 1000);

    let mut tokens = ["a", "b", "a"].into_iter();
    let circle = Stub::new(move |_, _| Ok(page(Vec::new(), tokens.next())));
    let error = driver(options(), &circle).list(&tags(&[])).expect_err("a circle").to_string();
    assert!(error.contains("in a circle"), "{error}");
    assert_eq!(circle.actions().len(), 3);
}

#[test]
fn an_instance_as_it_is_told() {
    let full = instance(&[
        "instanceId=i-1",
        "instanceType=t3.micro",
        "privateIpAddress=10.0.0.1",
        "instanceState/name=running",
        "tag:a= 1 ",
        "tag:b=",
        "tag:aws:createdBy=x",
    ]);
    let stub = Stub::new(move |_, _| Ok(page(vec![full.clone(), plain("i-2")], None)));
    let listed = driver(options(), &stub).list(&tags(&[])).expect("listed");
    let first = CloudInstance {
        id: InstanceId::new("i-1"),
        provider_type: "t3.micro".to_owned(),
        address: "10.0.0.1".to_owned(),
        remote_user: "crunch".to_owned(),
        tags: tags(&[("a", " 1 "), ("b", ""), ("aws:createdBy", "x")]),
    };
    assert_eq!(listed[0], first);
    assert_eq!((listed[1].address.as_str(), listed[1].tags.len()), ("", 0));
}

#[test]
fn instances_that_end_are_gone_and_all_others_are_listed() {
    let states = ["pending", "running", "shutting-down", "terminated", "stopping", "stopped", "another"];
    let stub = Stub::new(move |_, _| {
        let one = |state: &&str| instance(&[&format!("instanceId={state}"), &format!("instanceState/name={state}")]);
        Ok(page(states.iter().map(one).chain([instance(&["instanceId=stateless"])]).collect(), None))
    });
    let listed = driver(options(), &stub).list(&tags(&[])).expect("listed");
    assert_eq!(ids(&listed), ["pending", "running", "stopping", "stopped", "another", "stateless"]);
}

#[test]
fn several_instances_of_one_reservation() {
    let stub = Stub::new(|_, _| {
        let reservation = node("item", vec![node("instancesSet", vec![plain("i-1"), plain("i-2")])]);
        Ok(node("DescribeInstancesResponse", vec![node("reservationSet", vec![reservation])]))
    });
    assert_eq!(ids(&driver(options(), &stub).list(&tags(&[])).expect("listed")), ["i-1", "i-2"]);
}

/// An answer that is none must not look like an empty account.
#[test]
fn a_list_is_whole_or_an_error() {
    let nameless = || instance(&["instanceState/name=running"]);
    for bad in [Element::default(), node("html", vec![leaf("body", "log in")]), page(vec![nameless()], None)] {
        let stub = Stub::new(move |_, params| match params.get("NextToken") {
            None => Ok(page(vec![plain("i-1")], Some("more"))),
            Some(_) => Ok(bad.clone()),
        });
        let result = driver(options(), &stub).list(&tags(&[]));
        assert!(matches!(result, Err(CloudError::Other { .. })), "{result:?}");
    }
}

/// Answers in a row; for each list what comes of it. A page that succeeds resets, also one that is not the last.
#[test]
fn a_page_that_fails_fails_the_list_and_one_that_succeeds_resets() {
    let script = [
        ("T", "1"),
        ("T", "2.5"),
        ("PT", "1"),
        ("T", "2.5"),
        ("Q", "quota"),
        ("T", "4.75"),
        ("P.", "ok"),
        ("T", "1"),
        ("O", "other"),
        ("T", "1"),
    ];
    let mut answers: Vec<char> = script.iter().flat_map(|(answers, _)| answers.chars()).rev().collect();
    let stub = Stub::new(move |_, _| match answers.pop().expect("one per call") {
        'T' => api("RequestLimitExceeded"),
        'Q' => api("InstanceLimitExceeded"),
        'O' => Err(QueryError::other("no network")),
        'P' => Ok(page(vec![plain("i-1")], Some("more"))),
        _ => Ok(page(Vec::new(), None)),
    });
    let driver = driver(options(), &stub);
    for (answers, expected) in script {
        let result = match driver.list(&tags(&[])) {
            Ok(_) => "ok".to_owned(),
            Err(CloudError::RateLimit { retry_after, .. }) => retry_after.as_secs_f64().to_string(),
            Err(CloudError::Quota { .. }) => "quota".to_owned(),
            Err(_) => "other".to_owned(),
        };
        assert_eq!(result, expected, "{answers}");
    }
}

fn spot(id: &str, zone: &str) -> Element {
    let zone = format!("placement/availabilityZone={zone}");
    instance(&[&format!("instanceId={id}"), "instanceType=t3.micro", "instanceLifecycle=spot", &zone])
}

fn prices(records: &[(&str, &str)], next: &str) -> Element {
    let record = |(price, minute): &(&str, &str)| {
        node(
            "item",
            vec![
                leaf("instanceType", "t3.micro"),
                leaf("availabilityZone", "us-east-1a"),
                leaf("spotPrice", price),
                leaf("timestamp", &format!("2026-01-01T00:{minute}:00.000Z")),
            ],
        )
    };
    let set = node("spotPriceHistorySet", records.iter().map(record).collect());
    node("DescribeSpotPriceHistoryResponse", vec![set, leaf("nextToken", next)])
}

/// §8's test: two spot instances, three records on two pages.
#[test]
fn prices_of_spot_instances() {
    let stub = Stub::new(|action, params| match (action, params.get("NextToken")) {
        ("DescribeInstances", _) => {
            let on_demand =
                instance(&["instanceId=i-3", "instanceType=t3.micro", "placement/availabilityZone=us-east-1a"]);
            Ok(page(vec![spot("i-1", "us-east-1a"), spot("i-2", "us-east-1b"), on_demand], None))
        }
        (_, None) => Ok(prices(&[("0.010", "10"), ("0.011", "20")], "stubnexttoken")),
        (_, Some(_)) => Ok(prices(&[("0.012", "30")], "")),
    });
    let (clock, time) = clock();
    let driver = driver(Ec2Options { spot_price_interval: Duration::from_secs(86_400), clock, ..options() }, &stub);
    let history = |id: &str, scratch: i64| {
        driver.price_history(&InstanceId::new(id), &InstanceType { added_scratch: scratch, ..small() })
    };
    assert_eq!(history("i-1", 0), []);
    driver.list(&tags(&[])).expect("listed");
    assert_eq!(stub.actions(), ["DescribeInstances", "DescribeSpotPriceHistory", "DescribeSpotPriceHistory"]);
    let (bare, with_scratch) = (history("i-1", 0), history("i-1", 640 << 30));
    assert_eq!(bare.iter().map(|point| point.price).collect::<Vec<_>>(), [0.012, 0.011, 0.010]);
    assert!(bare.windows(2).all(|pair| pair[0].since > pair[1].since));
    let dearer = |(bare, with): (&PricePoint, &PricePoint)| bare.since == with.since && bare.price < with.price;
    assert!(with_scratch.len() == 3 && bare.iter().zip(&with_scratch).all(dearer));
    assert_eq!((history("i-2", 0), history("i-3", 0), history("i-4", 0)), (vec![], vec![], vec![]));
    assert!(stub.actions().is_empty(), "histories are from memory");

    *time.lock() = Duration::from_secs(60);
    driver.list(&tags(&[])).expect("listed");
    assert_eq!(stub.actions(), ["DescribeInstances"]);
}

#[test]
fn a_spot_instance_just_made_has_the_known_prices() {
    let stub = Stub::new(|action, _| match action {
        "DescribeInstances" => Ok(page(vec![spot("i-1", "us-east-1a")], None)),
        "RunInstances" => Ok(node("RunInstancesResponse", vec![node("instancesSet", vec![spot("i-2", "us-east-1a")])])),
        _ => Ok(prices(&[("0.010", "10")], "")),
    });
    let driver = driver(Ec2Options { spot_price_interval: Duration::from_secs(60), ..options() }, &stub);
    driver.list(&tags(&[])).expect("listed");
    driver.create(&new_instance(small())).expect("made");
    assert_eq!(driver.price_history(&InstanceId::new("i-2"), &small()).len(), 1);
}

/// A list that began before an instance was made need not have it; one that began after does, or it is gone.
#[test]
fn one_made_during_a_list_keeps_its_prices() {
    let stub = Stub::new(|action, _| match action {
        "RunInstances" => Ok(node("RunInstancesResponse", vec![node("instancesSet", vec![spot("i-2", "us-east-1a")])])),
        "DescribeInstances" => Ok(page(vec![spot("i-1", "us-east-1a")], None)),
        _ => Ok(prices(&[("0.010", "10")], "")),
    });
    let (clock, time) = clock();
    let driver = driver(Ec2Options { spot_price_interval: Duration::from_secs(3600), clock, ..options() }, &stub);
    driver.list(&tags(&[])).expect("listed");
    let began = driver.now();
    *time.lock() = Duration::from_secs(5);
    driver.create(&new_instance(small())).expect("made");
    for (began, known) in [(began, 1), (driver.now() + Duration::from_secs(1), 0)] {
        driver.digest(&[], began);
        assert_eq!(driver.price_history(&InstanceId::new("i-2"), &small()).len(), known);
    }
}

#[test]
fn without_an_interval_or_spot_instances_no_prices_are_looked_up() {
    for (interval, lifecycle) in [(0, "spot"), (60, "scheduled")] {
        let stub = Stub::new(move |_, _| {
            Ok(page(vec![instance(&["instanceId=i-1", &format!("instanceLifecycle={lifecycle}")])], None))
        });
        let driver = driver(Ec2Options { spot_price_interval: Duration::from_secs(interval), ..options() }, &stub);
        driver.list(&tags(&[])).expect("listed");
        assert_eq!(stub.actions(), ["DescribeInstances"]);
    }
}

#[test]
fn a_list_succeeds_without_prices() {
    let stub = Stub::new(|action, _| match action {
        "DescribeInstances" => Ok(page(vec![spot("i-1", "us-east-1a")], None)),
        _ => api("Throttling"),
    });
    let driver = driver(Ec2Options { spot_price_interval: Duration::from_secs(60), ..options() }, &stub);
    assert_eq!(ids(&driver.list(&tags(&[])).expect("listed")), ["i-1"]);
    assert_eq!(driver.price_history(&InstanceId::new("i-1"), &small()), []);
}

/// Pages of 40 s each: there is time for three, and each has what is left.
#[test]
fn a_list_has_so_much_time_in_all() {
    let (clock, time) = clock();
    let mut number = 0;
    let stub = Stub::new(move |_, _| {
        number += 1;
        *time.lock() += Duration::from_secs(40);
        Ok(page(vec![plain("i-1")], Some(&number.to_string())))
    });
    let error = driver(Ec2Options { clock, ..options() }, &stub).list(&tags(&[])).expect_err("too slow").to_string();
    assert_eq!(error, "DescribeInstances is given up: its pages take longer than 100 s");
    assert_eq!(stub.limits(), [100, 60, 20].map(Duration::from_secs));
}

/// Prices that are slow do not lose the list: what came in time is kept.
#[test]
fn prices_have_little_time() {
    let (clock, time) = clock();
    let mut number = 0;
    let stub = Stub::new(move |action, _| match action {
        "DescribeInstances" => Ok(page(vec![spot("i-1", "us-east-1a")], None)),
        _ => {
            number += 1;
            *time.lock() += Duration::from_secs(10);
            Ok(prices(&[("0.010", &format!("1{number}")), ("0.011", &format!("2{number}"))], &number.to_string()))
        }
    });
    let options = Ec2Options { spot_price_interval: Duration::from_secs(3600), clock, ..options() };
    let driver = driver(options, &stub);
    assert_eq!(ids(&driver.list(&tags(&[])).expect("listed")), ["i-1"]);
    assert_eq!(stub.limits(), [100, 15, 5].map(Duration::from_secs));
    assert!(!driver.price_history(&InstanceId::new("i-1"), &small()).is_empty());
}

#[test]
fn what_is_told_without_a_call() {
    let stub = Stub::new(|_, _| api("Throttling"));
    let connector = Arc::new(NoConnector::default());
    let access = SshAccess { connector: connector.clone(), places: RunnerPlaces::default() };
    let driver = driver(Ec2Options { access, ..options() }, &stub);
    let expected =
        Traits { cheap_list: false, exact_list: false, instances_max: None, each_its_own: false, calls_provider: true };
    assert_eq!(driver.traits(), expected);
    let spot = InstanceType { provider_type: "T3.micro".to_owned(), preemptible: true, ..small() };
    assert_eq!(driver.quota_group(&spot), "standard-spot");
    let secret = InstanceSecret::new("s");
    assert!(driver.open(&InstanceId::new("i-1"), Some(&secret)).is_err(), "the stub opens nothing");
    let opened = connector.0.lock();
    assert!(opened.len() == 1 && opened[0].secret == Some(secret) && opened[0].sudo);
    let key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";
    assert_eq!(opened[0].check.check(&HostKey::parse(key).expect("a key"), "10.0.0.1"), Verdict::Unknown);
    driver.stop();
    assert!(stub.actions().is_empty());
}
