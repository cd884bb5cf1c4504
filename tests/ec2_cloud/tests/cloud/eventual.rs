//! Lists that are late and come in pages, creates that are idempotent, prices of spot instances.

use muster_ec2_cloud::Spot;

use crate::support::Account;

#[test]
fn a_new_instance_appears_late() {
    let account = Account::new();
    let old = account.run(&[]).expect("made");
    account.proxy.appear_after(2);
    assert_eq!(account.list(), [] as [String; 0]);
    assert_eq!(account.list(), [] as [String; 0]);
    assert_eq!(account.list(), vec![old.clone()]);
    let new = account.run(&[]).expect("made");
    assert_eq!((account.list(), account.list()), (vec![old.clone()], vec![old.clone()]));
    assert_eq!(account.list(), [old, new]);
}

#[test]
fn a_terminated_instance_lingers() {
    let account = Account::new();
    let id = account.run(&[]).expect("made");
    account.proxy.linger_for(2);
    account.list();
    account.proxy.call("TerminateInstances", &[("InstanceId.1", &id)]).expect("terminated");
    let state = || {
        let root = account.proxy.call("DescribeInstances", &[]).expect("listed");
        let reservation = &root.list("reservationSet")[0];
        reservation.list("instancesSet")[0].at("instanceState/name").expect("a state").to_owned()
    };
    assert_eq!([state(), state(), state()], ["running", "running", "terminated"]);
}

#[test]
fn lists_come_in_pages() {
    let account = Account::new();
    let made: Vec<String> = (0..5).map(|_| account.run(&[]).expect("made")).collect();
    account.proxy.page_size(Some(2));
    for (empty, last) in [(false, None), (true, Some(String::new()))] {
        account.proxy.empty_last_token(empty);
        let mut found = Vec::new();
        let mut token = None;
        for pages in 1.. {
            let (ids, next) = account.page(token.as_deref());
            found.extend(ids);
            match next {
                Some(next) if !next.text.is_empty() => token = Some(next.text),
                end => {
                    assert_eq!((pages, end.map(|end| end.text)), (3, last));
                    break;
                }
            }
        }
        assert_eq!(found, made);
    }
    let wrong = account.proxy.call("DescribeInstances", &[("NextToken", "muster-page-99")]);
    assert_eq!(wrong.expect_err("refused").code, "InvalidNextToken");
    account.proxy.page_size(None);
    account.proxy.empty_last_token(false);
    let (ids, next) = account.page(None);
    assert_eq!((ids, next), (made, None));
}

/// As EC2 does with `ClientToken`: the same create is made once, another one with its token is refused.
#[test]
fn a_create_is_idempotent() {
    let account = Account::new();
    let first = account.run(&[("ClientToken", "one")]).expect("made");
    assert_ne!(account.run(&[("ClientToken", "two")]).expect("made"), first);
    account.proxy.assert_fresh_client_tokens();
    assert_eq!(account.run(&[("ClientToken", "one")]).expect("known"), first);
    let other = [("ClientToken", "one"), ("NetworkInterface.1.SubnetId", account.subnets[1].as_str())];
    assert_eq!(account.run(&other).expect_err("refused").code, "IdempotentParameterMismatch");
    assert_eq!(account.moto.instances().len(), 2);
    let said = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| account.proxy.assert_fresh_client_tokens()));
    assert!(said.is_err());
}

#[test]
fn prices_are_those_of_the_test() {
    let account = Account::new();
    let price = |instance_type: &str, price: &str, minute: u8| Spot {
        instance_type: instance_type.to_owned(),
        zone: "us-east-1a".to_owned(),
        price: price.to_owned(),
        timestamp: format!("2026-01-31T12:{minute:02}:00.000Z"),
    };
    account.proxy.spot_prices(vec![
        price("t3.small", "0.1", 2),
        price("m5.xlarge", "0.2", 1),
        price("t3.small", "0.3", 0),
    ]);
    account.proxy.page_size(Some(1));
    let filter = [("Filter.1.Name", "instance-type"), ("Filter.1.Value.1", "t3.small")];
    let mut found = Vec::new();
    let mut token: Option<String> = None;
    loop {
        let mut parameters = filter.to_vec();
        parameters.extend(token.as_deref().map(|token| ("NextToken", token)));
        let root = account.proxy.call("DescribeSpotPriceHistory", &parameters).expect("answered");
        found.extend(root.list("spotPriceHistorySet").iter().map(|item| item.at("spotPrice").expect("one").to_owned()));
        token = root.at("nextToken").map(str::to_owned);
        if token.is_none() {
            break;
        }
    }
    assert_eq!(found, ["0.1", "0.3"]);
}
