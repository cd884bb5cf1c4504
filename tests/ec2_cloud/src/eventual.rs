//! How EC2 differs from a server that knows everything at once: lists that are late, pages, idempotent creates, spot prices.

use std::collections::{BTreeMap, HashMap};

use crate::calls::Call;
use crate::http::Message;
use crate::proxy::Spot;
use crate::serve::error_answer;
use crate::xml::Element;

/// Begins the tokens that are made here.
const TOKEN: &str = "muster-page-";
/// Actions that come in pages, with the list that is divided.
const PAGED: [(&str, &str); 3] = [
    ("DescribeInstances", "reservationSet"),
    ("DescribeInstanceStatus", "instanceStatusSet"),
    ("DescribeSpotPriceHistory", "spotPriceHistorySet"),
];

/// What a test has asked for, and what has to be remembered for it.
#[derive(Debug, Default)]
pub(crate) struct Eventual {
    /// For so many lists a new instance is not in them.
    pub(crate) appears_after: usize,
    /// For so many lists a terminated instance is in them as if it ran.
    pub(crate) lingers_for: usize,
    /// Entries on a page.
    pub(crate) page_size: Option<usize>,
    /// An empty token ends the last page.
    pub(crate) empty_token: bool,
    /// What spot instances cost; moto's answer if it is `None`.
    pub(crate) spot_prices: Option<Vec<Spot>>,
    lists: usize,
    /// By instance: how many lists there had been when it was made, or terminated.
    made: HashMap<String, usize>,
    terminated: HashMap<String, usize>,
    /// What each looked like when it was seen alive.
    alive: HashMap<String, Element>,
    /// What is left for each token that was given out.
    pages: HashMap<String, Element>,
    /// Creates by their client tokens.
    creates: HashMap<String, (BTreeMap<String, String>, Message)>,
}

impl Eventual {
    /// An answer that needs no server.
    pub(crate) fn known(&mut self, call: &Call) -> Option<Message> {
        if call.action == "RunInstances" {
            let (parameters, answer) = self.creates.get(call.parameter("ClientToken")?)?;
            let text =
                "Arguments on this idempotent request are inconsistent with arguments used in previous request(s).";
            let same = *parameters == call.parameters;
            return Some(if same { answer.clone() } else { error_answer(400, "IdempotentParameterMismatch", text) });
        }
        if let Some(token) = call.parameter("NextToken").filter(|token| token.starts_with(TOKEN)) {
            let Some(rest) = self.pages.get(token).cloned() else {
                return Some(error_answer(400, "InvalidNextToken", "The token is not valid"));
            };
            return Some(xml_answer(&self.page(&call.action, rest)));
        }
        if call.action == "DescribeSpotPriceHistory" {
            let all = self.spot_prices.as_ref()?;
            let asked = |spot: &&Spot| call.parameters.values().any(|value| *value == spot.instance_type);
            let mut root = Element::new("DescribeSpotPriceHistoryResponse", "");
            root.children.push(Element::new("requestId", "00000000-0000-0000-0000-000000000000"));
            let items = all.iter().filter(asked).map(Spot::element).collect();
            root.children.push(Element::with("spotPriceHistorySet", items));
            return Some(xml_answer(&self.page(&call.action, root)));
        }
        None
    }

    /// A server's answer as EC2 would give it.
    pub(crate) fn change(&mut self, call: &Call, mut answer: Message) -> Message {
        if answer.status() != 200 {
            return answer;
        }
        let Some(mut root) = std::str::from_utf8(&answer.body).ok().and_then(Element::parse) else { return answer };
        match call.action.as_str() {
            "RunInstances" => {
                for item in root.list("instancesSet") {
                    let id = item.at("instanceId").unwrap_or_default().to_owned();
                    self.made.insert(id, self.lists);
                }
                if let Some(token) = call.parameter("ClientToken") {
                    self.creates.insert(token.to_owned(), (call.parameters.clone(), answer.clone()));
                }
                return answer;
            }
            "TerminateInstances" => {
                for item in root.list("instancesSet") {
                    let id = item.at("instanceId").unwrap_or_default().to_owned();
                    // Terminating it once more changes nothing.
                    self.terminated.entry(id).or_insert(self.lists);
                }
                return answer;
            }
            "DescribeInstances" => self.list(&mut root),
            _ => {}
        }
        if !PAGED.iter().any(|(action, _)| *action == call.action) {
            return answer;
        }
        let page = self.page(&call.action, root);
        answer.set_body(page.document().into_bytes());
        answer
    }

    /// One more list of instances.
    fn list(&mut self, root: &mut Element) {
        let Some(reservations) = root.child_mut("reservationSet") else { return };
        for reservation in &mut reservations.children {
            let Some(instances) = reservation.child_mut("instancesSet") else { continue };
            instances.children.retain_mut(|item| {
                let id = item.at("instanceId").unwrap_or_default().to_owned();
                let since = |moments: &HashMap<String, usize>| moments.get(&id).map(|lists| self.lists - lists);
                if since(&self.made).is_some_and(|lists| lists < self.appears_after) {
                    return false;
                }
                if matches!(item.at("instanceState/name"), Some("pending" | "running")) {
                    self.alive.insert(id, item.clone());
                } else if since(&self.terminated).is_some_and(|lists| lists < self.lingers_for)
                    && let Some(alive) = self.alive.get(&id)
                {
                    *item = alive.clone();
                }
                true
            });
        }
        reservations.children.retain(|reservation| !reservation.list("instancesSet").is_empty());
        self.lists += 1;
    }

    /// The first page of what there is; the rest is kept for its token.
    fn page(&mut self, action: &str, mut root: Element) -> Element {
        let list = PAGED.iter().find(|(other, _)| *other == action).map_or("", |(_, list)| list);
        let mut token = root.at("nextToken").unwrap_or_default().to_owned();
        let size = self.page_size.unwrap_or(usize::MAX);
        if root.list(list).len() > size {
            let mut rest = root.clone();
            if let (Some(first), Some(others)) = (root.child_mut(list), rest.child_mut(list)) {
                first.children.truncate(size);
                others.children.drain(..size);
            }
            token = format!("{TOKEN}{}", self.pages.len());
            self.pages.insert(token.clone(), rest);
        }
        root.children.retain(|child| child.name != "nextToken");
        if !token.is_empty() || self.empty_token {
            root.children.push(Element::new("nextToken", &token));
        }
        root
    }
}

fn xml_answer(root: &Element) -> Message {
    Message::answer(200, "text/xml;charset=UTF-8", root.document().as_bytes())
}
