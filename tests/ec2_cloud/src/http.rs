//! HTTP/1.1, as much as a proxy before a test server needs: whole requests and answers with a known length.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// Longest head and body; nothing of EC2's is larger.
const SIZE_MAX: u64 = 32 << 20;

/// A request, or an answer: the first line, headers, the body.
#[derive(Clone, Debug)]
pub(crate) struct Message {
    pub(crate) first: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Message {
    /// An answer.
    pub(crate) fn answer(status: u16, content_type: &str, body: &[u8]) -> Self {
        let reason = if status < 300 { "OK" } else { "Refused" };
        let headers = vec![
            ("Content-Type".to_owned(), content_type.to_owned()),
            ("Server".to_owned(), "AmazonEC2".to_owned()),
            ("Content-Length".to_owned(), body.len().to_string()),
        ];
        Self { first: format!("HTTP/1.1 {status} {reason}"), headers, body: body.to_vec() }
    }

    /// From a connection; `None` if it ends before anything has come. What has no length ends with the connection if it is an
    /// answer, and is empty if it is a request.
    pub(crate) fn read(from: &mut BufReader<TcpStream>) -> io::Result<Option<Self>> {
        let mut first = String::new();
        let mut limited = from.by_ref().take(SIZE_MAX);
        if limited.read_line(&mut first)? == 0 {
            return Ok(None);
        }
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if limited.read_line(&mut line)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other("a header without a colon"))?;
            headers.push((name.trim().to_owned(), value.trim().to_owned()));
        }
        let mut message = Self { first: first.trim_end().to_owned(), headers, body: Vec::new() };
        if message.header("Transfer-Encoding").is_some() {
            return Err(io::Error::other("a body in chunks, which no client of EC2 sends"));
        }
        match message.header("Content-Length").map(str::parse::<u64>) {
            Some(Ok(length)) if length <= SIZE_MAX => {
                from.by_ref().take(length).read_to_end(&mut message.body)?;
                if message.body.len() as u64 != length {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
            Some(_) => return Err(io::Error::other("a length that is none")),
            None if message.first.starts_with("HTTP/") => drop(limited.read_to_end(&mut message.body)?),
            None => {}
        }
        Ok(Some(message))
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// An answer's status.
    pub(crate) fn status(&self) -> u16 {
        self.first.split(' ').nth(1).and_then(|word| word.parse().ok()).unwrap_or(0)
    }

    /// Another body in the place of this one.
    pub(crate) fn set_body(&mut self, body: Vec<u8>) {
        self.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Content-Length"));
        self.headers.push(("Content-Length".to_owned(), body.len().to_string()));
        self.body = body;
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut text = format!("{}\r\n", self.first);
        for (name, value) in &self.headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        [text.as_bytes(), &self.body].concat()
    }

    /// Sends this request to a server on this machine, by a connection of its own; gives the answer.
    pub(crate) fn forward(&self, port: u16) -> io::Result<Self> {
        let mut request = self.clone();
        let hop = |name: &str| name.eq_ignore_ascii_case("Connection") || name.eq_ignore_ascii_case("Keep-Alive");
        request.headers.retain(|(name, _)| !hop(name));
        request.headers.push(("Connection".to_owned(), "close".to_owned()));
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(crate::LIMIT))?;
        stream.write_all(&request.bytes())?;
        let answer = Self::read(&mut BufReader::new(stream))?;
        let mut answer = answer.ok_or_else(|| io::Error::from(io::ErrorKind::UnexpectedEof))?;
        answer.headers.retain(|(name, _)| !hop(name));
        if answer.header("Content-Length").is_none() {
            answer.set_body(answer.body.clone());
        }
        answer.first = answer.first.replacen("HTTP/1.0", "HTTP/1.1", 1);
        Ok(answer)
    }
}
