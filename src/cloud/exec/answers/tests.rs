//! Every kind of answer, good and bad.

use serde_json::json;

use super::*;

const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

fn fields(value: Value) -> Map<String, Value> {
    value.as_object().cloned().expect("an object")
}

fn fault(instances: Value) -> String {
    listed(fields(json!({ "instances": instances }))).expect_err("not as it should be")
}

#[test]
fn a_list() {
    let full = json!({"id": "i-1", "address": "10.0.0.1:2222", "remote_user": "debian", "provider_type": "t",
        "tags": {"a": "b"}, "host_key": format!("{KEY} comment"), "unknown": 1,
        "prices": [{"StartTime": "1970-01-01T00:00:01Z", "Price": 1}, {"StartTime": "1970-01-01T00:00:02.5+00:00", "Price": 0.5}]});
    let empty = json!({"id": "i-2", "address": null, "tags": null, "host_key": "", "prices": null});
    let all = listed(fields(json!({"instances": [full, empty], "more": true}))).expect("good");
    let one = &all[0];
    assert_eq!((one.instance.id.as_str(), one.instance.address.as_str()), ("i-1", "10.0.0.1:2222"));
    assert_eq!((one.instance.remote_user.as_str(), one.instance.provider_type.as_str()), ("debian", "t"));
    assert_eq!(one.instance.tags, Tags::from_iter([("a".to_owned(), "b".to_owned())]));
    assert_eq!(one.host_key.as_ref().map(HostKey::openssh).as_deref(), Some(KEY));
    assert_eq!(one.prices, [PricePoint { since: 2500, price: 0.5 }, PricePoint { since: 1000, price: 1.0 }]);
    let one = &all[1];
    assert_eq!((one.instance.address.as_str(), one.instance.remote_user.as_str()), ("", "root"));
    assert!(one.host_key.is_none() && one.prices.is_empty() && one.instance.tags.is_empty());
    assert!(listed(fields(json!({"instances": []}))).expect("good").is_empty());
}

/// A list is taken whole or not at all, and its fault says where it is.
#[test]
fn bad_lists() {
    for (answer, part) in [(json!({}), "no list of instances"), (json!({"instances": {}}), "no list of instances")] {
        assert!(listed(fields(answer)).expect_err("bad").contains(part));
    }
    let long = "x".repeat(257);
    for (instances, expected) in [
        (json!([1]), "instances[0] must be an object"),
        (json!([{"id": "a"}, {}]), "instances[1] has no id"),
        (json!([{"id": ""}]), "instances[0] has no id"),
        (json!([{"id": 7}]), "instances[0]: id must be a text"),
        (json!([{"id": long}]), "instances[0]: id has more than 256 bytes"),
        (json!([{"id": "a\nb"}]), "instances[0]: id has a control character in it"),
        (json!([{"id": "a"}, {"id": "b"}, {"id": "a"}]), "the instance a is in it twice"),
        (json!([{"id": "a", "address": ["x"]}]), "instance a: address must be a text"),
        (json!([{"id": "a", "remote_user": "ro\u{0}ot"}]), "instance a: remote_user has a control character in it"),
        (json!([{"id": "a", "tags": []}]), "instance a: tags must be an object"),
        (json!([{"id": "a", "tags": {"n": 1}}]), "instance a: tags[\"n\"] must be a text"),
        (json!([{"id": "a", "prices": {}}]), "instance a: prices must be a list"),
    ] {
        assert_eq!(fault(instances), expected);
    }
    for (one, part) in [
        (json!({"id": "a", "host_key": "ssh-ed25519 ????"}), "instance a: host_key is not base64"),
        (
            json!({"id": "a", "host_key": KEY.replace("ssh-ed25519 ", "ssh-rsa ")}),
            "instance a: host_key does not contain",
        ),
        (json!({"id": "a", "prices": [{"StartTime": "yesterday", "Price": 1}]}), "instance a: prices[0].StartTime"),
        (json!({"id": "a", "prices": [{"StartTime": "2026-01-01T00:00:00Z", "Price": "1"}]}), "prices[0].Price"),
        (json!({"id": "a", "prices": [{"StartTime": "2026-01-01T00:00:00Z", "Price": -1}]}), "prices[0].Price"),
    ] {
        let fault = fault(json!([one]));
        assert!(fault.contains(part), "{fault}");
    }
}

