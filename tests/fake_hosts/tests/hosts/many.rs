//! Hundreds of hosts at a time. What they cost is printed, not judged: the machine may be busy.

use std::time::Instant;

use muster_fake_hosts::{ClientKey, Fleet, HostOptions};

use crate::client::{Client, U, start};

const HOSTS: usize = 500;
/// Clients that connect at the same time.
const CLIENTS: usize = 8;

/// Resident memory of this process in KiB, threads, and open descriptors.
fn cost() -> (u64, u64, usize) {
    let status = std::fs::read_to_string("/proc/self/status").expect("readable");
    let field = |name: &str| {
        let line = status.lines().find(|line| line.starts_with(name)).expect("a field of every process");
        line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
    };
    let descriptors = std::fs::read_dir("/proc/self/fd").expect("readable").count();
    (field("VmRSS:"), field("Threads:"), descriptors)
}

#[expect(clippy::print_stdout, reason = "figures for whoever runs this with --nocapture")]
#[test]
fn five_hundred_hosts() {
    let key = ClientKey::generate();
    let before = Instant::now();
    let fleet = Fleet::start(HOSTS, HostOptions { client_key: Some(key.public.clone()), ..HostOptions::default() });
    let started = before.elapsed();
    let (idle, before) = (cost(), Instant::now());
    let clients: Vec<Client> = std::thread::scope(|scope| {
        let part = |hosts: &'static str, index: usize| {
            let (fleet, key) = (&fleet, &key);
            scope.spawn(move || {
                let mine = fleet.hosts().iter().skip(index).step_by(CLIENTS);
                mine.map(|host| Client::connect(host, key).expect(hosts)).collect::<Vec<_>>()
            })
        };
        let parts: Vec<_> = (0..CLIENTS).map(|index| part("it lets us in", index)).collect();
        parts.into_iter().flat_map(|part| part.join().expect("no panic")).collect()
    });
    let (connected, cost) = (before.elapsed(), cost());
    for host in fleet.hosts() {
        let counters = host.counters();
        assert_eq!((counters.connections_now, counters.handshakes, counters.auths), (1, 1, 1));
    }
    let before = Instant::now();
    for client in &clients {
        assert_eq!(start(client, U, 1).code, 0);
    }
    let commands = before.elapsed();
    assert_eq!(fleet.starts()[&(U.to_owned(), 1)], 500, "more than once is seen");
    println!("{HOSTS} hosts listen after {started:?}, (KiB, threads, descriptors) {idle:?}");
    println!("{HOSTS} connections, both ends, after {connected:?}, {cost:?}; one command on each {commands:?}");
}
