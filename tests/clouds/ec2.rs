//! The suite over the driver `ec2`: moto's API, with a real SSH server for each instance; and the same where lists are late and calls
//! fail, as EC2's sometimes do.

use std::sync::Arc;
use std::time::Duration;

use muster::cloud::boot::Boot;
use muster::cloud::ec2::client::{HttpQuery, Settings};
use muster::cloud::ec2::credentials::Secret;
use muster::cloud::ec2::environment::{Environment, WallClock};
use muster::cloud::ec2::{Clock, Ec2, Ec2Options};
use muster::cloud::ssh_access::SshAccess;
use muster::cloud::{CloudError, InstanceSet};
use muster::core::instance_type::InstanceType;
use muster::core::pool::limits::CapacityScope;
use muster::core::time::{Moment, WallMillis};
use muster::remote::runner::RunnerPlaces;
use muster::remote::ssh::key::PrivateKey;
use muster::remote::ssh::{SshClient, SshConnector};
use muster_ec2_cloud::{Credentials, Ec2Site, Fault, Rule, Spot};
use muster_ssh_hosts::{ClientKey, caller_is_root, client_key};

use crate::contract;
use crate::rig::{Reach, Rig};
use crate::support::{log, new_secret, order};

fn access(site: &Ec2Site, key: &ClientKey) -> SshAccess {
    let key = PrivateKey::parse(key.private()).expect("a key");
    let client = SshClient::new(key, site.ssh_port, Arc::new(muster::shell::threads::spawn));
    SshAccess { connector: Arc::new(SshConnector(Arc::new(client))), places: RunnerPlaces::default() }
}

/// A new driver by way of the proxy.
fn driver(site: &Ec2Site, key: &ClientKey) -> Ec2 {
    let environment = Environment::new(|_| None, None, Arc::new(muster::shell::threads::spawn));
    let keys = (Credentials::STATIC.id, Credentials::STATIC.secret);
    driver_with(site, key, keys, environment, || jiff::Timestamp::now().as_millisecond())
}

/// One with these keys, or without, in this environment and at this time of day.
pub(crate) fn driver_with(
    site: &Ec2Site,
    key: &ClientKey,
    (id, secret): (&str, &str),
    environment: Environment,
    wall: impl Fn() -> WallMillis + Clone + Send + Sync + 'static,
) -> Ec2 {
    let query = HttpQuery::new(Settings {
        region: site.moto.region().to_owned(),
        endpoint: Some(site.proxy.url()),
        access_key_id: id.to_owned(),
        secret_access_key: Secret::new(secret),
        environment,
        clock: WallClock::new(wall.clone()),
    });
    let began = std::time::Instant::now();
    let options = Ec2Options {
        security_groups: vec![site.security_group.clone()],
        subnets: site.subnets.clone(),
        user: site.user.clone(),
        ebs_volume_type: String::new(),
        ebs_price: 0.1,
        iam_profile: String::new(),
        spot_price_interval: Duration::from_secs(3600),
        quota_groups: Default::default(),
        access: access(site, key),
        clock: Clock { now: Arc::new(move || Moment::since_start(began.elapsed())), wall: WallClock::new(wall) },
        metrics: None,
    };
    Ec2::new(options, Arc::new(query.expect("plain settings"))).expect("no registry")
}

fn instance_type(preemptible: bool) -> Arc<InstanceType> {
    Arc::new(InstanceType {
        name: "small".to_owned(),
        provider_type: "t3.small".to_owned(),
        vcpus: 1,
        ram: 1 << 30,
        added_scratch: 10 << 30,
        price: 0.02,
        preemptible,
        ..InstanceType::default()
    })
}

fn rig(site: &Arc<Ec2Site>, key: &Arc<ClientKey>, faulty: bool, preemptible: bool) -> Rig {
    let (of_driver, of_leftovers, key_of_driver) = (site.clone(), site.clone(), key.clone());
    Rig {
        name: "ec2",
        open: Box::new(move || Arc::new(driver(&of_driver, &key_of_driver))),
        shared: true,
        instance_type: instance_type(preemptible),
        boot: Boot {
            image_id: site.image.clone(),
            init_command: "echo done >/run/boot-was-here || :".to_owned(),
            public_key: Some(key.public().to_owned()),
            ..Boot::default()
        },
        full: None,
        // Nobody but root can read the secret's file, or write it.
        reach: match (faulty, caller_is_root()) {
            (true, _) | (_, false) => Reach::Nothing,
            _ => Reach::BySecret,
        },
        prices: preemptible,
        unknown_id: "i-0123456789abcdef0",
        faulty,
        leftovers: Box::new(move || of_leftovers.moto.live().into_iter().map(|instance| instance.id).collect()),
        errors: Default::default(),
    }
}

fn site() -> (Arc<Ec2Site>, Arc<ClientKey>) {
    log();
    (Arc::new(Ec2Site::start().expect("starts")), Arc::new(client_key().expect("made")))
}

#[test]
fn on_demand() {
    let (site, key) = site();
    contract::check(&rig(&site, &key, false, false));
    site.proxy.assert_fresh_client_tokens();
}

