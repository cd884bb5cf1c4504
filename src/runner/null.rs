//! Streams of nothing. Usually `/dev/null`; a minimal root directory may have no `/dev`, and then a pipe without its other end does.

use std::fs::OpenOptions;
use std::io;
use std::process::Stdio;

const NULL: &str = "/dev/null";

/// At its end at once.
pub(crate) fn input() -> io::Result<Stdio> {
    match OpenOptions::new().read(true).open(NULL) {
        Ok(file) => Ok(file.into()),
        Err(_) => Ok(io::pipe()?.0.into()),
    }
}

/// For what nobody reads. Writing into the pipe fails, which this program does not mind.
pub(crate) fn output() -> io::Result<Stdio> {
    match OpenOptions::new().write(true).open(NULL) {
        Ok(file) => Ok(file.into()),
        Err(_) => Ok(io::pipe()?.1.into()),
    }
}
