//! Bytes to requests: head, framing of the body, chunks. Pure; nothing here panics or allocates beyond its limits, whatever
//! the bytes are.

use super::{HEAD_BYTES_MAX, HEADERS_MAX};
use crate::management::records::BODY_BYTES_MAX;

/// Longest line that gives a chunk's size, and the longest trailer line.
const CHUNK_LINE_BYTES_MAX: usize = 4096;
/// Lines of a trailer, which is read and ignored.
const TRAILER_LINES_MAX: usize = 64;

/// A request that is refused before anyone looks at its meaning: status and text. The connection ends after the answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct Refusal {
    pub status: u16,
    pub text: String,
}

impl Refusal {
    pub fn new(status: u16, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    pub fn head_too_large() -> Self {
        Self::new(431, format!("request line and headers are larger than {HEAD_BYTES_MAX} bytes"))
    }

    fn body_too_large() -> Self {
        Self::new(413, format!("the body is larger than {BODY_BYTES_MAX} bytes"))
    }
}

/// How the end of a body is found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Bytes, at most [`BODY_BYTES_MAX`]; 0 = no body.
    Length(usize),
    Chunked,
}

/// Request line and headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// As sent; case matters.
    pub method: String,
    /// Begins with `/`; as sent, nothing decoded; without the query.
    pub path: String,
    /// What follows the first `?`, as sent.
    pub query: String,
    pub framing: Framing,
    /// The client waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    /// The client wants further requests on this connection.
    pub keep_alive: bool,
    /// Names in lower case, values without surrounding blanks; in the order sent.
    headers: Vec<(String, Vec<u8>)>,
}

impl Head {
    /// Values of all headers of this name (lower case), in the order sent.
    pub fn headers<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(key, _)| key == name).map(|(_, value)| value.as_slice())
    }

    /// The first header of this name, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).and_then(|(_, value)| std::str::from_utf8(value).ok())
    }

    /// Path and query as in the request line.
    pub fn target(&self) -> String {
        if self.query.is_empty() { self.path.clone() } else { format!("{}?{}", self.path, self.query) }
    }
}

/// Number of bytes up to and including the empty line that ends a head; `from` is where the search may begin (what was
/// searched before, so that a client that sends single bytes costs no more than one that doesn't).
pub fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3);
    let mut newlines = bytes.iter().enumerate().skip(start).filter(|(_, byte)| **byte == b'\n').map(|(index, _)| index);
    newlines.find_map(|index| match bytes.get(index + 1..) {
        Some([b'\n', ..]) => Some(index + 2),
        Some([b'\r', b'\n', ..]) => Some(index + 3),
        _ => None,
    })
}

/// Parses a complete head, up to [`head_end`].
pub fn parse_head(bytes: &[u8]) -> Result<Head, Refusal> {
    let mut space = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut space);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Err(Refusal::new(400, "malformed request: incomplete headers")),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Refusal::new(431, format!("more than {HEADERS_MAX} headers")));
        }
        Err(error) => return Err(Refusal::new(400, format!("malformed request: {error}"))),
    }
    let headers: Vec<(String, Vec<u8>)> = request
        .headers
        .iter()
        .map(|header| (header.name.to_ascii_lowercase(), header.value.trim_ascii().to_vec()))
        .collect();
    let (path, query) = split_target(request.path.unwrap_or_default())?;
    let modern = request.version == Some(1);
    let mut head = Head {
        method: request.method.unwrap_or_default().to_owned(),
        path,
        query,
        framing: Framing::Length(0),
        expects_continue: false,
        keep_alive: false,
        headers,
    };
    head.framing = framing(&head, modern)?;
    head.expects_continue = modern && has_word(&head, "expect", "100-continue");
    head.keep_alive =
        if modern { !has_word(&head, "connection", "close") } else { has_word(&head, "connection", "keep-alive") };
    Ok(head)
}

/// A comma-separated header contains `word` (any case).
fn has_word(head: &Head, name: &str, word: &str) -> bool {
    head.headers(name).any(|value| {
        value.split(|byte| *byte == b',').any(|one| one.trim_ascii().eq_ignore_ascii_case(word.as_bytes()))
    })
}

fn split_target(target: &str) -> Result<(String, String), Refusal> {
    let local = match target.strip_prefix("http://").or_else(|| target.strip_prefix("https://")) {
        // The form for proxies: the host is not ours to judge.
        Some(rest) => rest.find(['/', '?']).map_or("/", |at| &rest[at..]),
        None => target,
    };
    let (path, query) = local.split_once('?').unwrap_or((local, ""));
    if !path.starts_with('/') {
        return Err(Refusal::new(400, "malformed request: the request line has no path"));
    }
    Ok((path.to_owned(), query.to_owned()))
}

