//! The driver's metrics (§11).

use std::collections::BTreeMap;

use super::creating::{new_instance, small};
use super::stub::{Stub, api, driver, instance, options, page, started, tags};
use crate::cloud::InstanceSet;
use crate::cloud::ec2::{Ec2, Ec2Options};

/// Every series as `NAME{VALUES}`, with its value.
fn series(registry: &prometheus::Registry) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for family in registry.gather() {
        for metric in family.get_metric() {
            let labels = metric.get_label().iter().map(|label| format!("{}={}", label.name(), label.value()));
            let name = format!("{}{{{}}}", family.name(), labels.collect::<Vec<_>>().join(","));
            // One of them is 0: a metric is of one kind.
            found.insert(name, metric.get_gauge().get_value() + metric.get_counter().get_value());
        }
    }
    found
}

fn with_registry(subnets: &[&str]) -> (Ec2Options, prometheus::Registry) {
    let registry = prometheus::Registry::new();
    let metrics = Some((registry.clone(), "arvados_dispatchcloud_".to_owned()));
    let subnets = subnets.iter().map(|subnet| (*subnet).to_owned()).collect();
    (Ec2Options { subnets, metrics, ..options() }, registry)
}

fn expected(values: &[(&str, f64)]) -> BTreeMap<String, f64> {
    let named = |(name, value): &(&str, f64)| (format!("arvados_dispatchcloud_ec2_{name}"), *value);
    values.iter().map(named).collect()
}

#[test]
fn series_are_there_from_the_start() {
    let stub = Stub::new(|_, _| api("Throttling"));
    let (options, registry) = with_registry(&["one", "two"]);
    let _driver = driver(options, &stub);
    let values = [
        ("instances{subnet_id=}", 0.0),
        ("instances{subnet_id=one}", 0.0),
        ("instances{subnet_id=two}", 0.0),
        ("instance_starts_total{subnet_id=one,success=0}", 0.0),
        ("instance_starts_total{subnet_id=one,success=1}", 0.0),
        ("instance_starts_total{subnet_id=two,success=0}", 0.0),
        ("instance_starts_total{subnet_id=two,success=1}", 0.0),
    ];
    assert_eq!(series(&registry), expected(&values));

    let (options, registry) = with_registry(&[]);
    let _driver = driver(options, &stub);
    let values = [
        ("instances{subnet_id=}", 0.0),
        ("instance_starts_total{subnet_id=,success=0}", 0.0),
        ("instance_starts_total{subnet_id=,success=1}", 0.0),
    ];
    assert_eq!(series(&registry), expected(&values));
}

#[test]
fn attempts_and_instances_are_counted_by_subnet() {
    let mut lists = 0;
    let stub = Stub::new(move |action, params| match (action, params.get("NetworkInterface.1.SubnetId")) {
        ("RunInstances", Some("full")) => api("InsufficientFreeAddressesInSubnet"),
        ("RunInstances", _) => Ok(started("i-1")),
        _ => {
            lists += 1;
            let in_subnet = |subnet: &str| instance(&["instanceId=i-1", &format!("subnetId={subnet}")]);
            let gone = instance(&["instanceId=i-1", "subnetId=good", "instanceState/name=terminated"]);
            let first = vec![in_subnet("good"), in_subnet("good"), in_subnet("foreign"), in_subnet(""), gone];
            Ok(page(if lists == 1 { first } else { vec![in_subnet("full")] }, None))
        }
    });
    let (options, registry) = with_registry(&["full", "good"]);
    let driver = driver(options, &stub);
    for _ in 0..2 {
        driver.create(&new_instance(small())).expect("in the second");
    }
    let starts = [
        ("instance_starts_total{subnet_id=full,success=0}", 1.0),
        ("instance_starts_total{subnet_id=full,success=1}", 0.0),
        ("instance_starts_total{subnet_id=good,success=0}", 0.0),
        ("instance_starts_total{subnet_id=good,success=1}", 2.0),
    ];
    for counts in [[1.0, 1.0, 0.0, 2.0], [0.0, 0.0, 1.0, 0.0]] {
        driver.list(&tags(&[])).expect("listed");
        let names = [
            "instances{subnet_id=}",
            "instances{subnet_id=foreign}",
            "instances{subnet_id=full}",
            "instances{subnet_id=good}",
        ];
        let instances: Vec<(&str, f64)> = names.into_iter().zip(counts).collect();
        assert_eq!(series(&registry), expected(&[&instances[..], &starts].concat()));
    }
}

#[test]
fn series_of_the_same_name_are_an_error() {
    let stub = Stub::new(|_, _| api("Throttling"));
    let (options, _registry) = with_registry(&[]);
    Ec2::new(options.clone(), stub.clone()).expect("the first");
    assert!(Ec2::new(options, stub).is_err());
}
