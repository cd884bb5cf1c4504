//! A listener on this host that gives scripted answers, one to a connection, and keeps what it was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

/// What a connection gets.
#[derive(Debug)]
pub(in crate::cloud::ec2) enum Reply {
    /// These bytes, then the end.
    Raw(Vec<u8>),
    /// These bytes, then nothing more until the client goes away.
    Silence(Vec<u8>),
}

impl Reply {
    pub(in crate::cloud::ec2) fn text(status: u16, body: &str) -> Self {
        Self::Raw(format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into_bytes())
    }
}

/// What was asked on one connection.
#[derive(Clone, Debug, Default)]
pub(in crate::cloud::ec2) struct Asked {
    pub(in crate::cloud::ec2) line: String,
    /// Names in lower case.
    headers: Vec<(String, String)>,
    pub(in crate::cloud::ec2) body: String,
}

impl Asked {
    pub(in crate::cloud::ec2) fn all(&self, name: &str) -> Vec<String> {
        self.headers.iter().filter(|(known, _)| known == name).map(|(_, value)| value.clone()).collect()
    }

    fn read(stream: &TcpStream) -> std::io::Result<Self> {
        let mut reader = BufReader::new(stream);
        let mut asked = Self::default();
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 && line != "\r\n" {
            let text = std::mem::take(&mut line);
            match text.trim_end().split_once(": ") {
                Some((name, value)) => asked.headers.push((name.to_ascii_lowercase(), value.to_owned())),
                None => text.trim_end().clone_into(&mut asked.line),
            }
        }
        let length = asked.all("content-length").first().map_or(0, |length| length.parse().expect("a number"));
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        asked.body = String::from_utf8(body).expect("text");
        Ok(asked)
    }
}

#[derive(Debug)]
pub(in crate::cloud::ec2) struct Server {
    address: SocketAddr,
    asked: Arc<Mutex<Vec<Asked>>>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Listens before it returns. After the last reply nobody listens any more.
    pub(in crate::cloud::ec2) fn start(replies: Vec<Reply>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("bound");
        let asked = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&asked);
        let thread = std::thread::spawn(move || {
            for reply in replies {
                let (stream, _) = listener.accept().expect("a connection");
                match Asked::read(&stream) {
                    Ok(one) if !one.line.is_empty() => kept.lock().expect("no test panicked").push(one),
                    // One that says nothing is our own, to have this end; or speaks another language.
                    _ => return,
                }
                give(stream, &reply);
            }
        });
        Self { address, asked, thread: Some(thread) }
    }

    pub(in crate::cloud::ec2) fn authority(&self) -> String {
        self.address.to_string()
    }

    pub(in crate::cloud::ec2) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// So far, in order.
    pub(in crate::cloud::ec2) fn requests(&self) -> Vec<Asked> {
        self.asked.lock().expect("no test panicked").clone()
    }
}

/// A client that goes away early is the client's affair.
fn give(mut stream: TcpStream, reply: &Reply) {
    match reply {
        Reply::Raw(bytes) => {
            let _ = stream.write_all(bytes);
            let _ = stream.shutdown(Shutdown::Write);
        }
        Reply::Silence(bytes) => {
            let _ = stream.write_all(bytes);
        }
    }
    // To its end, so that no unread byte turns the end of the answer into a reset.
    let _ = std::io::copy(&mut stream, &mut std::io::sink());
}

impl Drop for Server {
    fn drop(&mut self) {
        // One that still waits for a connection gets an empty one, and ends.
        let _ = TcpStream::connect(self.address);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the server panicked");
        }
    }
}
