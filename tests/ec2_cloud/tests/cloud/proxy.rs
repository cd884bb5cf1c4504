//! Each fault, and what is recorded of the calls that it hits.

use std::time::Duration;

use muster_ec2_cloud::{Fault, Gate, Rule};

use crate::support::Account;

#[test]
fn calls_are_recorded_with_their_parameters() {
    let account = Account::new();
    let id = account.run(&[("ClientToken", "a&b=c d+é")]).expect("made");
    account.list();
    let calls = account.proxy.calls("RunInstances");
    assert_eq!(calls.len(), 1);
    assert_eq!(calls[0].parameter("ClientToken"), Some("a&b=c d+é"));
    assert!(calls[0].has("SubnetId", &account.subnets[0]) && !calls[0].has("ubnetId", &account.subnets[0]));
    assert!(calls[0].answer.contains(&id) && calls[0].forwarded && calls[0].status == Some(200));
    let all = account.proxy.wait_for_finished("*", 2);
    assert_eq!(all.iter().map(|call| call.action.as_str()).collect::<Vec<_>>(), ["RunInstances", "DescribeInstances"]);
    assert!(all[0].at <= all[1].at);
}

#[test]
fn errors_hit_the_calls_of_their_rule_only() {
    let account = Account::new();
    let full = Fault::error("InsufficientInstanceCapacity", "none <here> & now");
    let rule = account.proxy.rule(Rule::on("RunInstances", full).with("InstanceType", "t3.large").after(1).times(2));
    let large = || account.run(&[("InstanceType", "t3.large")]);
    assert!(large().is_ok());
    for _ in 0..2 {
        assert!(account.run(&[]).is_ok(), "another type");
        let error = large().expect_err("refused");
        let found = (error.status, error.code.as_str(), error.message.as_str());
        assert_eq!(found, (503, "InsufficientInstanceCapacity", "none <here> & now"));
    }
    assert!(large().is_ok(), "only two");
    assert_eq!((rule.hits(), account.moto.instances().len()), (2, 4));
    let calls = account.proxy.calls("RunInstances");
    assert_eq!(calls.iter().filter(|call| !call.forwarded).count(), 2);
}

#[test]
fn rules_can_be_removed_and_the_first_decides() {
    let account = Account::new();
    let first = account.proxy.rule(Rule::on("DescribeInstances", Fault::error("First", "")));
    account.proxy.rule(Rule::on("*", Fault::error("Second", "")));
    let code = || account.proxy.call("DescribeInstances", &[]).expect_err("refused").code;
    assert_eq!(code(), "First");
    first.remove();
    assert_eq!(code(), "Second");
    account.proxy.clear_rules();
    assert!(account.proxy.call("DescribeInstances", &[]).is_ok());
}

#[test]
fn an_answer_that_is_cut_has_had_its_effect() {
    let account = Account::new();
    for (count, bytes) in [(1, 0), (2, 40), (3, 400)] {
        account.proxy.rule(Rule::on("RunInstances", Fault::CutAfter(bytes)));
        let error = account.run(&[]).expect_err("cut");
        assert_eq!(error.status, 0, "{error}");
        account.proxy.clear_rules();
        assert_eq!(account.moto.instances().len(), count);
    }
}

#[test]
fn a_dropped_connection_has_no_effect() {
    let account = Account::new();
    account.proxy.rule(Rule::on("RunInstances", Fault::Drop).times(1));
    assert_eq!(account.run(&[]).expect_err("dropped").status, 0);
    assert_eq!(account.moto.instances().len(), 0);
    assert!(account.run(&[]).is_ok());
}

#[test]
fn an_answer_is_held_until_the_gate_opens() {
    let account = Account::new();
    let gate = Gate::closed();
    account.proxy.rule(Rule::on("RunInstances", Fault::HoldAnswer(gate.clone())));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| account.run(&[]));
        let seen = account.proxy.wait_for_forwarded("RunInstances", 1);
        assert!(!seen[0].finished && seen[0].status == Some(200));
        assert_eq!(account.moto.instances().len(), 1, "made, though the client does not know it");
        assert!(!call.is_finished());
        gate.open();
        assert!(call.join().expect("no panic").is_ok());
    });
}

#[test]
fn a_request_is_held_until_the_gate_opens() {
    let account = Account::new();
    let gate = Gate::closed();
    account.proxy.rule(Rule::on("RunInstances", Fault::HoldRequest(gate.clone())));
    std::thread::scope(|scope| {
        let call = scope.spawn(|| account.run(&[]));
        let seen = account.proxy.wait_for_calls("RunInstances", 1);
        assert!(!seen[0].forwarded && seen[0].status.is_none());
        assert_eq!(account.moto.instances().len(), 0);
        gate.open();
        assert!(call.join().expect("no panic").is_ok());
    });
    assert_eq!(account.moto.instances().len(), 1);
}