/// A body has one stated end. Anything that two parsers could read in two ways is refused.
fn framing(head: &Head, modern: bool) -> Result<Framing, Refusal> {
    let encodings: Vec<&[u8]> = head.headers("transfer-encoding").collect();
    let lengths: Vec<&[u8]> = head.headers("content-length").collect();
    match (encodings.as_slice(), lengths.as_slice()) {
        ([], []) => Ok(Framing::Length(0)),
        ([], [first, others @ ..]) => {
            let text = std::str::from_utf8(first).unwrap_or_default();
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            if !digits || others.iter().any(|other| other != first) {
                return Err(Refusal::new(400, "malformed request: bad Content-Length"));
            }
            let bytes = text.parse().unwrap_or(usize::MAX);
            if bytes > BODY_BYTES_MAX { Err(Refusal::body_too_large()) } else { Ok(Framing::Length(bytes)) }
        }
        ([one], []) if modern && one.eq_ignore_ascii_case(b"chunked") => Ok(Framing::Chunked),
        (_, []) if modern => Err(Refusal::new(501, "only the transfer encoding chunked is supported")),
        _ => Err(Refusal::new(400, "malformed request: bad Transfer-Encoding")),
    }
}

/// Puts a chunked body together, from pieces of any size.
#[derive(Debug, Default)]
pub struct Chunks {
    state: ChunkState,
    line: Vec<u8>,
    body: Vec<u8>,
    trailer_lines: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum ChunkState {
    #[default]
    Size,
    /// Bytes of this chunk still to come.
    Data(usize),
    DataEnd,
    Trailer,
    Done,
}

impl Chunks {
    /// Takes bytes of the body; the number taken, which is less than given only at the body's end.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<usize, Refusal> {
        let mut rest = bytes;
        while !rest.is_empty() && self.state != ChunkState::Done {
            if let ChunkState::Data(left) = self.state {
                let (now, later) = rest.split_at(left.min(rest.len()));
                self.body.extend_from_slice(now);
                rest = later;
                let left = left - now.len();
                self.state = if left == 0 { ChunkState::DataEnd } else { ChunkState::Data(left) };
            } else {
                let (byte, later) = (rest[0], &rest[1..]);
                rest = later;
                self.take_line_byte(byte)?;
            }
        }
        Ok(bytes.len() - rest.len())
    }

    fn take_line_byte(&mut self, byte: u8) -> Result<(), Refusal> {
        if byte != b'\n' {
            if self.line.len() >= CHUNK_LINE_BYTES_MAX {
                return Err(Refusal::new(400, "malformed chunked body: a line is too long"));
            }
            self.line.push(byte);
            return Ok(());
        }
        let line = std::mem::take(&mut self.line);
        self.take_line(line.strip_suffix(b"\r").unwrap_or(&line))
    }

    fn take_line(&mut self, line: &[u8]) -> Result<(), Refusal> {
        self.state = match self.state {
            ChunkState::Size => match chunk_size(line)? {
                0 => ChunkState::Trailer,
                size if size > BODY_BYTES_MAX - self.body.len() => return Err(Refusal::body_too_large()),
                size => ChunkState::Data(size),
            },
            ChunkState::DataEnd if line.is_empty() => ChunkState::Size,
            ChunkState::DataEnd => return Err(Refusal::new(400, "malformed chunked body: a chunk is too long")),
            ChunkState::Trailer if line.is_empty() => ChunkState::Done,
            ChunkState::Trailer if self.trailer_lines < TRAILER_LINES_MAX => {
                self.trailer_lines += 1;
                ChunkState::Trailer
            }
            ChunkState::Trailer => return Err(Refusal::new(400, "malformed chunked body: too many trailers")),
            state @ (ChunkState::Data(_) | ChunkState::Done) => state,
        };
        Ok(())
    }

    pub fn is_done(&self) -> bool {
        self.state == ChunkState::Done
    }

    pub fn into_body(self) -> Vec<u8> {
        self.body
    }
}

