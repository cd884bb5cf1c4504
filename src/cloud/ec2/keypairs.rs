//! The dispatcher's public key at EC2 (spec 42 §3): found by its fingerprint under whatever name, else imported.

use std::collections::BTreeMap;

use parking_lot::Mutex;

use super::fingerprint::fingerprints;
use super::query::{Params, Query};
use crate::cloud::CloudError;

/// Begins the names of keys that we import.
const NAME_PREFIX: &str = "arvados-dispatch-keypair-";

/// Names of key pairs by the first fingerprint. Those that were found are kept as well as those that were imported, so that a create
/// costs one call. The lock is held during calls: creates at the same time must not import a key twice.
#[derive(Debug, Default)]
pub(super) struct KeyPairs(Mutex<BTreeMap<String, String>>);

impl KeyPairs {
    /// The name that the key has at EC2. `public_key` is `ALGORITHM BASE64 [comment]`.
    ///
    /// # Errors
    /// Unclassified, even a rate limit.
    pub(super) fn name(&self, query: &dyn Query, public_key: &str) -> Result<String, CloudError> {
        let mut names = self.0.lock();
        let fingerprints =
            fingerprints(public_key).map_err(|error| CloudError::other("Could not make key fingerprint", error))?;
        let [fingerprint, _] = &fingerprints;
        if let Some(name) = names.get(fingerprint) {
            return Ok(name.clone());
        }
        let name = match find(query, &fingerprints)? {
            Some(name) => name,
            None => import(query, fingerprint, public_key)?,
        };
        names.insert(fingerprint.clone(), name.clone());
        Ok(name)
    }

    /// A name is not known at EC2 any more: somebody has removed the key, and the next create imports it again.
    pub(super) fn forget(&self, name: &str) {
        self.0.lock().retain(|_, known| known != name);
    }
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

fn import(query: &dyn Query, fingerprint: &str, public_key: &str) -> Result<String, CloudError> {
    let name = format!("{NAME_PREFIX}{fingerprint}");
    let mut params = Params::default();
    params.add("KeyName", name.as_str());
    params.add("PublicKeyMaterial", openssl::base64::encode_block(authorized_keys_line(public_key).as_bytes()));
    query.call("ImportKeyPair", &params).map_err(|error| CloudError::other("Could not import keypair", error))?;
    Ok(name)
}

/// Without the comment, which is nobody's business there.
fn authorized_keys_line(public_key: &str) -> String {
    let words: Vec<&str> = public_key.split_ascii_whitespace().take(2).collect();
    format!("{}\n", words.join(" "))
}