/// What stands in an answer may be a secret.
#[test]
fn faults_do_not_repeat_what_they_are_about() {
    for one in [
        json!({"id": ["5ec2e7"]}),
        json!({"id": "a", "tags": {"secret": ["5ec2e7"]}}),
        json!({"id": "a", "host_key": "5ec2e7 5ec2e7"}),
        json!({"id": "a", "address": "\n5ec2e7"}),
        json!({"id": "a", "prices": [{"StartTime": "5ec2e7"}]}),
    ] {
        let fault = fault(json!([one]));
        assert!(!fault.replace("key of the type 5ec2e7", "").contains("5ec2e7"), "{fault}");
    }
}

#[test]
fn what_a_create_leaves_out_is_what_was_asked_for() {
    let asked = Tags::from_iter([("a".to_owned(), "b".to_owned())]);
    let made = |instance: Value| created(fields(json!({ "instance": instance })), &asked, "t");
    let one = made(json!({"id": "i"})).expect("good").instance;
    assert_eq!((one.tags, one.provider_type.as_str()), (asked.clone(), "t"));
    let one = made(json!({"id": "i", "tags": {}, "provider_type": "u"})).expect("good").instance;
    assert_eq!((one.tags, one.provider_type.as_str()), (Tags::new(), "u"));
    assert_eq!(made(json!({})).expect_err("bad"), "instance has no id");
    assert!(created(Map::new(), &asked, "t").is_err());
}

#[test]
fn what_a_program_is_capable_of() {
    let none = capabilities(Map::new()).expect("good");
    assert_eq!(none, Capabilities::default());
    let all = json!({"cheap_list": true, "verify_host_key": true, "quota_groups": {"t": "g"}, "later": 1});
    let all = capabilities(fields(all)).expect("good");
    assert!(all.cheap_list && all.verify_host_key);
    assert_eq!(all.quota_groups.get("t").map(String::as_str), Some("g"));
    assert_eq!(capabilities(fields(json!({"cheap_list": 1}))).expect_err("bad"), "cheap_list must be true or false");
    assert_eq!(
        capabilities(fields(json!({"quota_groups": {"t": 1}}))).expect_err("bad"),
        "quota_groups[\"t\"] must be a text"
    );
}

#[test]
fn classes_of_errors() {
    let class = |error: Value| format!("{:?}", refusal(&json!({ "error": error })).expect("an error"));
    let limited = |seconds: &str| format!("RateLimit {{ message: \"m\", retry_after: {seconds} }}");
    for (error, expected) in [
        (json!({"kind": "rate_limit", "message": "m", "retry_after_s": 12.5}), limited("12.5s")),
        (json!({"kind": "rate_limit", "message": "m"}), limited("30s")),
        (json!({"kind": "rate_limit", "message": "m", "retry_after_s": "7"}), limited("30s")),
        (json!({"kind": "rate_limit", "message": "m", "retry_after_s": -1}), limited("30s")),
        (json!({"kind": "rate_limit", "message": "m", "retry_after_s": 0}), limited("100ms")),
        (json!({"kind": "rate_limit", "message": "m", "retry_after_s": 1e300}), limited("3600s")),
        (json!({"kind": "quota", "message": "m"}), "Quota { message: \"m\" }".to_owned()),
        (
            json!({"kind": "capacity", "message": "m", "scope": "type"}),
            "Capacity { message: \"m\", scope: Type }".to_owned(),
        ),
        (
            json!({"kind": "capacity", "message": "m", "scope": "group"}),
            "Capacity { message: \"m\", scope: Group }".to_owned(),
        ),
        (
            json!({"kind": "capacity", "message": "m", "scope": "all"}),
            "Capacity { message: \"m\", scope: Everything }".to_owned(),
        ),
        (json!({"kind": "capacity", "message": "m"}), "Capacity { message: \"m\", scope: Everything }".to_owned()),
        (json!({"kind": "other", "message": "m"}), "Other { message: \"m\", source: None }".to_owned()),
        (json!({"kind": "new kind", "message": "m"}), "Other { message: \"m\", source: None }".to_owned()),
        (json!("m"), "Other { message: \"m\", source: None }".to_owned()),
        (json!({"message": " a\nb\t"}), "Other { message: \"a b\", source: None }".to_owned()),
    ] {
        assert_eq!(class(error), expected);
    }
    assert!(class(json!({})).contains("without a message"));
    let long = refusal(&json!({"error": "x".repeat(10_000)})).expect("an error").to_string();
    assert_eq!(long.chars().count(), MESSAGE_LETTERS_MAX + 1);
    assert!(refusal(&json!({"error": null, "instances": []})).is_none());
    assert!(refusal(&json!([])).is_none());
}
