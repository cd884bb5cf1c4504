//! `DriverParameters` of the driver `ec2` (spec 42 §1). Keys that are not its own are ignored: Azure's may stand beside them.

use std::collections::BTreeMap;
use std::fmt;
use std::net::Ipv6Addr;
use std::time::Duration;

use super::Secret;
use super::fault::{Fault, Faults, Mark};
use super::section::Section;
use super::values::text_of;
use super::yaml::Content;

const KEYS: [&str; 12] = [
    "AccessKeyID",
    "AdminUsername",
    "EBSPrice",
    "EBSVolumeType",
    // For tests: an address to be used in place of the region's.
    "Endpoint",
    "IAMInstanceProfile",
    "InstanceTypeQuotaGroups",
    "Region",
    "SecretAccessKey",
    "SecurityGroupIDs",
    "SpotPriceUpdateInterval",
    "SubnetID",
];

/// Spec 44 §1.
const AZURE_KEYS: [&str; 16] = [
    "BlobContainer",
    "ClientID",
    "ClientSecret",
    "CloudEnvironment",
    "DeleteDanglingResourcesAfter",
    "ImageResourceGroup",
    "Location",
    "Network",
    "NetworkResourceGroup",
    "ResourceGroup",
    "SharedImageGalleryImageVersion",
    "SharedImageGalleryName",
    "StorageAccount",
    "Subnet",
    "SubscriptionID",
    "TenantID",
];

const QUOTA_GROUPS: [(&str, &str); 11] = [
    ("a", "standard"),
    ("c", "standard"),
    ("d", "standard"),
    ("h", "standard"),
    ("i", "standard"),
    ("m", "standard"),
    ("p5", "p5"),
    ("r", "standard"),
    ("t", "standard"),
    ("vt", "g"),
    ("z", "standard"),
];
const SPOT_PRICE_INTERVAL: Duration = Duration::from_secs(24 * 3600);
const EBS_PRICE: f64 = 0.10;

/// What the driver `ec2` works with.
#[derive(Clone, Debug, PartialEq)]
pub struct Ec2Config {
    /// With the next: empty = as the environment, files or the machine's role say.
    pub access_key_id: String,
    pub secret_access_key: Secret,
    pub region: String,
    pub security_groups: Vec<String>,
    /// Tried in this order; empty = the cloud's default.
    pub subnets: Vec<String>,
    /// Where each of them stands in the configuration's list, in which empty entries count, too.
    pub subnet_places: Vec<usize>,
    /// Entries that are none, with their places in that list. Errors, so that only `muster cloudtest` ever sees one.
    pub wrong_subnets: Vec<(usize, Fault)>,
    pub admin_username: String,
    pub ebs_volume_type: String,
    /// Per GiB and month of that volume type.
    pub ebs_price: f64,
    /// Name of an instance profile; empty = none.
    pub iam_instance_profile: String,
    /// Zero = prices are not looked up.
    pub spot_price_interval: Duration,
    /// Group by prefix of the type's name, in lower case; an empty group counts as none.
    pub quota_groups: BTreeMap<String, String>,
    /// In place of the region's own: `http://HOST:PORT`.
    pub endpoint: Option<String>,
}

/// `driver` is the place of the driver's name.
pub(super) fn read(section: &Section<'_>, driver: Option<Mark>, faults: &mut Faults) -> Ec2Config {
    let known: Vec<&str> = KEYS.into_iter().chain(AZURE_KEYS).collect();
    for (mark, path, message) in section.unknown(&known) {
        faults.warn(Some(mark), &path, message);
    }
    let mut text = |name: &str| section.text(name, faults).map(|(text, _)| text);
    let (access_key_id, secret) =
        (text("AccessKeyID").unwrap_or_default(), text("SecretAccessKey").unwrap_or_default());
    let (region, endpoint) = (text("Region").unwrap_or_default(), text("Endpoint"));
    let admin_username = text("AdminUsername").unwrap_or_else(|| "crunch".to_owned());
    let ebs_volume_type = text("EBSVolumeType").unwrap_or_else(|| "gp2".to_owned());
    let iam_instance_profile = text("IAMInstanceProfile").unwrap_or_default();
    if access_key_id.is_empty() != secret.is_empty() {
        let (there, missing) = match access_key_id.is_empty() {
            false => ("AccessKeyID", "SecretAccessKey"),
            true => ("SecretAccessKey", "AccessKeyID"),
        };
        let message = format!("{there} is given without {missing}: every call will be refused; give both or neither");
        faults.warn(section.mark(there), &section.at(there), message);
    }
    check_region(section, driver, &region, faults);
    if let Some(url) = endpoint.as_ref().filter(|url| !is_endpoint(url)) {
        // A password is not for the log.
        let url = url.rsplit_once('@').map_or(url.clone(), |(_, place)| format!("(hidden)@{place}"));
        let message = format!("{url:?} is not of the form http[s]://HOST[:PORT]");
        faults.error(section.mark("Endpoint"), &section.at("Endpoint"), message);
    }
    let Subnets { good, places, wrong } = subnets(section, faults);
    Ec2Config {
        access_key_id,
        secret_access_key: Secret::new(&secret),
        region,
        security_groups: section.texts("SecurityGroupIDs", faults),
        subnets: good,
        subnet_places: places,
        wrong_subnets: wrong,
        admin_username,
        ebs_volume_type,
        ebs_price: section.number("EBSPrice", faults).unwrap_or(EBS_PRICE),
        iam_instance_profile,
        spot_price_interval: section.duration("SpotPriceUpdateInterval", faults).unwrap_or(SPOT_PRICE_INTERVAL),
        quota_groups: quota_groups(section, faults),
        endpoint,
    }
}

