//! Creates, and what is done to single instances.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use super::stub::{Stub, api, api_says, driver, instance, leaf, lines, node, options, started, tags};
use crate::cloud::ec2::Ec2Options;
use crate::cloud::ec2::query::{Element, QueryError};
use crate::cloud::{CloudError, CloudInstance, InstanceSet, NewInstance};
use crate::core::effect::Ending;
use crate::core::ids::{InstanceId, InstanceSecret};
use crate::core::instance_type::InstanceType;
use crate::core::pool::limits::CapacityScope;

const SECRET: &str = "0123456789abcdef0123456789abcdef01234567";

pub(super) fn new_instance(instance_type: InstanceType) -> NewInstance {
    NewInstance {
        instance_type: Arc::new(instance_type),
        image_id: "ami-1".to_owned(),
        tags: tags(&[("ArvadosInstanceSecret", SECRET), ("ArvadosInstanceSetID", "set")]),
        secret: InstanceSecret::new(SECRET),
        init_command: format!("echo {SECRET}"),
        public_key: None,
        wanted_until: std::time::Instant::now() + Duration::from_secs(900),
        asked: std::time::Instant::now(),
        refusals: Arc::default(),
    }
}

pub(super) fn small() -> InstanceType {
    InstanceType { name: "small".to_owned(), provider_type: "m1.small".to_owned(), price: 0.02, ..Default::default() }
}

/// What a create asks for, as [`lines`] has it.
fn asked(options: Ec2Options, new: &NewInstance) -> Vec<String> {
    let stub = Stub::new(|_, _| Ok(started("i-1")));
    driver(options, &stub).create(new).expect("created");
    let asked = stub.asked();
    assert_eq!(asked.len(), 1);
    lines(&asked[0].1)
}

/// The rows of §4 that every create has.
#[test]
fn the_least_that_a_create_says() {
    let expected = [
        "ImageId=ami-1",
        "InstanceType=m1.small",
        "MinCount=1",
        "MaxCount=1",
        "NetworkInterface.1.DeviceIndex=0",
        "NetworkInterface.1.AssociatePublicIpAddress=false",
        "NetworkInterface.1.DeleteOnTermination=true",
        "DisableApiTermination=false",
        "InstanceInitiatedShutdownBehavior=terminate",
        "TagSpecification.1.ResourceType=instance",
        "TagSpecification.1.Tag.1.Key=ArvadosInstanceSecret",
        &format!("TagSpecification.1.Tag.1.Value={SECRET}"),
        "TagSpecification.1.Tag.2.Key=ArvadosInstanceSetID",
        "TagSpecification.1.Tag.2.Value=set",
        "MetadataOptions.HttpEndpoint=enabled",
        "MetadataOptions.HttpTokens=required",
        &format!("UserData={}", openssl::base64::encode_block(format!("#!/bin/sh\necho {SECRET}\n").as_bytes())),
    ];
    assert_eq!(asked(options(), &new_instance(small())), expected);
}

/// The other rows: what adds which lines.
#[test]
fn what_else_a_create_says() {
    let gp3 = Ec2Options { ebs_volume_type: "gp3".to_owned(), ..options() };
    let volume = |size: &str, kind: &str| {
        [
            "BlockDeviceMapping.1.DeviceName=/dev/xvdt".to_owned(),
            "BlockDeviceMapping.1.Ebs.DeleteOnTermination=true".to_owned(),
            format!("BlockDeviceMapping.1.Ebs.VolumeSize={size}"),
            format!("BlockDeviceMapping.1.Ebs.VolumeType={kind}"),
        ]
        .to_vec()
    };
    let spot = |price: &str| {
        [
            "InstanceMarketOptions.MarketType=spot".to_owned(),
            "InstanceMarketOptions.SpotOptions.InstanceInterruptionBehavior=terminate".to_owned(),
            format!("InstanceMarketOptions.SpotOptions.MaxPrice={price}"),
        ]
        .to_vec()
    };
    let scratch = |bytes| InstanceType { added_scratch: bytes, ..small() };
    let priced = |price| InstanceType { preemptible: true, price, ..small() };
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let groups = Ec2Options { security_groups: words(&["sg-1", "sg-2"]), ..options() };
    let subnet = Ec2Options { subnets: words(&["subnet-1", "subnet-2"]), ..options() };
    let profile = Ec2Options { iam_profile: "worker".to_owned(), ..options() };
    let in_groups = ["NetworkInterface.1.SecurityGroupId.1=sg-1", "NetworkInterface.1.SecurityGroupId.2=sg-2"];
    let plain = BTreeSet::from_iter(asked(options(), &new_instance(small())));
    for (options, instance_type, added) in [
        (options(), scratch(1), volume("1", "gp2")),
        (options(), scratch(1 << 30), volume("1", "gp2")),
        (gp3, scratch(20_000_000_000), volume("19", "gp3")),
        (options(), priced(0.02), spot("0.02")),
        (options(), priced(1.0), spot("1")),
        (options(), priced(1e-7), spot("0.0000001")),
        (groups, small(), words(&in_groups)),
        (subnet, small(), words(&["NetworkInterface.1.SubnetId=subnet-1"])),
        (profile, small(), words(&["IamInstanceProfile.Name=worker"])),
    ] {
        let said = asked(options, &new_instance(instance_type));
        let more: Vec<String> = said.into_iter().filter(|line| !plain.contains(line)).collect();
        assert_eq!(more, added);
    }
}