#[test]
fn spot_with_prices_in_pages() {
    let (site, key) = site();
    let price = |zone: &str, price: &str, day: u32| Spot {
        instance_type: "t3.small".to_owned(),
        zone: format!("{}{zone}", site.moto.region()),
        price: price.to_owned(),
        timestamp: format!("2026-01-{day:02}T12:00:00.000Z"),
    };
    // A price that is said again is no new one.
    let prices = ["a", "b"].map(|zone| {
        [price(zone, "0.0071", 3), price(zone, "0.0071", 2), price(zone, "0.0065", 1), price(zone, "0.0071", 3)]
    });
    site.proxy.spot_prices(prices.concat());
    site.proxy.page_size(Some(1));
    site.proxy.empty_last_token(true);
    contract::check(&rig(&site, &key, false, true));
}

/// Lists are late, and calls fail in every way, also after they had their effect.
#[test]
fn under_faults() {
    let (site, key) = site();
    site.proxy.appear_after(1);
    site.proxy.linger_for(2);
    let rig = rig(&site, &key, true, false);
    let faults = [
        ("RunInstances", Fault::CutAfter(0)),
        ("RunInstances", Fault::error("InternalError", "An internal error has occurred")),
        ("DescribeInstances", Fault::html(502)),
        ("DescribeInstances", Fault::xml("<DescribeInstancesResponse><reservationSet>")),
        ("CreateTags", Fault::Drop),
        ("TerminateInstances", Fault::CutAfter(20)),
        ("ImportKeyPair", Fault::error("InternalError", "An internal error has occurred")),
        ("DescribeKeyPairs", Fault::Drop),
    ];
    for (number, (action, fault)) in faults.into_iter().enumerate() {
        // Now and then, and each at another time.
        for time in 0..3 {
            site.proxy.rule(Rule::on(action, fault.clone()).after(number + 4 * time).times(1));
        }
    }
    contract::check(&rig);
    assert!(rig.errors.lock()["other"] > 8, "{:?}", rig.errors.lock());
}

/// Each class of error as the pool needs it, in EC2's own words.
#[test]
fn classes_of_errors() {
    let (site, key) = site();
    let cloud = driver(&site, &key);
    let rig = rig(&site, &key, false, false);
    let order = order(&rig.boot, &rig.instance_type, &new_secret());
    let create = |code: &str, message: &str| {
        let rule = site.proxy.rule(Rule::on("RunInstances", Fault::error(code, message)));
        let error = cloud.create(&order).expect_err("refused");
        rule.remove();
        error
    };
    let error = create("RequestLimitExceeded", "Request limit exceeded.");
    assert!(
        matches!(&error, CloudError::RateLimit { retry_after, .. } if *retry_after == Duration::from_secs(1)),
        "{error:?}"
    );
    let error = create("InstanceLimitExceeded", "Your quota allows for 0 more running instance(s).");
    assert!(matches!(error, CloudError::Quota { .. }), "{error:?}");
    let error = create("InsufficientInstanceCapacity", "We currently do not have sufficient capacity.");
    assert!(matches!(error, CloudError::Capacity { scope: CapacityScope::Type, .. }), "{error:?}");
    let error = create("VcpuLimitExceeded", "You have requested more vCPU capacity than your current limit.");
    assert!(matches!(error, CloudError::Capacity { scope: CapacityScope::Group, .. }), "{error:?}");
    let error = create("InvalidAMIID.NotFound", "The image id does not exist");
    assert!(
        matches!(&error, CloudError::Other { .. }) && error.to_string().contains("InvalidAMIID.NotFound"),
        "{error:?}"
    );
    assert!(site.moto.live().is_empty());
}

/// Somebody removes the key pair; somebody else imports it between our look and our import; the answer to an import is lost.
#[test]
fn key_pairs_that_come_and_go() {
    let (site, key) = site();
    let rig = rig(&site, &key, false, false);
    let create = |cloud: &Ec2| cloud.create(&order(&rig.boot, &rig.instance_type, &new_secret()));
    let counts = || ["DescribeKeyPairs", "ImportKeyPair", "RunInstances"].map(|action| site.proxy.calls(action).len());
    let cloud = driver(&site, &key);
    let lost = site.proxy.rule(Rule::on("ImportKeyPair", Fault::CutAfter(0)).times(1));
    let error = create(&cloud).expect_err("nobody knows");
    assert!(error.to_string().contains("Could not import keypair") && lost.hits() == 1, "{error:?}");
    create(&cloud).expect("it is there");
    assert_eq!(counts(), [2, 1, 1]);
    let pairs = site.moto.key_pairs();
    let name = pairs.keys().next().expect("one").clone();
    assert_eq!((pairs.len(), name.starts_with("arvados-dispatch-keypair-")), (1, true));

    site.moto.ok("DeleteKeyPair", &[("KeyName", &name)]);
    let error = create(&cloud).expect_err("removed");
    assert!(error.to_string().contains("InvalidKeyPair.NotFound"), "{error:?}");
    create(&cloud).expect("imported again");
    assert_eq!((counts(), site.moto.key_pairs().len()), ([3, 2, 3], 1));

    let nothing = Fault::xml("<DescribeKeyPairsResponse><keySet/></DescribeKeyPairsResponse>");
    let too_early = site.proxy.rule(Rule::on("DescribeKeyPairs", nothing).times(1));
    let another = driver(&site, &key);
    create(&another).expect("it is there already");
    assert_eq!((counts(), too_early.hits()), ([5, 3, 4], 1));
    let refused = site.proxy.calls("ImportKeyPair").pop().expect("one");
    assert!(refused.answer.contains("InvalidKeyPair.Duplicate"), "{refused:?}");
    assert!(site.moto.live().iter().all(|instance| instance.key_name.as_ref() == Some(&name)));
}
