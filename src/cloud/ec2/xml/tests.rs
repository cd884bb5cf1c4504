//! Answers as AWS sends them, and what must not be taken for one.

use super::*;

fn message_of(result: Result<Element, QueryError>) -> String {
    match result {
        Err(QueryError::Other { message, .. }) => message,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_answer_becomes_elements_without_namespaces() {
    let text = r#"<?xml version="1.0" encoding="UTF-8"?>
<ec2:DescribeKeyPairsResponse xmlns:ec2="http://ec2.amazonaws.com/doc/2016-11-15/">
  <!-- a comment --><requestId>r-1</requestId>
  <keySet>
    <item><ec2:keyName a="b">one &amp; &lt;two&gt; &#x1234;&#65;</ec2:keyName><tagSet/></item>
    <item><keyName><![CDATA[<three>]]>&quot;&apos;</keyName></item>
  </keySet>
  <nextToken></nextToken>
</ec2:DescribeKeyPairsResponse>
"#;
    let root = answer(200, text.as_bytes()).expect("an answer");
    assert_eq!(root.name, "DescribeKeyPairsResponse");
    let names: Vec<_> = root.items(&["keySet"]).map(|item| item.text_of(&["keyName"]).expect("a name")).collect();
    assert_eq!(names, ["one & <two> ሴA", "<three>\"'"]);
    assert_eq!(root.text_of(&["nextToken"]), Some(""));
    assert_eq!(root.text_of(&["keySet", "item", "tagSet"]), Some(""));
    assert_eq!(root.text_of(&["keySet", "item", "nothing"]), None);
}

#[test]
fn error_documents_of_ec2_and_sts() {
    let ec2 = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code>\
               <Message>We currently do not have sufficient capacity &amp; more.</Message></Error></Errors>\
               <RequestID>ea966190-f9aa-478e-9ede-example</RequestID></Response>";
    let sts = "<ErrorResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><Error><Type>Sender</Type>\
               <Code>ExpiredTokenException</Code><Message>Token expired</Message></Error><RequestId>r-2</RequestId></ErrorResponse>";
    let bare = "<Response><Errors><Error/></Errors></Response>";
    for (status, text, expected) in [
        (
            500,
            ec2,
            "InsufficientInstanceCapacity: We currently do not have sufficient capacity & more. (request id ea966190-f9aa-478e-9ede-example)",
        ),
        (200, ec2, "InsufficientInstanceCapacity: We"),
        (400, sts, "ExpiredTokenException: Token expired (request id r-2)"),
        (400, bare, "(no code):  (request id (none))"),
    ] {
        let error = answer(status, text.as_bytes()).expect_err("an error");
        assert!(matches!(&error, QueryError::Api { status: shown, .. } if *shown == status), "{error:?}");
        assert!(error.to_string().starts_with(expected), "{error}");
    }
}

#[test]
fn a_status_of_failure_without_a_document_is_told_with_what_came() {
    let page = format!("<html><body>\x1b[31m Service\nUnavailable {}", "x".repeat(1000));
    let message = message_of(answer(503, page.as_bytes()));
    assert!(
        message.contains("HTTP status 503") && message.contains(r"\u{1b}[31m Service\nUnavailable xxx"),
        "{message}"
    );
    assert!(message.ends_with("x…") && message.chars().count() < 400, "{message}");
    assert!(message_of(answer(503, b"")).ends_with("no text"));
    // Whole XML, but not one that says why.
    assert!(message_of(answer(502, b"<html/>")).contains("HTTP status 502"));
    assert!(message_of(answer(302, b"moved")).contains("redirects are not followed"));
}

#[test]
fn what_is_not_whole_xml_is_an_error_that_shows_it() {
    let deep = "<a>".repeat(DEPTH_MAX + 1);
    let many = format!("<a>{}</a>", "<b/>".repeat(ELEMENTS_MAX));
    let entities = r#"<!DOCTYPE a [<!ENTITY x "yyyyyyyy">]><a>&x;</a>"#;
    for (text, expected) in [
        ("", "has no element"),
        ("  \n", "has no element"),
        ("plain text", "outside its root"),
        ("<a><b>text</b>", "<a> does not end"),
        ("<a><b>te", "does not end"),
        ("<a><b", "not whole XML"),
        ("<a></b>", "not whole XML"),
        ("</a>", "not whole XML"),
        ("<a/><b/>", "two root elements"),
        ("<a/>text", "outside its root"),
        ("<a>&nbsp;</a>", "unknown entity nbsp"),
        ("<a>&#xD800;</a>", "not whole XML"),
        ("<a>&#0;</a>", "not whole XML"),
        ("< >text</ >", "no name"),
        (entities, "document type"),
        (deep.as_str(), "elements deep"),
        (many.as_str(), "more than 500000 elements"),
    ] {
        let message = message_of(answer(200, text.as_bytes()));
        assert!(message.contains(expected), "{}: {message}", excerpt(text.as_bytes()));
        assert!(message.chars().count() < 500);
    }
    assert!(message_of(answer(200, b"<a>\xff</a>")).contains("not UTF-8"));
}

#[test]
fn any_prefix_of_an_answer_is_an_error_and_never_a_shorter_answer() {
    let text = "<r><instancesSet><item><id>i-1</id></item><item><id>i-2</id></item></instancesSet></r>";
    for length in 0..text.len() {
        assert!(answer(200, &text.as_bytes()[..length]).is_err(), "{length}");
    }
    assert!(answer(200, text.as_bytes()).is_ok());
}

#[test]
fn the_deepest_allowed_document_is_read() {
    let text = format!("{}{}", "<a>".repeat(DEPTH_MAX), "</a>".repeat(DEPTH_MAX));
    let mut element = &parse(text.as_bytes()).expect("whole");
    let mut depth = 1;
    while let Some(child) = element.child("a") {
        element = child;
        depth += 1;
    }
    assert_eq!(depth, DEPTH_MAX);
}

#[test]
fn excerpts_are_short_and_in_one_line() {
    assert_eq!(excerpt("a\r\n\tä\u{7}".as_bytes()), "a\\r\\n\\tä\\u{7}");
    assert_eq!(excerpt("ä".repeat(EXCERPT_CHARS).as_bytes()), "ä".repeat(EXCERPT_CHARS));
    assert_eq!(excerpt("ä".repeat(EXCERPT_CHARS + 1).as_bytes()).chars().count(), EXCERPT_CHARS + 1);
    assert_eq!(excerpt(&[b'a'; 10_000]).chars().count(), EXCERPT_CHARS + 1);
}
