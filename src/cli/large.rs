//! Answers that may be too large for memory: the uuids of a million containers.
//!
//! A reader of ours (a pipe, a pager) may be slow, and the daemon waits for nobody: so a large answer is taken to a file without a
//! name first, and read from there piece by piece.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Cursor, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;

use serde::Deserializer as _;
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::client::{Client, Sent, parse_head};
use super::exit::Failure;

/// Smaller answers stay in memory.
const MEMORY_BYTES_MAX: u64 = 1024 * 1024;

/// The answer to a request that has succeeded, not all of it read.
pub(super) struct Large {
    sent: Sent,
    /// The first part of its body, and the length of all.
    begun: Vec<u8>,
    length: u64,
}

/// A request below `/muster/v1/` that must succeed.
pub(super) fn call(client: &Client, method: &str, path: &str, body: &[u8]) -> Result<Large, Failure> {
    let mut sent = client.begin(method, &format!("/muster/v1/{path}"), body)?;
    let bytes = sent.read(MEMORY_BYTES_MAX)?;
    let (answer, length) = parse_head(&bytes, &sent.peer).ok_or_else(|| sent.no_daemon())?;
    let length = length.unwrap_or(answer.body.len() as u64);
    let is_cut_off = length > answer.body.len() as u64 && (bytes.len() as u64) < MEMORY_BYTES_MAX;
    if is_cut_off {
        return Err(sent.no_daemon());
    }
    let answer = client.accept(answer)?.success()?;
    Ok(Large { sent, begun: answer.body, length })
}

impl Large {
    pub(super) fn body(mut self) -> Result<Box<dyn Read>, Failure> {
        if self.length <= self.begun.len() as u64 {
            return Ok(Box::new(Cursor::new(self.begun)));
        }
        let cannot = |error: io::Error| Failure::Failed(format!("done, but the answer cannot be kept: {error}"));
        let mut file = BufWriter::new(unnamed_file().map_err(cannot)?);
        file.write_all(&self.begun).map_err(cannot)?;
        let mut buffer = vec![0; 64 * 1024];
        let mut got = self.begun.len() as u64;
        loop {
            let sent = &mut self.sent;
            let read = match sent.stream.read(&mut buffer) {
                // Stopped and continued by a shell's job control, for instance.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                read => read.map_err(|error| sent.broke(&sent.why(&error)))?,
            };
            if read == 0 {
                break;
            }
            file.write_all(&buffer[..read]).map_err(cannot)?;
            got += read as u64;
        }
        if got < self.length {
            return Err(self.sent.broke("the answer was cut off"));
        }
        let mut file = file.into_inner().map_err(|error| cannot(error.into_error()))?;
        file.rewind().map_err(cannot)?;
        Ok(Box::new(BufReader::new(file)))
    }
}

/// In the directory for temporary files; gone with the process.
fn unnamed_file() -> io::Result<File> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let path = std::env::temp_dir().join(format!("muster-answer-{:016x}", u64::from_ne_bytes(random)));
    // Never somebody else's file.
    let file = OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

/// Hands each uuid of a [`Submitted`](crate::management::records::Submitted) document to `take`, as it is read.
pub(super) fn each_uuid(body: impl Read, mut take: impl FnMut(String) -> Result<(), Failure>) -> Result<(), Failure> {
    let mut failure = None;
    let visitor = Uuids { take: &mut take, failure: &mut failure };
    let read = serde_json::Deserializer::from_reader(body).deserialize_map(visitor);
    match (failure, read) {
        (Some(failure), _) => Err(failure),
        (None, Err(error)) => Err(Failure::Failed(format!("the answer of the daemon is not understood: {error}"))),
        (None, Ok(())) => Ok(()),
    }
}

/// The document, and its list.
struct Uuids<'a> {
    take: &'a mut dyn FnMut(String) -> Result<(), Failure>,
    failure: &'a mut Option<Failure>,
}

impl<'de> Visitor<'de> for Uuids<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("uuids")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(name) = map.next_key::<String>()? {
            if name == "uuids" {
                map.next_value_seed(Uuids { take: &mut *self.take, failure: &mut *self.failure })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while let Some(uuid) = list.next_element()? {
            if let Err(failure) = (self.take)(uuid) {
                *self.failure = Some(failure);
                return Err(serde::de::Error::custom("not taken"));
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Uuids<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, Failure> {
        let mut uuids = Vec::new();
        each_uuid(text.as_bytes(), |uuid| {
            uuids.push(uuid);
            Ok(())
        })
        .map(|()| uuids)
    }

    #[test]
    fn uuids_are_read_one_by_one() {
        assert_eq!(read(r#"{"more": [1, {}], "uuids": ["a", "b"], "later": 7}"#), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(read(r#"{}"#), Ok(vec![]));
        for broken in ["", "{", r#"{"uuids": ["a""#, r#"{"uuids": [7]}"#, "[]"] {
            assert!(matches!(read(broken), Err(Failure::Failed(_))), "{broken}");
        }
        let stopped = each_uuid(r#"{"uuids": ["a", "b"]}"#.as_bytes(), |_| Err(Failure::ClosedPipe));
        assert_eq!(stopped, Err(Failure::ClosedPipe));
    }

    #[test]
    fn the_temporary_file_has_no_name() {
        use std::os::unix::fs::MetadataExt;
        let mut file = unnamed_file().expect("made");
        file.write_all(b"x").expect("written");
        let metadata = file.metadata().expect("there");
        assert_eq!((metadata.nlink(), metadata.len(), metadata.mode() & 0o777), (0, 1, 0o600));
    }
}
