//! The driver `ec2`: instances of Amazon EC2 (spec 42).
//!
//! Nothing runs in the background and nothing is called when it is made. Truth is EC2's list; what is kept here makes it cheaper (key
//! names, prices, the zones that prices depend on) or is about our own calls (throttles, whose turn a subnet is).
//!
//! Reading order: [`query`] (the API as the driver sees it) and [`errors`] (what its refusals mean); [`options`]; [`order`] and
//! [`limits`] (what a create says), [`rotation`] (in which subnet), [`keypairs`] with [`fingerprint`] (with whose key); [`list`] and
//! [`pages`]; [`prices`]; [`quota_group`]; [`metrics`]. The API over the network is [`client`], which is made of [`credentials`], [`sigv4`]
//! (signatures), [`http`] (to an [`endpoint`], by its [`names`]) and [`xml`] (answers); [`environment`] is what all of it takes from the
//! process.

pub mod client;
pub mod credentials;
pub mod endpoint;
pub mod environment;
pub mod errors;
pub mod fingerprint;
pub mod http;
mod keypairs;
mod limits;
mod list;
mod metrics;
mod names;
mod options;
mod order;
mod pages;
mod prices;
pub mod query;
mod quota_group;
mod rotation;
pub mod sigv4;
pub mod xml;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use errors::{Backoff, Class, Span, classify, unclassified};
use keypairs::KeyPairs;
use list::Listed;
use metrics::Metrics;
pub use options::{Clock, Ec2Options};
use pages::{Budget, each_page};
use prices::{Market, Prices, hourly_ebs};
use query::{Params, Query, QueryError};
use rotation::Rotation;

use super::{Access, CloudError, CloudInstance, InstanceSet, NewInstance, Traits};
use crate::core::effect::{Ending, Tags};
use crate::core::ids::{InstanceId, InstanceSecret};
use crate::core::instance_type::{InstanceType, PricePoint};
use crate::core::time::Moment;
use crate::remote::identity::SecretOnly;

/// EC2 says so of an instance that is gone, and forgotten.
const GONE_CODE: &str = "InvalidInstanceID.NotFound";
/// Somebody has removed the key pair that we know the name of.
const KEY_GONE_CODE: &str = "InvalidKeyPair.NotFound";

/// See the module.
#[derive(Debug)]
pub struct Ec2 {
    options: Ec2Options,
    query: Arc<dyn Query>,
    key_pairs: KeyPairs,
    rotation: Rotation,
    prices: Prices,
    /// Of the spot instances of the last list, and of those made since it began: which prices are theirs, and when they were made if no
    /// list has shown them.
    markets: Mutex<BTreeMap<InstanceId, (Market, Option<Moment>)>>,
    creates: Mutex<Backoff>,
    lists: Mutex<Backoff>,
    metrics: Metrics,
}

impl Ec2 {
    /// Calls nothing.
    ///
    /// # Errors
    /// The registry has other series of our names.
    pub fn new(options: Ec2Options, query: Arc<dyn Query>) -> Result<Self, prometheus::Error> {
        Ok(Self {
            metrics: Metrics::new(&options)?,
            options,
            query,
            key_pairs: KeyPairs::default(),
            rotation: Rotation::default(),
            prices: Prices::default(),
            markets: Mutex::default(),
            creates: Mutex::default(),
            lists: Mutex::default(),
        })
    }

    /// One RunInstances.
    fn run_instances(&self, order: &Params, subnet: &str, secrets: &[&str]) -> Result<Listed, QueryError> {
        let result = client_token().and_then(|token| {
            let answer = self.query.call("RunInstances", &order::attempt(order, subnet, &token))?;
            let nothing = || QueryError::other("the answer to RunInstances has no instance");
            list::started(&answer, &self.options.user).ok_or_else(nothing)
        });
        self.metrics.started(subnet, result.is_ok());
        result.map_err(|error| {
            if matches!(&error, QueryError::Api { code, .. } if code == KEY_GONE_CODE) {
                self.key_pairs.forget(order.get("KeyName").unwrap_or_default());
            }
            without(error, secrets)
        })
    }

    fn now(&self) -> Moment {
        (self.options.clock.now)()
    }

    /// An attempt in each subnet until one works.
    fn try_subnets(&self, order: &Params, new: &NewInstance) -> Result<Listed, CloudError> {
        // What has others in it comes first.
        let secrets = [order.get("UserData").unwrap_or_default(), &new.init_command, new.secret.reveal()];
        let mut began = self.now();
        let (mut too_late, mut is_throttled) = (None, false);
        let result = self.rotation.try_each(&self.options.subnets, |subnet| {
            if let Err(error) = new.still_wanted() {
                too_late = Some(error);
                return Err(QueryError::other("not begun"));
            }
            began = self.now();
            let result = self.run_instances(order, subnet, &secrets);
            is_throttled = result.as_ref().is_err_and(|error| classify(error) == Class::RateLimit);
            result
        });
        let call = Span { began, ended: self.now() };
        let mut creates = self.creates.lock();
        match (result, too_late) {
            (Ok(made), _) => {
                creates.reset();
                Ok(made)
            }
            (Err(_), Some(too_late)) => Err(too_late),
            (Err(error), None) => {
                // It is not what the pool hears of if a lack of capacity came before it (§5.3), and yet it is one.
                if is_throttled && classify(&error) != Class::RateLimit {
                    creates.throttled(call);
                }
                Err(creates.classify(error, call))
            }
        }
    }