/// What waits at a gate or hangs ends with the proxy.
#[test]
fn nothing_keeps_the_proxy_from_ending() {
    let account = Account::new();
    let url = account.proxy.url();
    account.proxy.rule(Rule::on("DescribeInstances", Fault::HoldAnswer(Gate::closed())));
    account.proxy.rule(Rule::on("DescribeKeyPairs", Fault::Hang));
    account.proxy.rule(Rule::on("RunInstances", Fault::HangAfter));
    let slow = Fault::Trickle { piece: 1, pause: Duration::from_secs(1000) };
    account.proxy.rule(Rule::on("DescribeImages", slow));
    let address = url.strip_prefix("http://").expect("a URL").to_owned();
    let calls = ["DescribeInstances", "DescribeKeyPairs", "RunInstances", "DescribeImages"].map(|action| {
        let address = address.clone();
        std::thread::spawn(move || {
            let mut stream = std::net::TcpStream::connect(address).expect("connected");
            let body = format!("Action={action}&Version=2016-11-15");
            let head = "POST / HTTP/1.1\r\nHost: localhost\r\nX-Test-Unsigned: 1\r\nContent-Type: \
                application/x-www-form-urlencoded\r\nAuthorization: AWS4-HMAC-SHA256 \
                Credential=x/20200101/us-east-1/ec2/aws4_request, SignedHeaders=host, Signature=0\r\n";
            let request = format!("{head}Content-Length: {}\r\n\r\n{body}", body.len());
            std::io::Write::write_all(&mut stream, request.as_bytes()).expect("sent");
            let mut answer = Vec::new();
            let _ = std::io::Read::read_to_end(&mut stream, &mut answer);
        })
    });
    let seen = account.proxy.wait_for_calls("*", 4);
    assert_eq!(seen.len(), 4);
    let Account { proxy, moto, .. } = account;
    drop(proxy);
    for call in calls {
        call.join().expect("its connection has ended");
    }
    drop(moto);
}

#[test]
fn other_answers_come_in_the_place_of_the_right_one() {
    let account = Account::new();
    account.proxy.rule(Rule::on("DescribeInstances", Fault::html(502)).times(1));
    account.proxy.rule(Rule::on("DescribeInstances", Fault::xml("<DescribeInstancesResponse><reserv")).times(1));
    let list = || account.proxy.call("DescribeInstances", &[]).expect_err("refused");
    let (first, second) = (list(), list());
    assert!(first.status == 502 && first.message.contains("<html>"), "{first}");
    assert!(second.status == 200 && second.message.contains("reserv"), "{second}");
    let body = "all is well".to_owned();
    let garbage = Fault::AnswerAfter { status: 200, content_type: "text/plain".to_owned(), body };
    account.proxy.rule(Rule::on("RunInstances", garbage));
    assert_eq!(account.run(&[]).expect_err("no XML").message, "all is well");
    assert_eq!(account.moto.instances().len(), 1, "made nevertheless");
}

#[test]
fn an_answer_in_pieces_is_whole_in_the_end() {
    let account = Account::new();
    let slow = Fault::Trickle { piece: 7, pause: Duration::from_micros(100) };
    let rule = account.proxy.rule(Rule::on("RunInstances", slow));
    let id = account.run(&[]).expect("made");
    assert_eq!((account.moto.instance(&id).id, rule.hits()), (id.clone(), 1));
}

/// Connections are kept as EC2 keeps them, and end when they are told to.
#[test]
fn a_connection_serves_more_than_one_call() {
    use std::io::{BufRead, BufReader, Read, Write};
    let account = Account::new();
    account.proxy.rule(Rule::on("*", Fault::xml("<a/>")));
    let url = account.proxy.url();
    let stream = std::net::TcpStream::connect(url.strip_prefix("http://").expect("a URL")).expect("connected");
    let mut reader = BufReader::new(stream.try_clone().expect("a copy"));
    for _ in 0..2 {
        let request = "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 8\r\n\r\nAction=A";
        (&stream).write_all(request.as_bytes()).expect("sent");
        let mut line = String::new();
        while !line.ends_with("\r\n\r\n") {
            assert!(reader.read_line(&mut line).expect("read") > 0, "{line}");
        }
        let mut body = [0; 4];
        reader.read_exact(&mut body).expect("the body");
        assert_eq!(&body, b"<a/>");
    }
    let calls = account.proxy.calls("A");
    assert!(calls.len() == 2 && calls[0].connection == calls[1].connection, "{calls:?}");
    account.proxy.close_connections();
    assert_eq!(reader.read(&mut [0; 8]).expect("an end"), 0);
}