#[test]
fn a_create_returns_the_new_instance() {
    let stub = Stub::new(|_, _| {
        let fields = ["instanceId=i-0abc", "instanceType=m1.small", "privateIpAddress=10.1.2.3", "subnetId=subnet-1"];
        Ok(node("RunInstancesResponse", vec![node("instancesSet", vec![instance(&fields)])]))
    });
    let new = new_instance(small());
    let made = driver(options(), &stub).create(&new).expect("created");
    let expected = CloudInstance {
        id: InstanceId::new("i-0abc"),
        provider_type: "m1.small".to_owned(),
        address: "10.1.2.3".to_owned(),
        remote_user: "crunch".to_owned(),
        tags: new.tags,
    };
    assert_eq!(made, expected);
}

#[test]
fn an_answer_without_an_instance_is_an_error() {
    let nameless = instance(&["instanceType=m1.small"]);
    for answer in [
        Element::default(),
        node("RunInstancesResponse", vec![leaf("instancesSet", "")]),
        node("RunInstancesResponse", vec![node("instancesSet", vec![nameless])]),
    ] {
        let subnets = ["one", "two"].map(str::to_owned).to_vec();
        let stub = Stub::new(move |_, _| Ok(answer.clone()));
        let result = driver(Ec2Options { subnets, ..options() }, &stub).create(&new_instance(small()));
        assert!(matches!(result, Err(CloudError::Other { .. })), "{result:?}");
        assert_eq!(stub.actions().len(), 1);
    }
}

/// The scenarios of §5: errors by subnet; for each create what its error says, and how many calls there were in all.
#[test]
fn subnets_in_rotation() {
    const FULL: &str = "InsufficientFreeAddressesInSubnet";
    const BROKEN: &str = "InvalidSubnetId.NotFound";
    const CAPACITY: &str = "InsufficientInstanceCapacity";
    type Creates = &'static [(Option<&'static str>, usize)];
    type Subnets = [(&'static str, Option<&'static str>); 2];
    let scenarios: [(Subnets, Creates); 3] = [
        ([("full", Some(FULL)), ("good", None)], &[(None, 2), (None, 3)]),
        ([("full", Some(FULL)), ("broken", Some(BROKEN))], &[(Some(BROKEN), 2), (Some(FULL), 4)]),
        (
            [("full", Some(FULL)), ("broken", Some(CAPACITY))],
            &[(Some(CAPACITY), 2), (Some(CAPACITY), 4), (Some(CAPACITY), 6)],
        ),
    ];
    for (subnets, creates) in scenarios {
        let stub = Stub::new(move |_, params| {
            let subnet = params.get("NetworkInterface.1.SubnetId").expect("one is configured");
            match subnets.iter().find(|(name, _)| *name == subnet).expect("configured").1 {
                Some(code) => api(code),
                None => Ok(started("i-1")),
            }
        });
        let driver =
            driver(Ec2Options { subnets: subnets.map(|(name, _)| name.to_owned()).to_vec(), ..options() }, &stub);
        let mut calls = Vec::new();
        for (expected, count) in creates {
            let error = driver.create(&new_instance(small())).err().map(|error| error.to_string());
            calls.extend(stub.asked());
            assert_eq!(calls.len(), *count);
            match expected {
                None => assert_eq!(error, None),
                Some(code) => assert!(error.as_ref().is_some_and(|error| error.contains(code)), "{error:?}"),
            }
        }
        let tokens: BTreeSet<_> = calls.iter().filter_map(|(_, params)| params.get("ClientToken")).collect();
        assert_eq!(tokens.len(), calls.len(), "each attempt has its own");
        assert!(tokens.iter().all(|token| token.len() == 32));
    }
}

