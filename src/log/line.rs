//! One event as one line, logfmt or JSON. Pure.
//!
//! Whatever a value contains, the line has no line break in it and parses back to the same names and values: quotes,
//! backslashes, control and invisible characters are escaped as in JSON strings. Spec 80 §4.

use std::fmt::Write;

/// `Muster.Log.Format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Format {
    #[default]
    Logfmt,
    Json,
}

/// Bytes of a `stdout` or `stderr` value unless it was decided otherwise, of any other value, and of the message.
pub const OUTPUT_BYTES_MAX: usize = 1024;
const VALUE_BYTES_MAX: usize = 16 * 1024;

/// What a line says.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// RFC 3339, UTC.
    pub time: &'a str,
    pub level: &'a str,
    pub target: &'a str,
    pub message: &'a str,
    pub fields: &'a [(String, String)],
    /// Bytes of a `stdout` or `stderr` value that are shown.
    pub output_bytes_max: usize,
}

impl Line<'_> {
    /// The line with its line break.
    pub fn render(&self, format: Format) -> String {
        let head = [("time", self.time), ("level", self.level), ("target", self.target), ("msg", self.message)];
        let head = head.into_iter().map(|(name, value)| (name.to_owned(), value));
        let fields = self.fields.iter().map(|(name, value)| (plain_name(name), value.as_str()));
        let mut line = String::new();
        for (name, value) in head.chain(fields) {
            let value = cut(&name, value, self.output_bytes_max);
            let separator = if line.is_empty() { "" } else { separator(format) };
            line.push_str(separator);
            match format {
                Format::Logfmt => {
                    line.push_str(&name);
                    line.push('=');
                    if is_plain(&value) { line.push_str(&value) } else { quote(&mut line, &value) }
                }
                Format::Json => {
                    quote(&mut line, &name);
                    line.push(':');
                    quote(&mut line, &value);
                }
            }
        }
        match format {
            Format::Logfmt => line + "\n",
            Format::Json => format!("{{{line}}}\n"),
        }
    }
}

const fn separator(format: Format) -> &'static str {
    match format {
        Format::Logfmt => " ",
        Format::Json => ",",
    }
}

/// A name is ours, but those of libraries may be anything; one that the line itself uses is set apart.
fn plain_name(name: &str) -> String {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-') { c } else { '_' }).collect();
    if plain.is_empty() || matches!(plain.as_str(), "time" | "level" | "target" | "msg") { plain + "_" } else { plain }
}

/// Shortened to the limit of its field, with the length that it had.
fn cut(name: &str, value: &str, output_bytes_max: usize) -> String {
    let limit = if name == "stdout" || name == "stderr" { output_bytes_max } else { VALUE_BYTES_MAX };
    if value.len() <= limit {
        return value.to_owned();
    }
    let end = (0..=limit).rev().find(|end| value.is_char_boundary(*end)).unwrap_or(0);
    format!("{}… ({} bytes)", &value[..end], value.len())
}

/// Needs no quotes in logfmt.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\'))
}

/// As a JSON string that any viewer shows on one line.
fn quote(line: &mut String, value: &str) {
    line.push('"');
    for c in value.chars() {
        match c {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            '\n' => line.push_str("\\n"),
            '\r' => line.push_str("\\r"),
            '\t' => line.push_str("\\t"),
            _ if c.is_control() || is_deceptive(c) => {
                let _ = write!(line, "\\u{:04x}", u32::from(c));
            }
            _ => line.push(c),
        }
    }
    line.push('"');
}

