//! What is in the account: made and looked at by tests, not through the program under test.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;

use crate::api::ApiError;
use crate::moto::{Moto, REGION};
use crate::xml::Element;

/// A state as EC2 names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceState {
    /// `pending`
    Pending,
    /// `running`
    Running,
    /// `shutting-down`
    ShuttingDown,
    /// `terminated`
    Terminated,
    /// `stopping`
    Stopping,
    /// `stopped`
    Stopped,
}

impl InstanceState {
    fn parse(word: &str) -> Self {
        match word {
            "pending" => Self::Pending,
            "running" => Self::Running,
            "shutting-down" => Self::ShuttingDown,
            "terminated" => Self::Terminated,
            "stopping" => Self::Stopping,
            "stopped" => Self::Stopped,
            other => panic!("EC2 has no state {other:?}"),
        }
    }

    /// It costs nothing any more and never comes back.
    #[must_use]
    pub fn is_gone(self) -> bool {
        matches!(self, Self::ShuttingDown | Self::Terminated)
    }
}

/// An instance as moto has it now.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `i-…`
    pub id: String,
    /// What it is doing.
    pub state: InstanceState,
    /// `t3.micro` and the like.
    pub instance_type: String,
    /// The image it was made of.
    pub image: String,
    /// The name of its key pair.
    pub key_name: Option<String>,
    /// The private address.
    pub address: Option<Ipv4Addr>,
    /// The public address, which nobody should have asked for.
    pub public_address: Option<String>,
    /// Where its network interface is.
    pub subnet: Option<String>,
    /// Of its network interface.
    pub security_groups: Vec<String>,
    /// The zone it is in.
    pub zone: Option<String>,
    /// `spot` or nothing.
    pub lifecycle: Option<String>,
    /// The name of its instance profile.
    pub profile: Option<String>,
    /// Whether its metadata service wants version 2's tokens.
    pub http_tokens: Option<String>,
    /// All its tags.
    pub tags: BTreeMap<String, String>,
    /// All that EC2 says of it.
    pub raw: Element,
}

impl Instance {
    fn of(item: &Element) -> Self {
        let text = |path: &str| item.at(path).map(str::to_owned);
        let groups = item.list("networkInterfaceSet").iter().flat_map(|interface| interface.list("groupSet"));
        let tag = |tag: &Element| Some((tag.at("key")?.to_owned(), tag.at("value").unwrap_or_default().to_owned()));
        Self {
            id: text("instanceId").expect("every instance has an id"),
            state: InstanceState::parse(item.at("instanceState/name").unwrap_or_default()),
            instance_type: text("instanceType").unwrap_or_default(),
            image: text("imageId").unwrap_or_default(),
            key_name: text("keyName"),
            address: item.at("privateIpAddress").and_then(|address| address.parse().ok()),
            public_address: text("ipAddress"),
            subnet: text("subnetId"),
            security_groups: groups.filter_map(|group| group.at("groupId").map(str::to_owned)).collect(),
            zone: text("placement/availabilityZone"),
            lifecycle: text("instanceLifecycle"),
            profile: text("iamInstanceProfile/arn").map(|arn| arn.rsplit('/').next().unwrap_or_default().to_owned()),
            http_tokens: text("metadataOptions/httpTokens"),
            tags: item.list("tagSet").iter().filter_map(tag).collect(),
            raw: item.clone(),
        }
    }
}

impl Moto {
    /// All instances, those that are gone too, in the order of their making.
    ///
    /// # Panics
    /// So do all that follow if moto refuses; its log is shown.
    #[must_use]
    pub fn instances(&self) -> Vec<Instance> {
        self.try_instances().unwrap_or_else(|error| panic!("DescribeInstances: {error}\n{}", self.tail()))
    }

    pub(crate) fn try_instances(&self) -> Result<Vec<Instance>, ApiError> {
        let root = self.call("DescribeInstances", &[])?;
        let items = root.list("reservationSet").iter().flat_map(|reservation| reservation.list("instancesSet"));
        Ok(items.map(Instance::of).collect())
    }

    /// Those that are not gone.
    #[must_use]
    pub fn live(&self) -> Vec<Instance> {
        self.instances().into_iter().filter(|instance| !instance.state.is_gone()).collect()
    }

    /// One of them, gone or not.
    #[must_use]
    pub fn instance(&self, id: &str) -> Instance {
        let all = self.instances();
        all.into_iter().find(|instance| instance.id == id).unwrap_or_else(|| panic!("moto has no instance {id}"))
    }

    /// An instance's user data, decoded.
    ///
    /// # Errors
    /// There is no such instance, or what it has is not text in base64.
    pub fn user_data(&self, id: &str) -> Result<Option<String>, ApiError> {
        let root = self.call("DescribeInstanceAttribute", &[("InstanceId", id), ("Attribute", "userData")])?;
        let Some(text) = root.at("userData/value") else { return Ok(None) };
        let decoded = BASE64.decode(text).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let wrong =
            || ApiError { status: 200, code: "UserData".to_owned(), message: format!("not text in base64: {text}") };
        decoded.map(Some).ok_or_else(wrong)
    }

