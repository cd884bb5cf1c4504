//! XML as a tree that can be changed and written again: small, and for answers of EC2 only, which have no mixed content.

use std::fmt::Write as _;

use quick_xml::Reader;
use quick_xml::escape::escape;
use quick_xml::events::Event;

/// An element with either text or children.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Element {
    /// Its name.
    pub name: String,
    /// Its attributes as they were written.
    attributes: String,
    /// Its text; empty if it has children.
    pub text: String,
    /// What is in it, in order.
    pub children: Vec<Self>,
}

impl Element {
    /// With text only.
    #[must_use]
    pub fn new(name: &str, text: &str) -> Self {
        Self { name: name.to_owned(), text: text.to_owned(), ..Self::default() }
    }

    /// With children only.
    #[must_use]
    pub fn with(name: &str, children: Vec<Self>) -> Self {
        Self { name: name.to_owned(), children, ..Self::default() }
    }

    /// The root of a document; `None` if that is no XML.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut reader = Reader::from_str(text);
        // The first stands for the document.
        let mut open = vec![Self::default()];
        loop {
            match reader.read_event().ok()? {
                Event::Start(tag) => open.push(Self::tag(tag.name().as_ref(), tag.attributes_raw())),
                Event::Empty(tag) => {
                    let element = Self::tag(tag.name().as_ref(), tag.attributes_raw());
                    open.last_mut()?.children.push(element);
                }
                Event::Text(part) => open.last_mut()?.text += &part.decode().ok()?,
                Event::CData(part) => open.last_mut()?.text += &part.decode().ok()?,
                Event::GeneralRef(part) => {
                    let name = part.decode().ok()?;
                    let character = part.resolve_char_ref().ok()?.map(String::from);
                    let known = || quick_xml::escape::resolve_predefined_entity(&name).map(str::to_owned);
                    open.last_mut()?.text += &character.or_else(known)?;
                }
                Event::End(_) => {
                    let mut done = open.pop()?;
                    if !done.children.is_empty() {
                        // Spaces between children.
                        done.text.clear();
                    }
                    open.last_mut()?.children.push(done);
                }
                Event::Eof => break,
                _ => {}
            }
        }
        let [document] = <[Self; 1]>::try_from(open).ok()?;
        <[Self; 1]>::try_from(document.children).ok().map(|[root]| root)
    }

    fn tag(name: &[u8], attributes: &[u8]) -> Self {
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        Self { name: text(name), attributes: text(attributes), ..Self::default() }
    }

    /// The document with this as its root.
    #[must_use]
    pub fn document(&self) -> String {
        let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n".to_owned();
        self.write(&mut text);
        text
    }

    fn write(&self, into: &mut String) {
        write!(into, "<{}{}", self.name, self.attributes).expect("a string takes everything");
        if self.children.is_empty() && self.text.is_empty() {
            into.push_str("/>");
            return;
        }
        into.push('>');
        into.push_str(&escape(&self.text));
        self.children.iter().for_each(|child| child.write(into));
        write!(into, "</{}>", self.name).expect("a string takes everything");
    }

    /// The first child of this name.
    #[must_use]
    pub fn child(&self, name: &str) -> Option<&Self> {
        self.children.iter().find(|child| child.name == name)
    }

    /// The same, to change it.
    pub fn child_mut(&mut self, name: &str) -> Option<&mut Self> {
        self.children.iter_mut().find(|child| child.name == name)
    }

    /// What a path of names leads to, such as `placement/availabilityZone`: its text, or nothing if it is empty or not there.
    #[must_use]
    pub fn at(&self, path: &str) -> Option<&str> {
        let found = path.split('/').try_fold(self, |element, name| element.child(name))?;
        (!found.text.is_empty()).then_some(found.text.as_str())
    }

    /// The children of a list that is a child.
    #[must_use]
    pub fn list(&self, name: &str) -> &[Self] {
        self.child(name).map_or(&[], |list| list.children.as_slice())
    }
}