fn chunk_size(line: &[u8]) -> Result<usize, Refusal> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let text = std::str::from_utf8(digits).unwrap_or_default();
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Refusal::new(400, "malformed chunked body: bad chunk size"));
    }
    // More digits than fit are a size above every limit.
    Ok(usize::from_str_radix(text, 16).unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<Head, Refusal> {
        let end = head_end(text.as_bytes(), 0).expect("complete");
        parse_head(&text.as_bytes()[..end])
    }

    #[test]
    fn heads() {
        let head = parse("GET /a//b?x=1?&y HTTP/1.1\r\nHost: h\r\nX-A:  one \r\nx-a: two\r\n\r\nrest").unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str(), head.query.as_str()), ("GET", "/a//b", "x=1?&y"));
        assert_eq!(head.headers("x-a").collect::<Vec<_>>(), [b"one", b"two"]);
        assert!(head.keep_alive && !head.expects_continue);
        assert_eq!(head.framing, Framing::Length(0));
        assert_eq!(parse("GET http://h:1/p HTTP/1.1\n\n").unwrap().path, "/p");
        assert_eq!(parse("GET http://h HTTP/1.1\n\n").unwrap().path, "/");
        assert!(!parse("GET / HTTP/1.1\r\nConnection: x, Close\r\n\r\n").unwrap().keep_alive);
        assert!(!parse("GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
        assert!(parse("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap().keep_alive);
        assert!(parse("GET / HTTP/1.1\r\nExpect: 100-continue\r\n\r\n").unwrap().expects_continue);
    }

    #[test]
    fn framing_is_unambiguous() {
        let rows: &[(&str, Result<Framing, u16>)] = &[
            ("Content-Length: 5", Ok(Framing::Length(5))),
            ("Content-Length: 5\r\nContent-Length: 5", Ok(Framing::Length(5))),
            ("Content-Length: 5\r\nContent-Length: 6", Err(400)),
            ("Content-Length: +5", Err(400)),
            ("Content-Length: ", Err(400)),
            ("Content-Length: 10485760", Ok(Framing::Length(10_485_760))),
            ("Content-Length: 10485761", Err(413)),
            ("Content-Length: 99999999999999999999999", Err(413)),
            ("Transfer-Encoding: Chunked", Ok(Framing::Chunked)),
            ("Transfer-Encoding: chunked\r\nContent-Length: 5", Err(400)),
            ("Transfer-Encoding: gzip", Err(501)),
            ("Transfer-Encoding: gzip, chunked", Err(501)),
        ];
        for (headers, expected) in rows {
            let parsed = parse(&format!("POST / HTTP/1.1\r\n{headers}\r\n\r\n"));
            assert_eq!(&parsed.map(|head| head.framing).map_err(|refusal| refusal.status), expected, "{headers}");
        }
    }

    #[test]
    fn bad_heads_are_refused() {
        for (text, status) in [
            ("GET\r\n\r\n", 400),
            ("GET * HTTP/1.1\r\n\r\n", 400),
            ("GET / HTTP/2.0\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\nno colon\r\n\r\n", 400),
            ("GET / HTTP/1.1\r\na b: c\r\n\r\n", 400),
        ] {
            assert_eq!(parse(text).unwrap_err().status, status, "{text}");
        }
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX + 1));
        assert_eq!(parse(&many).unwrap_err().status, 431);
    }

    #[test]
    fn chunks_in_pieces_of_any_size() {
        let body = b"4;name=x\r\nwiki\r\nA\r\npedia in x\r\n0\r\nTrailer: x\r\n\r\nNEXT";
        for size in 1..body.len() {
            let mut chunks = Chunks::default();
            let mut taken = 0;
            for piece in body.chunks(size) {
                taken += chunks.feed(piece).unwrap();
            }
            assert!(chunks.is_done(), "{size}: {chunks:?}");
            assert_eq!(&body[taken..], b"NEXT");
            assert_eq!(chunks.into_body(), b"wikipedia in x");
        }
    }

    #[test]
    fn bad_chunks_are_refused() {
        for (text, status) in [
            ("x\r\n", 400),
            ("\r\n", 400),
            ("-1\r\n", 400),
            ("2\r\nabc\r\n", 400),
            ("ffffffffffffffffff\r\n", 413),
            ("A00001\r\n", 413),
        ] {
            assert_eq!(Chunks::default().feed(text.as_bytes()).unwrap_err().status, status, "{text}");
        }
        let trailers = format!("0\r\n{}", "a: b\r\n".repeat(TRAILER_LINES_MAX + 1));
        assert_eq!(Chunks::default().feed(trailers.as_bytes()).unwrap_err().status, 400);
        let long = "1".repeat(CHUNK_LINE_BYTES_MAX + 1);
        assert_eq!(Chunks::default().feed(long.as_bytes()).unwrap_err().status, 400);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400), cut in 0usize..400) {
            let _ = head_end(&bytes, cut);
            let _ = parse_head(&bytes);
            let _ = Chunks::default().feed(&bytes);
        }

        #[test]
        fn arbitrary_headers_never_panic(text in "(GET|POST|[a-z]{0,3}) [/a-z?%*]{0,9} HTTP/1.[01]\r\n([a-zA-Z-]{1,9}: [ -~]{0,9}\r\n){0,4}\r\n") {
            let _ = parse_head(text.as_bytes());
        }

        #[test]
        fn the_end_is_found_however_the_bytes_arrive(text in "[a-b\r\n]{0,40}") {
            let whole = head_end(text.as_bytes(), 0);
            let mut pieces = None;
            for length in 1..=text.len() {
                pieces = pieces.or(head_end(&text.as_bytes()[..length], length - 1));
            }
            prop_assert_eq!(whole, pieces);
        }
    }
}