    /// An instance's volumes by device: GiB, type, and whether they go with it.
    #[must_use]
    pub fn volumes(&self, id: &str) -> BTreeMap<String, (u64, String, bool)> {
        // Only the instance knows what goes with it.
        let instance = self.instance(id);
        let goes_with_it = |device: &str| {
            let mappings = instance.raw.list("blockDeviceMapping").iter();
            let mut of_device = mappings.filter(|mapping| mapping.at("deviceName") == Some(device));
            of_device.any(|mapping| mapping.at("ebs/deleteOnTermination") == Some("true"))
        };
        let root = self.ok("DescribeVolumes", &[]);
        let mut found = BTreeMap::new();
        for volume in root.list("volumeSet") {
            for attachment in volume.list("attachmentSet").iter().filter(|item| item.at("instanceId") == Some(id)) {
                let size = volume.at("size").and_then(|size| size.parse().ok()).unwrap_or(0);
                let kind = volume.at("volumeType").unwrap_or_default().to_owned();
                let device = attachment.at("device").unwrap_or_default();
                found.insert(device.to_owned(), (size, kind, goes_with_it(device)));
            }
        }
        found
    }

    /// The key pairs: name and fingerprint.
    #[must_use]
    pub fn key_pairs(&self) -> BTreeMap<String, String> {
        let root = self.ok("DescribeKeyPairs", &[]);
        let pair = |item: &Element| Some((item.at("keyName")?.to_owned(), item.at("keyFingerprint")?.to_owned()));
        root.list("keySet").iter().filter_map(pair).collect()
    }

    /// The public key of a pair, as a line of `authorized_keys`.
    ///
    /// # Errors
    /// There is none of this name.
    pub fn public_key(&self, name: &str) -> Result<String, ApiError> {
        let root = self.call("DescribeKeyPairs", &[("KeyName.1", name), ("IncludePublicKey", "true")])?;
        let item = root.list("keySet").first().cloned().unwrap_or_default();
        Ok(item.at("publicKey").unwrap_or_default().trim().to_owned())
    }

    /// Makes a key pair of a public key, as somebody else than the program might have done.
    pub fn import_key_pair(&self, name: &str, public: &str) {
        self.ok("ImportKeyPair", &[("KeyName", name), ("PublicKeyMaterial", &BASE64.encode(public))]);
    }

    /// A new network; its id.
    #[must_use]
    pub fn create_vpc(&self, range: &str) -> String {
        field(&self.ok("CreateVpc", &[("CidrBlock", range)]), "vpc/vpcId")
    }

    /// A new subnet in a zone, such as `a`; its id.
    #[must_use]
    pub fn create_subnet(&self, vpc: &str, range: &str, zone: char) -> String {
        let zone = format!("{REGION}{zone}");
        let parameters = [("VpcId", vpc), ("CidrBlock", range), ("AvailabilityZone", &zone)];
        field(&self.ok("CreateSubnet", &parameters), "subnet/subnetId")
    }

    /// A new security group; its id.
    #[must_use]
    pub fn create_security_group(&self, vpc: &str, name: &str) -> String {
        let parameters = [("VpcId", vpc), ("GroupName", name), ("GroupDescription", "of a test")];
        field(&self.ok("CreateSecurityGroup", &parameters), "groupId")
    }

    /// A new image; its id.
    #[must_use]
    pub fn create_image(&self, name: &str) -> String {
        field(&self.ok("RegisterImage", &[("Name", name), ("Architecture", "x86_64")]), "imageId")
    }

    /// A new instance profile with a role in it.
    pub fn create_instance_profile(&self, name: &str) {
        let policy = ("AssumeRolePolicyDocument", r#"{"Version": "2012-10-17", "Statement": []}"#);
        self.iam("CreateRole", &[("RoleName", name), policy]);
        self.iam("CreateInstanceProfile", &[("InstanceProfileName", name)]);
        self.iam("AddRoleToInstanceProfile", &[("InstanceProfileName", name), ("RoleName", name)]);
    }

    /// Terminates an instance, as EC2 interrupts spot instances or an operator intervenes.
    pub fn terminate(&self, id: &str) {
        self.ok("TerminateInstances", &[("InstanceId.1", id)]);
    }

    /// Stops an instance, as an operator may.
    pub fn stop(&self, id: &str) {
        self.ok("StopInstances", &[("InstanceId.1", id)]);
    }
}

fn field(root: &Element, path: &str) -> String {
    root.at(path).unwrap_or_else(|| panic!("no {path} in {}", root.document())).to_owned()
}
