//! HTTP itself: limits, framing, connections, stop.

use crate::fake::{LIMIT, TOKEN, start, start_with};

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n")
}

#[test]
fn keep_alive_pipelining_and_close() {
    let peer = start();
    let mut client = peer.connect();
    client.send(&(get("/muster/v1/version") + &get("/none") + "\r\n\r\n" + &get("/muster/v1/version")));
    let statuses = [(); 3].map(|()| client.answer(false).status);
    assert_eq!(statuses, [200, 404, 200]);
    client.send(&get("/none"));
    assert_eq!(client.answer(false).status, 404);
    client.send(&format!("GET /none HTTP/1.1\r\nConnection: close\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"));
    assert_eq!(client.answer(false).header("Connection"), Some("close"));
    assert!(client.is_closed());
}

#[test]
fn a_refusal_reaches_a_client_that_is_still_sending() {
    let peer = start();
    for (token, length, status) in [(TOKEN, 20_000_000, 413), ("wrong", 10_000_000, 403)] {
        let mut client = peer.connect();
        let head = format!("POST /muster/v1/containers HTTP/1.1\r\nAuthorization: Bearer {token}\r\n");
        let body = "x".repeat(8 << 20);
        client.send_while_read(&format!("{head}Content-Length: {length}\r\n\r\n{body}"));
        assert_eq!(client.answer(false).status, status);
    }
}

#[test]
fn head_has_length_and_no_body() {
    let peer = start();
    let mut client = peer.connect();
    client.send(&get("/muster/v1/instance-types").replace("GET", "HEAD"));
    let answer = client.answer(true);
    assert_eq!((answer.status, answer.header("Content-Length")), (200, Some("13")));
    client.send(&get("/none"));
    assert_eq!(client.answer(false).status, 404);
}

#[test]
fn chunked_body_and_continue() {
    let peer = start();
    let mut client = peer.connect();
    let head = format!("POST /muster/v1/containers HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n");
    client.send(&format!(
        "{head}Transfer-Encoding: chunked\r\n\r\nA\r\n{{\"records\"\r\n6\r\n:[{{}}]\r\n1\r\n}}\r\n0\r\n\r\n"
    ));
    assert_eq!(client.answer(false).status, 200);
    client.send(&format!("{head}Expect: 100-continue\r\nContent-Length: 16\r\n\r\n"));
    assert_eq!(client.head(), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("{\"records\":[{}]}");
    assert_eq!(client.answer(false).status, 200);
    assert_eq!(peer.fake.last_call(), "submit 1");
}

#[test]
fn oversize_and_malformed_requests_are_refused_and_closed() {
    let peer = start();
    let token = format!("Authorization: Bearer {TOKEN}\r\n");
    let rows = [
        (format!("GET /none HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(70_000)), 431),
        (format!("POST /none HTTP/1.1\r\n{token}Content-Length: 10485761\r\n\r\n"), 413),
        (format!("POST /none HTTP/1.1\r\n{token}Transfer-Encoding: chunked\r\n\r\nA00001\r\n"), 413),
        (format!("POST /none HTTP/1.1\r\n{token}Transfer-Encoding: chunked\r\n\r\nxyz\r\n"), 400),
        (format!("POST /none HTTP/1.1\r\n{token}Transfer-Encoding: gzip\r\n\r\n"), 501),
        ("nonsense\r\n\r\n".to_owned(), 400),
        // Without a token its body is not even waited for.
        ("POST /muster/v1/backup HTTP/1.1\r\nContent-Length: 10485760\r\n\r\n".to_owned(), 401),
    ];
    for (request, status) in rows {
        let mut client = peer.connect();
        client.send(&request);
        let answer = client.answer(false);
        assert_eq!(answer.status, status, "{answer:?}");
        assert_eq!(answer.header("Connection"), Some("close"));
        assert!(client.is_closed());
    }
}

#[test]
fn largest_body_is_read() {
    let peer = start();
    let record = format!("{{\"name\":\"{}\"}}\n", "x".repeat(1024 * 1024 - 12));
    let body = record.repeat(10);
    assert_eq!(body.len(), 10 * 1024 * 1024);
    assert_eq!(peer.ask("POST", "/muster/v1/batches/b1/records", &body).body, "{\"records\":10}\n");
}

#[test]
fn slow_clients_do_not_block_others() {
    let peer = start();
    let mut slow: Vec<_> = (0..20).map(|_| peer.connect()).collect();
    for client in &mut slow {
        client.send("GET /muster/v1/ver");
    }
    // None of the slow ones has an answer yet, and they need not end for this one.
    assert_eq!(peer.ask("GET", "/muster/v1/version", "").status, 200);
    for client in &mut slow {
        client.send(&format!("sion HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"));
        assert_eq!(client.answer(false).status, 200);
    }
}

#[test]
fn connections_above_the_limit_get_503_and_the_socket_has_its_own() {
    let peer = start_with(TOKEN, 3);
    let mut held: Vec<_> = (0..3).map(|_| peer.connect()).collect();
    for client in &mut held {
        client.send(&get("/muster/v1/version"));
        assert_eq!(client.answer(false).status, 200);
    }
    let mut surplus = peer.connect();
    assert_eq!(surplus.answer(false).status, 503);
    assert!(surplus.is_closed());
    let mut owner = peer.connect_unix();
    owner.send("GET /muster/v1/version HTTP/1.1\r\n\r\n");
    assert_eq!(owner.answer(false).status, 200);
    held.pop();
    // The place is free as soon as the thread has seen the end.
    let deadline = std::time::Instant::now() + LIMIT;
    loop {
        let mut client = peer.connect();
        let mut status = [0; 12];
        // The answer may be a 503 that comes before the request is sent.
        let _ = std::io::Write::write_all(&mut client.0, get("/muster/v1/version").as_bytes());
        if std::io::Read::read_exact(&mut client.0, &mut status).is_ok() && status.ends_with(b"200") {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the place was not given back");
    }
}

#[test]
fn stop_ends_waits_and_joins_all() {
    let mut peer = start();
    let mut idle = peer.connect();
    let mut half = peer.connect();
    half.send("GET /mus");
    let mut waiting = peer.connect();
    let body = "{\"uuids\":[\"x\"],\"wait_s\":30}";
    let head = format!("POST /muster/v1/containers/wait HTTP/1.1\r\nAuthorization: Bearer {TOKEN}\r\n");
    waiting.send(&format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()));
    peer.fake.until_waiting(1);
    assert!(peer.server.stop(), "all threads ended");
    assert_eq!(waiting.answer(false).status, 200);
    assert!(idle.is_closed() && half.is_closed() && waiting.is_closed());
    assert!(!peer.socket.exists());
    assert!(std::net::TcpStream::connect(peer.address).is_err());
    assert!(peer.server.stop());
}