    /// What a list tells beside the instances: figures and prices.
    fn digest(&self, listed: &[Listed], began: Moment) {
        let mut counts = BTreeMap::new();
        for one in listed {
            *counts.entry(one.subnet.clone()).or_insert(0) += 1;
        }
        self.metrics.listed(&counts);
        let shown: BTreeMap<InstanceId, Market> = listed.iter().filter_map(market).collect();
        let wanted = shown.values().cloned().collect();
        {
            let mut markets = self.markets.lock();
            // One that was made meanwhile need not be in the list.
            markets.retain(|_, (_, made_at)| made_at.is_some_and(|at| at >= began));
            markets.extend(shown.into_iter().map(|(id, market)| (id, (market, None))));
        }
        let interval = self.options.spot_price_interval;
        if !interval.is_zero() {
            self.prices.refresh(&*self.query, &self.options.clock, interval, &wanted);
        }
    }
}

impl InstanceSet for Ec2 {
    fn create(&self, new: &NewInstance) -> Result<CloudInstance, CloudError> {
        // Before any call: what cannot be ordered imports no key.
        let mut order = order::order(&self.options, new)?;
        let key_name = new.public_key.as_ref().map(|key| self.key_pairs.name(&*self.query, key, || new.still_wanted()));
        let key_name = key_name.transpose()?;
        order.0.extend(key_name.iter().map(|name| ("KeyName".to_owned(), name.clone())));
        let made = self.try_subnets(&order, new)?;
        self.markets.lock().extend(market(&made).map(|(id, market)| (id, (market, Some(self.now())))));
        // What was ordered is there from the start, whatever of it the answer shows already.
        Ok(CloudInstance { tags: new.tags.clone(), ..made.instance })
    }

    /// In no particular order.
    fn list(&self, tags: &Tags) -> Result<Vec<CloudInstance>, CloudError> {
        let began = self.now();
        let budget = Budget::new(&self.options.clock, list::LIST_LIMIT);
        let mut listed = Vec::new();
        each_page(&*self.query, "DescribeInstances", &list::describe(tags), budget, |page| {
            listed.extend(list::instances(page, &self.options.user)?);
            self.lists.lock().reset();
            Ok(())
        })
        .map_err(|error| self.lists.lock().classify(error, Span { began, ended: self.now() }))?;
        self.digest(&listed, began);
        Ok(listed.into_iter().map(|one| one.instance).collect())
    }

    fn destroy(&self, id: &InstanceId, _secret: Option<&InstanceSecret>, _ending: Ending) -> Result<(), CloudError> {
        let mut params = Params::default();
        params.add("InstanceId.1", id.as_str());
        match self.query.call("TerminateInstances", &params) {
            Err(QueryError::Api { code, .. }) if code == GONE_CODE => Ok(()),
            result => result.map(drop).map_err(unclassified),
        }
    }

    /// Adds and changes tags, but removes none.
    fn set_tags(&self, id: &InstanceId, tags: &Tags) -> Result<(), CloudError> {
        let Some(params) = order::create_tags(id.as_str(), tags)? else { return Ok(()) };
        let secrets: Vec<&str> =
            tags.iter().filter(|(key, _)| Tags::is_secret(key)).map(|(_, value)| value.as_str()).collect();
        let result = self.query.call("CreateTags", &params);
        result.map(drop).map_err(|error| unclassified(without(error, &secrets)))
    }

    fn quota_group(&self, instance_type: &InstanceType) -> String {
        quota_group::quota_group(&instance_type.provider_type, instance_type.preemptible, &self.options.quota_groups)
    }

    fn traits(&self) -> Traits {
        Traits { calls_provider: true, ..Traits::default() }
    }

    fn price_history(&self, id: &InstanceId, instance_type: &InstanceType) -> Vec<PricePoint> {
        let Some((market, _)) = self.markets.lock().get(id).cloned() else { return Vec::new() };
        let mut points = self.prices.history(&market);
        let added = hourly_ebs(self.options.ebs_price, instance_type.added_scratch);
        for point in &mut points {
            point.price += added;
        }
        points
    }

    fn open(&self, _id: &InstanceId, secret: Option<&InstanceSecret>) -> io::Result<Access> {
        self.options.access.open(Arc::new(SecretOnly), secret)
    }

    fn stop(&self) {
        self.query.stop();
    }
}

/// On-demand instances cost what the configuration says, so they have none.
fn market(one: &Listed) -> Option<(InstanceId, Market)> {
    let market = || Market { provider_type: one.instance.provider_type.clone(), zone: one.zone.clone() };
    one.spot.then(|| (one.instance.id.clone(), market()))
}

/// Different for each attempt, within the 64 characters that EC2 takes.
fn client_token() -> Result<String, QueryError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| QueryError::caused("cannot get random numbers", error))?;
    Ok(sigv4::hex(&bytes))
}

/// EC2 repeats in its words what it does not like: not in our log.
fn without(mut error: QueryError, secrets: &[&str]) -> QueryError {
    let (QueryError::Api { message, .. } | QueryError::Other { message, .. }) = &mut error;
    for secret in secrets.iter().filter(|secret| !secret.is_empty()) {
        *message = message.replace(secret, "***");
    }
    error
}

#[cfg(test)]
mod tests;
