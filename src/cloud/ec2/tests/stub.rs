//! A query API that answers as it is told, and notes what it was asked.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use crate::cloud::ec2::environment::WallClock;
use crate::cloud::ec2::query::{Element, Params, Query, QueryError};
use crate::cloud::ec2::{Clock, Ec2, Ec2Options};
use crate::cloud::ssh_access::SshAccess;
use crate::core::effect::Tags;
use crate::core::time::Moment;
use crate::remote::runner::RunnerPlaces;
use crate::remote::{Connector, Executor, HostAccess};

pub(in crate::cloud::ec2) type Answer = Result<Element, QueryError>;
type Script = Box<dyn FnMut(&'static str, &Params) -> Answer + Send>;

/// See the module.
pub(in crate::cloud::ec2) struct Stub {
    script: Mutex<Script>,
    asked: Mutex<Vec<(&'static str, Params)>>,
    limits: Mutex<Vec<Duration>>,
}

impl std::fmt::Debug for Stub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Stub")
    }
}

impl Query for Stub {
    fn call_within(&self, action: &'static str, params: &Params, limit: Duration) -> Answer {
        self.limits.lock().push(limit);
        self.asked.lock().push((action, params.clone()));
        (self.script.lock())(action, params)
    }
}

impl Stub {
    pub(in crate::cloud::ec2) fn new(
        script: impl FnMut(&'static str, &Params) -> Answer + Send + 'static,
    ) -> Arc<Self> {
        Arc::new(Self { script: Mutex::new(Box::new(script)), asked: Mutex::default(), limits: Mutex::default() })
    }

    /// What was asked since this was called last.
    pub(in crate::cloud::ec2) fn asked(&self) -> Vec<(&'static str, Params)> {
        std::mem::take(&mut self.asked.lock())
    }

    /// How long each call could take, since this was called last.
    pub(in crate::cloud::ec2) fn limits(&self) -> Vec<Duration> {
        std::mem::take(&mut self.limits.lock())
    }

    /// The actions of [`Stub::asked`].
    pub(in crate::cloud::ec2) fn actions(&self) -> Vec<&'static str> {
        self.asked().into_iter().map(|(action, _)| action).collect()
    }
}

/// All but the tokens, which are different each time: `NAME=VALUE`.
pub(in crate::cloud::ec2) fn lines(params: &Params) -> Vec<String> {
    let known = params.0.iter().filter(|(name, _)| name != "ClientToken");
    known.map(|(name, value)| format!("{name}={value}")).collect()
}

pub(in crate::cloud::ec2) fn leaf(name: &str, text: &str) -> Element {
    Element { name: name.to_owned(), text: text.to_owned(), children: Vec::new() }
}

pub(in crate::cloud::ec2) fn node(name: &str, children: Vec<Element>) -> Element {
    Element { name: name.to_owned(), text: "\n    ".to_owned(), children }
}

pub(in crate::cloud::ec2) fn api<T>(code: &str) -> Result<T, QueryError> {
    api_says(code, "EC2's words")
}

pub(in crate::cloud::ec2) fn api_says<T>(code: &str, message: &str) -> Result<T, QueryError> {
    let (code, message) = (code.to_owned(), message.to_owned());
    Err(QueryError::Api { status: 400, code, message, request_id: "r-1".to_owned() })
}

/// An instance as EC2 tells of it. `fields` are `PATH=TEXT`, the path with slashes, or `tag:KEY=TEXT`.
pub(in crate::cloud::ec2) fn instance(fields: &[&str]) -> Element {
    let mut children = Vec::new();
    let mut tags = Vec::new();
    for field in fields {
        let (path, text) = field.split_once('=').expect("PATH=TEXT");
        if let Some(key) = path.strip_prefix("tag:") {
            tags.push(node("item", vec![leaf("key", key), leaf("value", text)]));
        } else {
            let mut names = path.rsplit('/');
            let last = leaf(names.next().expect("one at least"), text);
            children.push(names.fold(last, |inner, name| node(name, vec![inner])));
        }
    }
    children.push(node("tagSet", tags));
    node("item", children)
}

/// A page of `DescribeInstances`: an instance per reservation.
pub(in crate::cloud::ec2) fn page(instances: Vec<Element>, next: Option<&str>) -> Element {
    let reservation = |instance| node("item", vec![node("instancesSet", vec![instance])]);
    let mut children = vec![node("reservationSet", instances.into_iter().map(reservation).collect())];
    children.extend(next.map(|token| leaf("nextToken", token)));
    node("DescribeInstancesResponse", children)
}

/// The answer to a create that has succeeded.
pub(in crate::cloud::ec2) fn started(id: &str) -> Element {
    let fields = [&*format!("instanceId={id}"), "instanceType=m1.small", "instanceState/name=pending"];
    node("RunInstancesResponse", vec![node("instancesSet", vec![instance(&fields)])])
}

/// Nobody is connected to.
#[derive(Debug, Default)]
pub(in crate::cloud::ec2) struct NoConnector(pub(in crate::cloud::ec2) Mutex<Vec<HostAccess>>);

impl Connector for NoConnector {
    fn executor(&self, access: HostAccess) -> std::io::Result<Arc<dyn Executor>> {
        self.0.lock().push(access);
        Err(std::io::Error::other("a stub"))
    }
}

/// Both clocks at the same time, which tests set.
pub(in crate::cloud::ec2) fn clock() -> (Clock, Arc<Mutex<Duration>>) {
    let time = Arc::new(Mutex::new(Duration::ZERO));
    let (now, wall) = (time.clone(), time.clone());
    let clock = Clock {
        now: Arc::new(move || Moment::since_start(*now.lock())),
        wall: WallClock::new(move || i64::try_from(wall.lock().as_millis()).expect("small")),
    };
    (clock, time)
}

pub(in crate::cloud::ec2) fn options() -> Ec2Options {
    Ec2Options {
        security_groups: Vec::new(),
        subnets: Vec::new(),
        user: "crunch".to_owned(),
        ebs_volume_type: String::new(),
        ebs_price: 0.1,
        iam_profile: String::new(),
        spot_price_interval: Duration::ZERO,
        quota_groups: [("t".to_owned(), "standard".to_owned())].into(),
        access: SshAccess { connector: Arc::new(NoConnector::default()), places: RunnerPlaces::default() },
        clock: clock().0,
        metrics: None,
    }
}

pub(in crate::cloud::ec2) fn driver(options: Ec2Options, stub: &Arc<Stub>) -> Ec2 {
    let driver = Ec2::new(options, stub.clone()).expect("no other series");
    assert!(stub.actions().is_empty());
    driver
}

pub(in crate::cloud::ec2) fn tags(pairs: &[(&str, &str)]) -> Tags {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}
