//! The dispatcher's public key at EC2 (spec 42 §3): found by its fingerprint under whatever name, else imported.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::fingerprint::fingerprints;
use super::query::{Params, Query, QueryError};
use crate::cloud::CloudError;
use crate::core::errors::chain;

/// Begins the names of keys that we import.
const NAME_PREFIX: &str = "arvados-dispatch-keypair-";

/// Somebody has imported a key of this name before us: another dispatcher, or we ourselves and never had the answer.
const DUPLICATE_CODE: &str = "InvalidKeyPair.Duplicate";

/// Names of key pairs by the first fingerprint. Those that were found are kept as well as those that were imported, so that a create
/// costs one call.
///
/// Creates at the same time must not import a key twice, so one of them looks, and the others wait for it. If it fails they fail with
/// it: they would find the same, one after the other, each for as long as the service lets it wait.
#[derive(Debug, Default)]
pub(super) struct KeyPairs {
    /// Held for moments only.
    names: Mutex<BTreeMap<String, String>>,
    /// Held by the one that looks, during its calls: how the latest look failed, if it did. `names` is taken inside it.
    looking: Mutex<Option<Failure>>,
    /// Looks that are over.
    looks: AtomicU64,
}

#[derive(Debug)]
struct Failure {
    fingerprint: String,
    /// Which look it was.
    look: u64,
    text: String,
}

impl KeyPairs {
    /// The name that the key has at EC2. `public_key` is `ALGORITHM BASE64 [comment]`; `still_wanted` is asked when it has had to wait.
    ///
    /// # Errors
    /// Unclassified, even a rate limit; or what `still_wanted` says.
    pub(super) fn name(
        &self,
        query: &dyn Query,
        public_key: &str,
        still_wanted: impl Fn() -> Result<(), CloudError>,
    ) -> Result<String, CloudError> {
        self.name_since(self.looks.load(Ordering::Acquire), query, public_key, still_wanted)
    }

    /// The same for a create that has waited since so many looks were over.
    fn name_since(
        &self,
        looks: u64,
        query: &dyn Query,
        public_key: &str,
        still_wanted: impl Fn() -> Result<(), CloudError>,
    ) -> Result<String, CloudError> {
        let fingerprints =
            fingerprints(public_key).map_err(|error| CloudError::other("Could not make key fingerprint", error))?;
        let [fingerprint, _] = &fingerprints;
        if let Some(name) = self.known(fingerprint) {
            return Ok(name);
        }
        let mut latest = self.looking.lock();
        still_wanted()?;
        if let Some(name) = self.known(fingerprint) {
            return Ok(name);
        }
        if let Some(failure) = latest.as_ref().filter(|one| one.look > looks && one.fingerprint == *fingerprint) {
            return Err(CloudError::Other { message: failure.text.clone(), source: None });
        }
        let result = look(query, &fingerprints, public_key);
        let look = self.looks.fetch_add(1, Ordering::AcqRel) + 1;
        let failed = |error: &CloudError| Failure { fingerprint: fingerprint.clone(), look, text: chain(error) };
        *latest = result.as_ref().err().map(failed);
        self.names.lock().extend(result.iter().map(|name| (fingerprint.clone(), name.clone())));
        result
    }

    fn known(&self, fingerprint: &str) -> Option<String> {
        self.names.lock().get(fingerprint).cloned()
    }

    /// A name is not known at EC2 any more: somebody has removed the key, and the next create imports it again.
    pub(super) fn forget(&self, name: &str) {
        self.names.lock().retain(|_, known| known != name);
    }
}

fn look(query: &dyn Query, fingerprints: &[String; 2], public_key: &str) -> Result<String, CloudError> {
    if let Some(name) = find(query, fingerprints)? {
        return Ok(name);
    }
    let [fingerprint, _] = fingerprints;
    let error = match import(query, fingerprint, public_key) {
        Ok(name) => return Ok(name),
        Err(error) => error,
    };
    let is_there = matches!(&error, QueryError::Api { code, .. } if code == DUPLICATE_CODE);
    let found = if is_there { find(query, fingerprints)? } else { None };
    found.ok_or_else(|| CloudError::other("Could not import keypair", error))
}

fn find(query: &dyn Query, fingerprints: &[String; 2]) -> Result<Option<String>, CloudError> {
    let mut params = Params::default();
    params.filter("fingerprint", fingerprints);
    let answer = query
        .call("DescribeKeyPairs", &params)
        .map_err(|error| CloudError::other("Could not search for keypair", error))?;
    let mut names = answer.items(&["keySet"]).filter_map(|item| item.text_of(&["keyName"]));
    Ok(names.find(|name| !name.is_empty()).map(str::to_owned))
}

fn import(query: &dyn Query, fingerprint: &str, public_key: &str) -> Result<String, QueryError> {
    let name = format!("{NAME_PREFIX}{fingerprint}");
    let mut params = Params::default();
    params.add("KeyName", name.as_str());
    params.add("PublicKeyMaterial", openssl::base64::encode_block(authorized_keys_line(public_key).as_bytes()));
    query.call("ImportKeyPair", &params)?;
    Ok(name)
}

/// Without the comment, which is nobody's business there.
fn authorized_keys_line(public_key: &str) -> String {
    let words: Vec<&str> = public_key.split_ascii_whitespace().take(2).collect();
    format!("{}\n", words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cloud::ec2::tests::stub::{Stub, api};

    const KEY: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMdBef1Rc/polsg+6SDJIekiTc1YQS6reyuMFZtq9NS4";
    const OTHER: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl";

    /// Those that waited while a look failed fail with it, and ask nobody; who comes later looks again.
    #[test]
    fn a_failure_is_of_all_that_waited_for_it() {
        let stub = Stub::new(|_, _| api("Throttling"));
        let pairs = KeyPairs::default();
        let ask = |looks, key| pairs.name_since(looks, &*stub, key, || Ok(())).expect_err("no key");
        let first = pairs.name(&*stub, KEY, || Ok(())).expect_err("no key");
        assert_eq!(stub.actions().len(), 1);
        for _ in 0..10 {
            assert_eq!(ask(0, KEY).to_string(), chain(&first));
        }
        assert!(stub.actions().is_empty());
        ask(0, OTHER);
        ask(1, KEY);
        ask(3, KEY);
        assert_eq!(stub.actions().len(), 3);
    }

    #[test]
    fn who_has_waited_for_too_long_asks_nobody() {
        let stub = Stub::new(|_, _| api("Throttling"));
        let pairs = KeyPairs::default();
        let late = || Err(CloudError::Other { message: "late".to_owned(), source: None });
        assert_eq!(pairs.name(&*stub, KEY, late).expect_err("late").to_string(), "late");
        assert!(stub.actions().is_empty());
        // That is its own failure, not the key's.
        pairs.name_since(0, &*stub, KEY, || Ok(())).expect_err("throttled");
        assert_eq!(stub.actions().len(), 1);
    }
}