/// Line and paragraph separators, and what reorders or hides text.
fn is_deceptive(c: char) -> bool {
    matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// Text of bytes that may be no UTF-8: what is none is written as `\xNN`.
pub fn text_of(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        for byte in chunk.invalid() {
            let _ = write!(text, "\\x{byte:02x}");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn render(format: Format, fields: &[(&str, &str)]) -> String {
        let fields: Vec<_> = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (time, message) = ("2026-11-23T22:01:02.123Z", "instance appeared in cloud");
        let output_bytes_max = OUTPUT_BYTES_MAX;
        Line { time, level: "info", target: "pool", message, fields: &fields, output_bytes_max }.render(format)
    }

    /// Reads a logfmt line as any reader would.
    fn parse_logfmt(line: &str) -> Vec<(String, String)> {
        let mut pairs = Vec::new();
        let mut rest = line.strip_suffix('\n').unwrap();
        while !rest.is_empty() {
            let (name, tail) = rest.split_once('=').unwrap();
            let length = if tail.starts_with('"') {
                let mut stream = serde_json::Deserializer::from_str(tail).into_iter::<String>();
                let value = stream.next().unwrap().unwrap();
                pairs.push((name.to_owned(), value));
                stream.byte_offset()
            } else {
                let end = tail.find(' ').unwrap_or(tail.len());
                pairs.push((name.to_owned(), tail[..end].to_owned()));
                end
            };
            rest = &tail[length..];
            rest = rest.strip_prefix(' ').unwrap_or(rest);
        }
        pairs
    }

    #[test]
    fn examples() {
        assert_eq!(
            render(Format::Logfmt, &[("Instance", "i-1"), ("State", "booting")]),
            "time=2026-11-23T22:01:02.123Z level=info target=pool msg=\"instance appeared in cloud\" Instance=i-1 State=booting\n"
        );
        assert_eq!(
            render(Format::Json, &[("Instance", "i-1")]),
            "{\"time\":\"2026-11-23T22:01:02.123Z\",\"level\":\"info\",\"target\":\"pool\",\"msg\":\"instance appeared in cloud\",\"Instance\":\"i-1\"}\n"
        );
        let forged = render(Format::Logfmt, &[("stderr", "x\ntime=1 msg=\"\u{2028}fake\u{85}"), ("e", "")]);
        assert!(forged.ends_with(" stderr=\"x\\ntime=1 msg=\\\"\\u2028fake\\u0085\" e=\"\"\n"), "{forged}");
        assert!(render(Format::Logfmt, &[("msg", "a"), ("b c", "d")]).ends_with(" msg_=a b_c=d\n"));
    }

    #[test]
    fn long_values_are_cut_and_tell_their_length() {
        let long = "é".repeat(5000);
        for (name, kept) in [("stderr", 512), ("stdout", 512), ("error", 5000)] {
            let pairs = parse_logfmt(&render(Format::Logfmt, &[(name, &long)]));
            let value = &pairs.last().unwrap().1;
            assert_eq!(value.chars().filter(|c| *c == 'é').count(), kept, "{name}");
            assert_eq!(value.ends_with("… (10000 bytes)"), kept < 5000);
        }
    }

    #[test]
    fn bytes_that_are_no_text() {
        assert_eq!(text_of(b"a\xff\xfeb\n"), "a\\xff\\xfeb\n");
    }

    proptest! {
        #[test]
        fn a_line_parses_back(values in prop::collection::vec((any::<String>(), "[A-Z][A-Za-z]{0,8}"), 0..6)) {
            let fields: Vec<(String, String)> = values.into_iter().map(|(value, name)| (name, value)).collect();
            let pairs: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
            let line = render(Format::Logfmt, &pairs);
            prop_assert_eq!(line.chars().filter(|c| c.is_control()).count(), 1);
            prop_assert_eq!(&parse_logfmt(&line)[4..], &fields[..]);
            let json = render(Format::Json, &pairs);
            prop_assert_eq!(json.chars().filter(|c| c.is_control()).count(), 1);
            let parsed: serde_json::Value = serde_json::from_str(&json).unwrap();
            for (index, (name, value)) in fields.iter().enumerate() {
                if !fields[index + 1..].iter().any(|(later, _)| later == name) {
                    prop_assert_eq!(parsed[name].as_str(), Some(value.as_str()));
                }
            }
        }
    }
}
