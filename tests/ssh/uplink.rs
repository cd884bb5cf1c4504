//! A way to a host on which only what goes there can be held up.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::fixture::wait_until;

#[derive(Default)]
struct Gate {
    /// So many bytes pass.
    limit: Mutex<Option<u64>>,
    changed: Condvar,
    bytes: AtomicU64,
}

pub(crate) struct Uplink {
    address: String,
    gate: Arc<Gate>,
}

impl Uplink {
    /// Its threads end with the connections, and with the process.
    pub(crate) fn to(host: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        // So that little is on its way when it is held up.
        rustix::net::sockopt::set_socket_recv_buffer_size(&listener, 8192).expect("set");
        let address = listener.local_addr().expect("bound").to_string();
        let gate = Arc::new(Gate::default());
        let (of_thread, host) = (gate.clone(), host.to_owned());
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let client = client.expect("accepted");
                let server = TcpStream::connect(&host).expect("the host listens");
                for socket in [&client, &server] {
                    socket.set_nodelay(true).expect("set");
                }
                let (up, down) = (of_thread.clone(), Arc::new(Gate::default()));
                let pair = |socket: &TcpStream| socket.try_clone().expect("a descriptor");
                let (from, to) = (pair(&client), pair(&server));
                std::thread::spawn(move || pump(from, to, &up));
                std::thread::spawn(move || pump(server, client, &down));
            }
        });
        Self { address, gate }
    }

    pub(crate) fn address(&self) -> String {
        self.address.clone()
    }

    /// Lets so many more bytes pass.
    pub(crate) fn hold_after(&self, more: u64) {
        *self.gate.limit.lock() = Some(self.gate.bytes.load(Ordering::SeqCst) + more);
    }

    pub(crate) fn release(&self) {
        *self.gate.limit.lock() = None;
        self.gate.changed.notify_all();
    }

    /// No byte has passed for a while, so the sender's and our buffers are full.
    pub(crate) fn wait_until_still(&self) {
        let mut last = (self.gate.bytes.load(Ordering::SeqCst), Instant::now());
        wait_until("nothing moves", || {
            let now = self.gate.bytes.load(Ordering::SeqCst);
            if now != last.0 {
                last = (now, Instant::now());
            }
            last.1.elapsed() > Duration::from_millis(500)
        });
    }
}

fn pump(mut from: TcpStream, mut to: TcpStream, gate: &Gate) {
    let mut buffer = [0; 4096];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut limit = gate.limit.lock();
        while limit.is_some_and(|limit| gate.bytes.load(Ordering::SeqCst) >= limit) {
            gate.changed.wait(&mut limit);
        }
        drop(limit);
        gate.bytes.fetch_add(count as u64, Ordering::SeqCst);
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Write);
}