/// The entries, as [`Ec2Config`] has them.
#[derive(Default)]
struct Subnets {
    good: Vec<String>,
    places: Vec<usize>,
    wrong: Vec<(usize, Fault)>,
}

/// Each entry by itself: the others may be used.
fn subnets(section: &Section<'_>, faults: &mut Faults) -> Subnets {
    let Some(Content::List(entries)) = section.get("SubnetID").map(|node| &node.content) else {
        let good = section.texts("SubnetID", faults);
        return Subnets { places: (0..good.len()).collect(), good, ..Subnets::default() };
    };
    let mut subnets = Subnets::default();
    for (index, node) in entries.iter().enumerate() {
        match text_of(node) {
            Ok("") => {}
            Ok(text) => {
                subnets.good.push(text.to_owned());
                subnets.places.push(index);
            }
            Err(message) => {
                let key = format!("{}[{index}]", section.at("SubnetID"));
                let fault = faults.fault(Some(node.mark), &key, message);
                faults.errors.push(fault.clone());
                subnets.wrong.push((index, fault));
            }
        }
    }
    subnets
}

/// Scheme, host and port, without a path. (The client takes more than that; nothing that it would refuse comes through here.)
fn is_endpoint(url: &str) -> bool {
    let Some(place) = ["http://", "https://"].iter().find_map(|scheme| url.strip_prefix(scheme)) else { return false };
    let place = place.strip_suffix('/').unwrap_or(place);
    let is_v6 =
        |host: &str| host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')?.parse::<Ipv6Addr>().ok()).is_some();
    let is_name = |host: &str| {
        !host.is_empty() && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || [b'.', b'-', b'_'].contains(&byte))
    };
    let is_host = |host: &str| is_v6(host) || is_name(host);
    let is_port =
        |port: &str| port.bytes().all(|byte| byte.is_ascii_digit()) && port.parse::<u16>().is_ok_and(|port| port > 0);
    is_host(place) || place.rsplit_once(':').is_some_and(|(host, port)| is_host(host) && is_port(port))
}

fn check_region(section: &Section<'_>, driver: Option<Mark>, region: &str, faults: &mut Faults) {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if region.is_empty() {
        let mark = section.node.map(|node| node.mark).or(driver);
        faults.error(mark, &section.at("Region"), "is missing: give the region of the instances, such as us-east-1");
    } else if region.len() > 64 || !region.bytes().all(plain) {
        let message = format!("{region:?} is not the name of a region, such as us-east-1");
        faults.error(section.mark("Region"), &section.at("Region"), message);
    }
}

/// The site's over the defaults.
fn quota_groups(section: &Section<'_>, faults: &mut Faults) -> BTreeMap<String, String> {
    let name = "InstanceTypeQuotaGroups";
    let own = section.text_map(name, faults);
    for prefix in own.keys().filter(|prefix| prefix.chars().any(char::is_uppercase)) {
        let message = format!("{prefix:?} would never match: prefixes must be in lower case");
        faults.error(section.mark(name), &section.at(name), message);
    }
    let defaults = QUOTA_GROUPS.map(|(prefix, group)| (prefix.to_owned(), group.to_owned()));
    defaults.into_iter().chain(own).collect()
}

impl fmt::Display for Ec2Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let subnets = if self.subnets.is_empty() { "the default subnet".to_owned() } else { self.subnets.join(", ") };
        write!(f, "{} ({subnets})", self.region)
    }
}