/// Answers of creates in a row, and what is returned: seconds for a rate limit.
#[test]
fn errors_of_creates_have_classes_and_rate_limits_grow() {
    let codes = [
        Some(("Throttling", "1")),
        Some(("RequestLimitExceeded", "2.5")),
        Some(("InstanceLimitExceeded", "quota")),
        Some(("VcpuLimitExceeded", "group")),
        Some(("InsufficientInstanceCapacity", "type")),
        Some(("Throttling", "4.75")),
        None,
        Some(("Throttling", "1")),
        Some(("Throttling", "2.5")),
        Some(("UnauthorizedOperation", "other")),
        Some(("Throttling", "1")),
    ];
    let mut script = codes.into_iter();
    let stub = Stub::new(move |action, _| match script.next().expect("one per create") {
        _ if action != "RunInstances" => api("Throttling"),
        Some((code, _)) => api(code),
        None => Ok(started("i-1")),
    });
    let driver = driver(options(), &stub);
    for expected in codes {
        let class = match driver.create(&new_instance(small())) {
            Ok(_) => None,
            Err(CloudError::RateLimit { retry_after, .. }) => Some(retry_after.as_secs_f64().to_string()),
            Err(CloudError::Quota { .. }) => Some("quota".to_owned()),
            Err(CloudError::Capacity { scope: CapacityScope::Type, .. }) => Some("type".to_owned()),
            Err(CloudError::Capacity { scope: CapacityScope::Group, .. }) => Some("group".to_owned()),
            Err(CloudError::Capacity { .. }) => Some("everything".to_owned()),
            Err(CloudError::Other { .. }) => Some("other".to_owned()),
        };
        assert_eq!(class.as_deref(), expected.map(|(_, class)| class), "{expected:?}");
    }
}

/// A rate limit that hides behind a lack of capacity is one all the same.
#[test]
fn a_throttle_after_a_lack_of_capacity_counts() {
    let mut codes = ["InsufficientInstanceCapacity", "Throttling", "Throttling"].into_iter();
    let stub = Stub::new(move |_, _| api(codes.next().expect("one per call")));
    let subnets = ["one", "two"].map(str::to_owned).to_vec();
    let driver = driver(Ec2Options { subnets, ..options() }, &stub);
    let error = driver.create(&new_instance(small())).expect_err("refused");
    assert!(matches!(error, CloudError::Capacity { .. }), "{error:?}");
    match driver.create(&new_instance(small())) {
        Err(CloudError::RateLimit { retry_after, .. }) => assert_eq!(retry_after, Duration::from_secs_f64(2.5)),
        other => panic!("{other:?}"),
    }
}

/// Once before the first attempt, once before another: what nobody waits for any more is not begun, and says nothing of limits.
#[test]
fn an_attempt_that_nobody_waits_for_is_not_made() {
    for patience in [Duration::ZERO, Duration::from_millis(200)] {
        let new = NewInstance { wanted_until: std::time::Instant::now() + patience, ..new_instance(small()) };
        let until = new.wanted_until;
        let stub = Stub::new(move |action, _| {
            while std::time::Instant::now() < until {
                std::thread::yield_now();
            }
            if action == "RunInstances" { api("InsufficientInstanceCapacity") } else { api("Throttling") }
        });
        let subnets = ["one", "two"].map(str::to_owned).to_vec();
        let error = driver(Ec2Options { subnets, ..options() }, &stub).create(&new).expect_err("too late");
        assert!(error.to_string().contains("not begun"), "{error}");
        // With a busy machine the time may be over before the first.
        assert!(stub.actions().len() <= usize::from(!patience.is_zero()));
    }
}

