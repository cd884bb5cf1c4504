//! The dispatcher's key at EC2 (§3).

use super::creating::{new_instance, small};
use super::stub::{Stub, api, driver, leaf, lines, node, options, started};
use crate::cloud::ec2::Ec2Options;
use crate::cloud::ec2::query::{Element, QueryError};
use crate::cloud::{CloudError, InstanceSet, NewInstance};
use crate::core::errors::chain;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMdBef1Rc/polsg+6SDJIekiTc1YQS6reyuMFZtq9NS4";
const FINGERPRINT: &str = "SHA256:X+ArmE6o+Lzy9Lk8Tsfdn4XtoyNNwoQt393Z3+XBejw";

fn with_key() -> NewInstance {
    NewInstance { public_key: Some(format!("{KEY} dispatcher@host")), ..new_instance(small()) }
}

fn key_set(names: &[&str]) -> Element {
    let items = names.iter().map(|name| node("item", vec![leaf("keyName", name)]));
    node("DescribeKeyPairsResponse", vec![node("keySet", items.collect())])
}

#[test]
fn a_key_that_is_unknown_is_imported_once() {
    let stub = Stub::new(|action, _| match action {
        "DescribeKeyPairs" => Ok(key_set(&[])),
        "ImportKeyPair" => Ok(Element::default()),
        _ => Ok(started("i-1")),
    });
    let driver = driver(options(), &stub);
    driver.create(&with_key()).expect("created");
    let asked = stub.asked();
    let name = format!("arvados-dispatch-keypair-{FINGERPRINT}=");
    let [(describe, filters), (import, key), (run, order)] = asked.as_slice() else { panic!("{asked:?}") };
    assert_eq!([*describe, *import, *run], ["DescribeKeyPairs", "ImportKeyPair", "RunInstances"]);
    let expected = [
        "Filter.1.Name=fingerprint".to_owned(),
        format!("Filter.1.Value.1={FINGERPRINT}="),
        format!("Filter.1.Value.2={FINGERPRINT}"),
    ];
    assert_eq!(lines(filters), expected);
    let material = openssl::base64::encode_block(format!("{KEY}\n").as_bytes());
    assert_eq!(lines(key), [format!("KeyName={name}"), format!("PublicKeyMaterial={material}")]);
    assert_eq!(order.get("KeyName"), Some(name.as_str()));

    driver.create(&with_key()).expect("created");
    let asked = stub.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1.get("KeyName"), Some(name.as_str()));
}

#[test]
fn a_key_that_is_there_keeps_its_name_and_is_remembered() {
    let stub = Stub::new(|action, _| match action {
        "DescribeKeyPairs" => Ok(key_set(&["operators-own", "another"])),
        _ => Ok(started("i-1")),
    });
    let driver = driver(options(), &stub);
    for expected in [&["DescribeKeyPairs", "RunInstances"][..], &["RunInstances"]] {
        driver.create(&with_key()).expect("created");
        let asked = stub.asked();
        assert_eq!(asked.iter().map(|(action, _)| *action).collect::<Vec<_>>(), expected);
        assert_eq!(asked.last().expect("one").1.get("KeyName"), Some("operators-own"));
    }
}

#[test]
fn without_a_key_none_is_looked_for() {
    let stub = Stub::new(|_, _| Ok(started("i-1")));
    driver(options(), &stub).create(&new_instance(small())).expect("created");
    let asked = stub.asked();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1.get("KeyName"), None);
}

#[test]
fn a_key_that_was_removed_is_imported_again() {
    // The error that is returned may be another subnet's.
    let mut answers = ["InsufficientInstanceCapacity", "InvalidKeyPair.NotFound"].into_iter();
    let stub = Stub::new(move |action, _| match action {
        "DescribeKeyPairs" => Ok(key_set(&[])),
        "ImportKeyPair" => Ok(Element::default()),
        _ => answers.next().map_or_else(|| Ok(started("i-1")), api),
    });
    let subnets = ["one", "two"].map(str::to_owned).to_vec();
    let driver = driver(Ec2Options { subnets, ..options() }, &stub);
    driver.create(&with_key()).expect_err("removed");
    driver.create(&with_key()).expect("imported again");
    let once = ["DescribeKeyPairs", "ImportKeyPair", "RunInstances"];
    assert_eq!(stub.actions(), [&once[..], &["RunInstances"], &once].concat());
}

#[test]
fn creates_at_the_same_time_import_a_key_once() {
    let stub = Stub::new(|action, _| match action {
        "DescribeKeyPairs" => Ok(key_set(&[])),
        "ImportKeyPair" => Ok(Element::default()),
        _ => Ok(started("i-1")),
    });
    let driver = driver(options(), &stub);
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| driver.create(&with_key()).expect("created"));
        }
    });
    let actions = stub.actions();
    for (action, count) in [("DescribeKeyPairs", 1), ("ImportKeyPair", 1), ("RunInstances", 8)] {
        assert_eq!(actions.iter().filter(|asked| **asked == action).count(), count, "{action}");
    }
}

/// Another dispatcher imports it between our look and our import: then it is there.
#[test]
fn a_key_that_somebody_imports_meanwhile_is_found() {
    for (found_then, expected) in
        [(&["of-another"][..], Ok("of-another")), (&[], Err("Could not import keypair: InvalidKeyPair"))]
    {
        let mut looks = 0;
        let stub = Stub::new(move |action, _| match action {
            "DescribeKeyPairs" => {
                looks += 1;
                Ok(key_set(if looks == 1 { &[] } else { found_then }))
            }
            "ImportKeyPair" => api("InvalidKeyPair.Duplicate"),
            _ => Ok(started("i-1")),
        });
        let result = driver(options(), &stub).create(&with_key());
        let asked = stub.asked();
        let actions: Vec<_> = asked.iter().map(|(action, _)| *action).collect();
        assert_eq!(actions[..3], ["DescribeKeyPairs", "ImportKeyPair", "DescribeKeyPairs"]);
        match expected {
            Ok(name) => assert!(result.is_ok() && asked[3].1.get("KeyName") == Some(name), "{result:?}"),
            Err(text) => assert!(chain(&result.expect_err("not there")).starts_with(text)),
        }
    }
}

/// All unclassified, and nothing is remembered.
#[test]
fn errors_say_what_was_tried() {
    for (key, failing, expected) in [
        ("nonsense", "", "Could not make key fingerprint: "),
        (KEY, "DescribeKeyPairs", "Could not search for keypair: Throttling: EC2's words (request id r-1)"),
        (KEY, "ImportKeyPair", "Could not import keypair: Throttling: EC2's words (request id r-1)"),
    ] {
        let stub = Stub::new(move |action, _| match action {
            _ if action == failing => api("Throttling"),
            "RunInstances" => Err(QueryError::other("must not be called")),
            _ => Ok(key_set(&[])),
        });
        let driver = driver(options(), &stub);
        let new = NewInstance { public_key: Some(key.to_owned()), ..new_instance(small()) };
        for _ in 0..2 {
            let error = driver.create(&new).expect_err("no key");
            assert!(matches!(error, CloudError::Other { .. }), "{error:?}");
            assert!(chain(&error).starts_with(expected), "{}", chain(&error));
        }
        assert_eq!(
            stub.actions().iter().filter(|action| **action == failing).count(),
            if failing.is_empty() { 0 } else { 2 }
        );
    }
}
