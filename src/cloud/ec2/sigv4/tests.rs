//! AWS's published test suite for signatures (aws-sig-v4-test-suite) and the example in its documentation of IAM's ListUsers.

use super::*;
use crate::cloud::ec2::credentials::{Lifetime, Secret};

/// 2015-08-30T12:36:00Z.
const NOW: WallMillis = 1_440_938_160_000;
const UNRESERVED: &str = "-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
/// That of the suite's post-sts-token.
const TOKEN: &str = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA==";

fn credentials(token: Option<&str>) -> Credentials {
    Credentials {
        access_key_id: "AKIDEXAMPLE".into(),
        secret_access_key: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
        session_token: token.map(Secret::new),
        lifetime: Lifetime::Fixed,
    }
}

/// Method, path, query, headers beside `Host`, body.
type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], &'a [(&'a str, &'a str)], &'a str);

fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn signed(host: &str, service: &'static str, case: &Case<'_>, token: Option<&str>) -> Vec<(String, String)> {
    let (method, path, query, headers, body) = *case;
    let mut all = owned(&[("Host", host)]);
    all.extend(owned(headers));
    let query = Params(owned(query));
    let request = Signable { method, path, query: &query, headers: &all, body };
    sign(&request, &Scope { region: "us-east-1".into(), service }, &credentials(token), NOW)
}

/// The part of the authorization that differs: names of headers, and the signature.
fn check(name: &str, host: &str, service: &'static str, case: &Case<'_>, token: Option<&str>, expected: (&str, &str)) {
    let added = signed(host, service, case, token);
    let (header, authorization) = added.last().expect("headers");
    assert_eq!(header, "Authorization");
    let (names, signature) = expected;
    let expected = format!(
        "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request, SignedHeaders={names}, Signature={signature}"
    );
    assert_eq!(*authorization, expected, "{name}");
}