#[test]
fn creates_and_lists_are_throttled_apart() {
    let stub = Stub::new(|_, _| api("Throttling"));
    let driver = driver(options(), &stub);
    let seconds = |error: CloudError| match error {
        CloudError::RateLimit { retry_after, .. } => retry_after,
        other => panic!("{other}"),
    };
    let create = || seconds(driver.create(&new_instance(small())).expect_err("throttled"));
    let list = || seconds(driver.list(&tags(&[])).expect_err("throttled"));
    assert_eq!([create(), list(), list(), create()], [1.0, 1.0, 2.5, 2.5].map(Duration::from_secs_f64));
    let id = InstanceId::new("i-1");
    let destroyed = driver.destroy(&id, None, Ending::Unwanted);
    assert!(matches!(destroyed, Err(CloudError::Other { .. })), "{destroyed:?}");
    let tagged = driver.set_tags(&id, &tags(&[("a", "b")]));
    assert!(matches!(tagged, Err(CloudError::Other { .. })), "{tagged:?}");
}

#[test]
fn destroying_and_tagging_name_the_instance() {
    let stub = Stub::new(|_, _| Ok(Element::default()));
    let driver = driver(options(), &stub);
    let id = InstanceId::new("i-1");
    driver.destroy(&id, Some(&InstanceSecret::new(SECRET)), Ending::Unwanted).expect("done");
    driver.set_tags(&id, &tags(&[("a", "1"), ("b", ""), ("aws:createdBy", "somebody")])).expect("done");
    driver.set_tags(&id, &tags(&[("aws:createdBy", "somebody")])).expect("nothing to do");
    let asked = stub.asked().into_iter().map(|(action, params)| (action, lines(&params))).collect::<Vec<_>>();
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>();
    let expected = [
        ("TerminateInstances", words(&["InstanceId.1=i-1"])),
        ("CreateTags", words(&["ResourceId.1=i-1", "Tag.1.Key=a", "Tag.1.Value=1", "Tag.2.Key=b", "Tag.2.Value="])),
    ];
    assert_eq!(asked, expected);
}

#[test]
fn an_instance_that_is_gone_is_destroyed() {
    for (code, gone) in [("InvalidInstanceID.NotFound", true), ("InvalidInstanceID.Malformed", false)] {
        let stub = Stub::new(move |_, _| api(code));
        let result = driver(options(), &stub).destroy(&InstanceId::new("i-1"), None, Ending::Unwanted);
        assert_eq!(result.is_ok(), gone, "{code}");
    }
}

#[test]
fn what_ec2_would_refuse_is_not_asked() {
    let stub = Stub::new(|_, _| Ok(started("i-1")));
    let driver = driver(options(), &stub);
    let mut tagged = new_instance(small());
    tagged.tags.insert("aws:x".to_owned(), "y".to_owned());
    let mut long = new_instance(small());
    long.init_command = "x".repeat(17_000);
    for mut new in [tagged, long] {
        new.public_key = Some("ssh-ed25519 AAAA".to_owned());
        assert!(matches!(driver.create(&new), Err(CloudError::Other { .. })));
    }
    let long = tags(&[("a", &"x".repeat(257))]);
    assert!(driver.set_tags(&InstanceId::new("i-1"), &long).is_err());
    assert!(stub.actions().is_empty());
}

#[test]
fn no_secret_is_in_an_error_or_in_debug_output() {
    let new = new_instance(small());
    let data = openssl::base64::encode_block(format!("#!/bin/sh\n{}\n", new.init_command).as_bytes());
    let echo = format!("Value ({SECRET}) for tag, ({data}) for UserData, {}", new.init_command);
    let stub = Stub::new(move |_, _| api_says("InvalidParameterValue", &echo));
    let driver = driver(options(), &stub);
    let created = driver.create(&new).expect_err("refused");
    let tagged = driver.set_tags(&InstanceId::new("i-1"), &new.tags).expect_err("refused");
    for text in [created.to_string(), format!("{created:?}"), tagged.to_string(), format!("{driver:?}")] {
        assert!(!text.contains(SECRET), "{text}");
    }
    assert!(!created.to_string().contains(&data), "{created}");
    assert!(created.to_string().contains("Value (***) for tag, (***) for UserData, *** (request"), "{created}");
}

/// An error on the way says nothing of subnets or of a limit.
#[test]
fn errors_of_the_network_end_a_create() {
    let stub = Stub::new(|_, _| Err(QueryError::caused("cannot connect", std::io::Error::other("refused"))));
    let subnets = ["one", "two"].map(str::to_owned).to_vec();
    let error =
        driver(Ec2Options { subnets, ..options() }, &stub).create(&new_instance(small())).expect_err("no network");
    assert_eq!(crate::core::errors::chain(&error), "cannot connect: refused");
    assert_eq!(stub.actions().len(), 1);
}
