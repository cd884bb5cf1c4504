//! Reads XML answers of the query API into [`Element`]s, and its error documents into [`QueryError::Api`]. Pure.
//!
//! Everything is bounded: the bytes (by the HTTP client), the depth, and the number of elements. Attributes, namespaces, comments and
//! processing instructions are dropped, for no answer says anything in them. No entity is defined by a document: a declaration that
//! could define one is refused, and so none can grow.

use quick_xml::Reader;
use quick_xml::escape::resolve_predefined_entity;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::query::{Element, QueryError};

/// EC2's answers are about ten deep.
const DEPTH_MAX: usize = 32;
/// An answer describes at most 1,000 instances, each with a few hundred elements.
const ELEMENTS_MAX: usize = 500_000;
/// What an error shows of a text that is not understood.
const EXCERPT_CHARS: usize = 200;

/// The answer of a call: its root element, or what the service refused.
///
/// # Errors
/// [`QueryError::Api`] for an error document, whatever the status. [`QueryError::Other`] for a status of failure without one, and for what
/// is not whole XML.
pub fn answer(status: u16, body: &[u8]) -> Result<Element, QueryError> {
    let is_success = (200..300).contains(&status);
    match parse(body) {
        Ok(root) => match refusal(status, &root) {
            Some(error) => Err(error),
            None if is_success => Ok(root),
            None => Err(unexplained(status, body)),
        },
        Err(why) if is_success => {
            let what = if body.is_empty() { "nothing".to_owned() } else { excerpt(body) };
            Err(QueryError::other(format!("the answer is not whole XML ({why}); it is: {what}")))
        }
        Err(_) => Err(unexplained(status, body)),
    }
}

fn unexplained(status: u16, body: &[u8]) -> QueryError {
    let hint = match status {
        300..400 => "; redirects are not followed: is the endpoint the right one?",
        407 => "; a proxy asks for a name and password",
        _ => "",
    };
    let what = if body.is_empty() { "no text".to_owned() } else { excerpt(body) };
    QueryError::other(format!("the service answers with HTTP status {status} and no error document{hint}: {what}"))
}

/// The first error of a document of errors: `Response/Errors/Error` of EC2, `ErrorResponse/Error` of STS.
fn refusal(status: u16, root: &Element) -> Option<QueryError> {
    let error = match root.name.as_str() {
        "Response" => root.at(&["Errors", "Error"])?,
        "ErrorResponse" => root.child("Error")?,
        _ => return None,
    };
    let request_id = ["RequestID", "RequestId"].iter().find_map(|name| root.text_of(&[name]));
    Some(QueryError::Api {
        status,
        code: error.text_of(&["Code"]).unwrap_or("(no code)").to_owned(),
        message: error.text_of(&["Message"]).unwrap_or_default().to_owned(),
        request_id: request_id.unwrap_or("(none)").to_owned(),
    })
}

/// The start of a text that came from outside, in one line: control characters are escaped.
pub fn excerpt(bytes: &[u8]) -> String {
    // A character has at most four bytes.
    let start = bytes.get(..EXCERPT_CHARS * 4).unwrap_or(bytes);
    let text = String::from_utf8_lossy(start);
    let mut shown = String::new();
    for one in text.chars().take(EXCERPT_CHARS) {
        if one.is_control() {
            shown.extend(one.escape_default());
        } else {
            shown.push(one);
        }
    }
    if text.chars().count() > EXCERPT_CHARS || start.len() < bytes.len() {
        shown.push('…');
    }
    shown
}

/// The root element of a whole document.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse(body: &[u8]) -> Result<Element, String> {
    let text = std::str::from_utf8(body).map_err(|error| format!("it is not UTF-8: {error}"))?;
    let mut reader = Reader::from_str(text);
    reader.config_mut().check_comments = false;
    let mut tree = Tree::default();
    loop {
        match reader.read_event().map_err(|error| error.to_string())? {
            Event::Start(start) => tree.open(name_of(&start)?)?,
            Event::Empty(start) => {
                tree.open(name_of(&start)?)?;
                tree.close()?;
            }
            // The reader has seen that the names match.
            Event::End(_) => tree.close()?,
            Event::Text(text) => tree.text(&text.xml_content().map_err(|error| error.to_string())?)?,
            Event::CData(data) => tree.text(&data.xml_content().map_err(|error| error.to_string())?)?,
            Event::GeneralRef(reference) => tree.text(&resolve(&reference)?)?,
            Event::DocType(_) => return Err("it declares a document type".to_owned()),
            Event::Decl(_) | Event::PI(_) | Event::Comment(_) => {}
            Event::Eof => return tree.finish(),
        }
    }
}

fn name_of(start: &BytesStart<'_>) -> Result<String, String> {
    let name = start.local_name();
    let name = std::str::from_utf8(name.as_ref()).map_err(|error| error.to_string())?;
    if name.is_empty() { Err("an element has no name".to_owned()) } else { Ok(name.to_owned()) }
}

fn resolve(reference: &BytesRef<'_>) -> Result<String, String> {
    if let Some(one) = reference.resolve_char_ref().map_err(|error| error.to_string())? {
        return Ok(one.to_string());
    }
    let name = reference.decode().map_err(|error| error.to_string())?;
    let known = resolve_predefined_entity(&name);
    known.map(str::to_owned).ok_or_else(|| format!("it has the unknown entity {}", excerpt(name.as_bytes())))
}

/// What has been read of a document.
#[derive(Default)]
struct Tree {
    /// From the root to the innermost.
    open: Vec<Element>,
    root: Option<Element>,
    count: usize,
}

impl Tree {
    fn open(&mut self, name: String) -> Result<(), String> {
        self.count += 1;
        if self.root.is_some() {
            return Err("it has two root elements".to_owned());
        }
        if self.open.len() >= DEPTH_MAX {
            return Err(format!("it is more than {DEPTH_MAX} elements deep"));
        }
        if self.count > ELEMENTS_MAX {
            return Err(format!("it has more than {ELEMENTS_MAX} elements"));
        }
        self.open.push(Element { name, ..Element::default() });
        Ok(())
    }

    fn close(&mut self) -> Result<(), String> {
        let Some(done) = self.open.pop() else {
            return Err("an element ends that has not begun".to_owned());
        };
        match self.open.last_mut() {
            Some(parent) => parent.children.push(done),
            None => self.root = Some(done),
        }
        Ok(())
    }

    fn text(&mut self, text: &str) -> Result<(), String> {
        match self.open.last_mut() {
            Some(element) => element.text.push_str(text),
            None if text.trim().is_empty() => {}
            None => return Err("it has text outside its root element".to_owned()),
        }
        Ok(())
    }

    fn finish(self) -> Result<Element, String> {
        match self.open.last() {
            Some(element) => Err(format!("it is cut: <{}> does not end", excerpt(element.name.as_bytes()))),
            None => self.root.ok_or_else(|| "it has no element".to_owned()),
        }
    }
}

#[cfg(test)]
mod tests;