#[test]
fn the_suite_of_aws() {
    const FORM: &str = "application/x-www-form-urlencoded";
    let plain = "host;x-amz-date";
    let one = "host;my-header1;x-amz-date";
    let typed = "content-type;host;x-amz-date";
    let unreserved_path = format!("/{UNRESERVED}");
    let cases: &[(&str, Case<'_>, &str, &str)] = &[
        (
            "get-vanilla",
            ("GET", "/", &[], &[], ""),
            plain,
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        (
            "get-vanilla-query-order-key-case",
            ("GET", "/", &[("Param2", "value2"), ("Param1", "value1")], &[], ""),
            plain,
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        (
            "get-vanilla-query-order-value",
            ("GET", "/", &[("Param1", "value2"), ("Param1", "value1")], &[], ""),
            plain,
            "5772eed61e12b33fae39ee5e7012498b51d56abc0abb7c60486157bd471c4694",
        ),
        (
            "get-vanilla-empty-query-key",
            ("GET", "/", &[("Param1", "value1")], &[], ""),
            plain,
            "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
        ),
        (
            "get-vanilla-query-unreserved",
            ("GET", "/", &[(UNRESERVED, UNRESERVED)], &[], ""),
            plain,
            "9c3e54bfcdf0b19771a7f523ee5669cdf59bc7cc0884027167c21bb143a40197",
        ),
        (
            "get-vanilla-utf8-query",
            ("GET", "/", &[("ሴ", "bar")], &[], ""),
            plain,
            "2cdec8eed098649ff3a119c94853b13c643bcf08f8b0a1d91e12c9027818dd04",
        ),
        (
            "get-unreserved",
            ("GET", &unreserved_path, &[], &[], ""),
            plain,
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        (
            "get-utf8",
            ("GET", "/ሴ", &[], &[], ""),
            plain,
            "8318018e0b0f223aa2bbf98705b62bb787dc9c0e678f255a891fd03141be5d85",
        ),
        (
            "get-header-key-duplicate",
            ("GET", "/", &[], &[("My-Header1", "value2"), ("My-Header1", "value2"), ("My-Header1", "value1")], ""),
            one,
            "c9d5ea9f3f72853aea855b47ea873832890dbdd183b4468f858259531a5138ea",
        ),
        (
            "get-header-value-order",
            (
                "GET",
                "/",
                &[],
                &[
                    ("My-Header1", "value4"),
                    ("My-Header1", "value1"),
                    ("My-Header1", "value3"),
                    ("My-Header1", "value2"),
                ],
                "",
            ),
            one,
            "08c7e5a9acfcfeb3ab6b2185e75ce8b1deb5e634ec47601a50643f830c755c01",
        ),
        (
            "get-header-value-trim",
            ("GET", "/", &[], &[("My-Header1", " value1"), ("My-Header2", " \"a   b   c\"")], ""),
            "host;my-header1;my-header2;x-amz-date",
            "acc3ed3afb60bb290fc8d2dd0098b9911fcaa05412b367055dee359757a9c736",
        ),
        (
            "post-vanilla",
            ("POST", "/", &[], &[], ""),
            plain,
            "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
        ),
        (
            "post-header-key-sort",
            ("POST", "/", &[], &[("My-Header1", "value1")], ""),
            one,
            "c5410059b04c1ee005303aed430f6e6645f61f4dc9e1461ec8f8916fdf18852c",
        ),
        (
            "post-header-value-case",
            ("POST", "/", &[], &[("My-Header1", "VALUE1")], ""),
            one,
            "cdbc9802e29d2942e5e10b5bccfdd67c5f22c7c4e8ae67b53629efa58b974b7d",
        ),
        (
            "post-vanilla-query",
            ("POST", "/", &[("Param1", "value1")], &[], ""),
            plain,
            "28038455d6de14eafc1f9222cf5aa6f1a96197d7deb8263271d420d138af7f11",
        ),
        (
            "post-x-www-form-urlencoded",
            ("POST", "/", &[], &[("Content-Type", FORM)], "Param1=value1"),
            typed,
            "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
        ),
        (
            "post-x-www-form-urlencoded-parameters",
            ("POST", "/", &[], &[("Content-Type", "application/x-www-form-urlencoded; charset=utf8")], "Param1=value1"),
            typed,
            "1a72ec8f64bd914b0e42e42607c7fbce7fb2c7465f63e3092b3b0d39fa77a6fe",
        ),
    ];
    for (name, case, names, signature) in cases {
        check(name, "example.amazonaws.com", "service", case, None, (names, signature));
    }
}

/// The suite's post-sts-header-before signs the token; in -after it is added to a signed request, which is then post-vanilla.
#[test]
fn the_token_of_a_session_is_signed() {
    let expected =
        ("host;x-amz-date;x-amz-security-token", "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead");
    let case = ("POST", "/", [].as_slice(), [].as_slice(), "");
    check("post-sts-header-before", "example.amazonaws.com", "service", &case, Some(TOKEN), expected);
    let added = signed("example.amazonaws.com", "service", &case, Some(TOKEN));
    assert_eq!(added[0], ("X-Amz-Date".to_owned(), "20150830T123600Z".to_owned()));
    assert_eq!(added[1], ("X-Amz-Security-Token".to_owned(), TOKEN.to_owned()));
}

#[test]
fn the_documented_example_of_iam() {
    let query = [("Action", "ListUsers"), ("Version", "2010-05-08")];
    let headers = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")];
    let expected = ("content-type;host;x-amz-date", "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
    check("ListUsers", "iam.amazonaws.com", "iam", &("GET", "/", &query, &headers, ""), None, expected);
}

/// As AWS's own library for Python signs a call of EC2.
#[test]
fn a_form_for_ec2() {
    let headers = [("Content-Type", "application/x-www-form-urlencoded; charset=utf-8")];
    let case = ("POST", "/", [].as_slice(), headers.as_slice(), "Action=DescribeInstances&Version=2016-11-15");
    let expected = (
        "content-type;host;x-amz-date;x-amz-security-token",
        "3b6009a7d4c6364119839744b5c7e237dabbdbdb1a0047888de2fa3755685aeb",
    );
    check("DescribeInstances", "ec2.us-east-1.amazonaws.com", "ec2", &case, Some("tok+en/1=="), expected);
}
