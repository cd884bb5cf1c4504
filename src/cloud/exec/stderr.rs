//! What a program says on its standard error: line by line to the log, and the last line for errors (spec 46 §2).
//!
//! It comes from outside: a line has a limit, and so has the number of lines of one call. The log escapes what is not text.

use crate::core::effect::{Level, Note};
use crate::log::{text_of, write_note};

/// Bytes of a line that are kept; the rest of it is left out.
const LINE_BYTES_MAX: usize = 4096;
/// Lines of one call that are logged.
const LINES_MAX: usize = 1000;
/// Letters of the last line in an error.
const LAST_LETTERS_MAX: usize = 500;

/// Gets a line's text.
type Tell<'a> = dyn FnMut(&str) + 'a;

/// Takes the stream apart as it comes.
pub(super) struct Lines<'a> {
    tell: Box<Tell<'a>>,
    /// The line that has no end yet, up to its limit.
    line: Vec<u8>,
    /// All bytes of it.
    length: usize,
    /// The last line with anything in it.
    last: Vec<u8>,
    count: usize,
}

impl std::fmt::Debug for Lines<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("count", &self.count).finish_non_exhaustive()
    }
}

impl<'a> Lines<'a> {
    /// Each line goes to the log.
    pub(super) fn logged(verb: &'static str) -> Self {
        Self::told(move |line| {
            write_note(&Note::new(Level::Info, "cloud", "driver program").with("Operation", verb).with("stderr", line));
        })
    }

    fn told(tell: impl FnMut(&str) + 'a) -> Self {
        Self { tell: Box::new(tell), line: Vec::new(), length: 0, last: Vec::new(), count: 0 }
    }

    /// The next bytes of the stream.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            let text = piece.strip_suffix(b"\n").unwrap_or(piece);
            let room = LINE_BYTES_MAX.saturating_sub(self.line.len()).min(text.len());
            self.line.extend_from_slice(&text[..room]);
            self.length += text.len();
            if text.len() < piece.len() {
                self.end_line();
            }
        }
    }

    fn end_line(&mut self) {
        let line = std::mem::take(&mut self.line);
        let length = std::mem::take(&mut self.length);
        if line.trim_ascii().is_empty() {
            return;
        }
        self.count += 1;
        if self.count <= LINES_MAX {
            let cut = if length > line.len() { format!("… ({length} bytes)") } else { String::new() };
            (self.tell)(&(text_of(line.trim_ascii_end()) + &cut));
        }
        self.last = line;
    }

    /// The stream has ended. Gives its last line in a form that fits into an error; empty if there was none.
    pub(super) fn end(mut self) -> String {
        self.end_line();
        if self.count > LINES_MAX {
            (self.tell)(&format!("… and {} more lines", self.count - LINES_MAX));
        }
        one_line(&text_of(self.last.trim_ascii()), LAST_LETTERS_MAX)
    }
}

/// Text from outside on one line, of at most so many letters: what is no letter becomes a space.
pub(super) fn one_line(text: &str, letters_max: usize) -> String {
    let plain = text.trim().chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    let mut short: String = plain.clone().take(letters_max).collect();
    if plain.count() > letters_max {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(pieces: &[&[u8]]) -> (Vec<String>, String) {
        let mut told = Vec::new();
        let mut lines = Lines::told(|line| told.push(line.to_owned()));
        pieces.iter().for_each(|piece| lines.push(piece));
        let last = lines.end();
        (told, last)
    }

    #[test]
    fn lines_come_whole_however_the_stream_is_cut() {
        for pieces in [
            &[b"one\n\n  two\r\nthree".as_slice()][..],
            &[b"on", b"e", b"\n", b"\n  two", b"\r\nth", b"ree"],
            &[b"one\n", b" \n", b"  two\r\n", b"three\n", b"\n\n"],
        ] {
            assert_eq!(told(pieces), (["one", "  two", "three"].map(str::to_owned).to_vec(), "three".to_owned()));
        }
        assert_eq!(told(&[]), (Vec::new(), String::new()));
    }

    #[test]
    fn lines_and_their_number_have_limits() {
        let long = vec![b'x'; 3 * LINE_BYTES_MAX];
        let (lines, last) = told(&[&long, &long, b"\nend\n"]);
        assert_eq!(lines[0], format!("{}… ({} bytes)", "x".repeat(LINE_BYTES_MAX), 6 * LINE_BYTES_MAX));
        assert_eq!((lines.len(), last.as_str()), (2, "end"));

        let (lines, last) = told(&["line\n".repeat(LINES_MAX + 7).as_bytes()]);
        assert_eq!((lines.len(), last.as_str()), (LINES_MAX + 1, "line"));
        assert_eq!(lines[LINES_MAX], "… and 7 more lines");
    }

    #[test]
    fn what_is_no_text_is_shown_as_such() {
        let (lines, last) = told(&[b"a\xffb\x1b[31mc\n"]);
        assert_eq!(lines, ["a\\xffb\x1b[31mc"]);
        assert_eq!(last, "a\\xffb [31mc");
        assert_eq!(one_line(&"ü".repeat(600), 500), "ü".repeat(500) + "…");
    }
}
