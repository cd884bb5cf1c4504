//! Writing to standard output and error: locked, buffered, and a quiet end when the reader has gone.

use std::io::{BufWriter, IsTerminal, StdoutLock, Write};

use serde::Serialize;

use super::exit::Failure;

/// Standard output, flushed by [`Output::done`].
pub(super) struct Output(BufWriter<StdoutLock<'static>>);

impl Output {
    pub(super) fn new() -> Self {
        Self(BufWriter::new(std::io::stdout().lock()))
    }

    pub(super) fn line(&mut self, text: &str) -> Result<(), Failure> {
        Ok(writeln!(self.0, "{text}")?)
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.0.write_all(bytes)?)
    }

    pub(super) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value).map_err(|error| Failure::Failed(error.to_string()))?;
        self.line(&text)
    }

    pub(super) fn done(mut self) -> Result<(), Failure> {
        Ok(self.0.flush()?)
    }
}

/// Where a container's output goes: not locked, since lines for people may come in between.
pub(super) struct Sink(Box<dyn Write>);

impl Sink {
    pub(super) fn stdout() -> Self {
        Self(Box::new(std::io::stdout()))
    }

    pub(super) fn stderr() -> Self {
        Self(Box::new(std::io::stderr()))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        Ok(self.0.write_all(bytes)?)
    }

    pub(super) fn flush(&mut self) -> Result<(), Failure> {
        Ok(self.0.flush()?)
    }
}

/// A line for people, beside the output.
pub(super) fn say(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Colour only on a terminal, and without NO_COLOR.
pub(super) fn is_colourful() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Columns of the terminal that the output goes to; `None` if it goes elsewhere.
pub(super) fn width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    Some(usize::from(size.ws_col)).filter(|columns| *columns > 0)
}
