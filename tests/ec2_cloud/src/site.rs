//! Everything at once: an account with a network in it, a proxy before it, machines for its instances.

use std::fs::File;
use std::io::{self, Read};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::sync::Arc;

use crate::machine::BootOptions;
use crate::machines::Machines;
use crate::moto::{Credentials, Moto};
use crate::proxy::Ec2Proxy;

/// How often another place is tried.
const PLACES_TRIED: usize = 50;

/// What a site is to be like.
#[derive(Clone, Debug)]
pub struct SiteOptions {
    /// How many subnets there are, each in a zone of its own; up to 6.
    pub subnets: u8,
    /// How machines boot.
    pub boot: BootOptions,
}

impl Default for SiteOptions {
    /// Two subnets.
    fn default() -> Self {
        Self { subnets: 2, boot: BootOptions::default() }
    }
}

/// EC2 for one test, with the network `127.N.0.0/16`, where N is the test's own.
#[derive(Debug)]
pub struct Ec2Site {
    // Fields are dropped in this order: first whoever asks moto, then moto.
    /// The way to the API.
    pub proxy: Ec2Proxy,
    /// The instances' machines.
    pub machines: Machines,
    /// The API itself, to make and look at things apart from the program under test.
    pub moto: Arc<Moto>,
    /// The subnets' ids, in zones a, b, …
    pub subnets: Vec<String>,
    /// The security group's id.
    pub security_group: String,
    /// The image's id.
    pub image: String,
    /// Where all machines serve SSH.
    pub ssh_port: u16,
    /// Who logs in.
    pub user: String,
    /// Keeps the place from others.
    _place: TcpListener,
}

impl Ec2Site {
    /// With two subnets, and machines that boot at once.
    ///
    /// # Errors
    /// Something cannot be started: with what to do about it.
    pub fn start() -> io::Result<Self> {
        Self::with(SiteOptions::default())
    }

    /// As the options say.
    ///
    /// # Errors
    /// As [`Ec2Site::start`].
    pub fn with(options: SiteOptions) -> io::Result<Self> {
        let (place, number) = place()?;
        let ssh_port = place.local_addr()?.port();
        let moto = Arc::new(Moto::start()?);
        let vpc = moto.create_vpc(&format!("127.{number}.0.0/16"));
        let zones = ('a'..='f').zip(1..=options.subnets);
        let subnet = |(zone, subnet)| moto.create_subnet(&vpc, &format!("127.{number}.{subnet}.0/24"), zone);
        let subnets = zones.map(subnet).collect();
        let security_group = moto.create_security_group(&vpc, "muster");
        let image = moto.create_image("muster-test");
        let user = options.boot.user();
        let proxy = Ec2Proxy::start(&moto)?;
        let machines = Machines::start(&moto, ssh_port, options.boot)?;
        Ok(Self { proxy, machines, moto, subnets, security_group, image, ssh_port, user, _place: place })
    }

    /// What stands in `DriverParameters`, as YAML in one line.
    #[must_use]
    pub fn driver_parameters(&self) -> String {
        format!(
            "{{AccessKeyID: {id}, SecretAccessKey: {secret:?}, Region: {region}, SubnetID: [{subnets}], SecurityGroupIDs: [{group}], \
             AdminUsername: {user}, Endpoint: {endpoint:?}}}",
            id = Credentials::STATIC.id,
            secret = Credentials::STATIC.secret,
            region = self.moto.region(),
            subnets = self.subnets.join(", "),
            group = self.security_group,
            user = self.user,
            endpoint = self.proxy.url(),
        )
    }

    /// What stands in `config.yml` below `Containers` and `InstanceTypes`, for a dispatcher with this private key: two types, `small`
    /// (`t3.small`) and `large` (`m5.xlarge`), which say what this machine has: one that has less would not be used. `cloud` is further lines of `CloudVMs`, indented by four; `top` of the top level.
    #[must_use]
    pub fn config(&self, private_key: &Path, cloud: &str, top: &str) -> String {
        format!(
            "Containers:\n  DispatchPrivateKey: file://{key}\n  CloudVMs:\n    Driver: ec2\n    ImageID: {image}\n    \
             SSHPort: {port}\n{cloud}    DriverParameters: {parameters}\nInstanceTypes:\n  \
             small: {{ProviderType: t3.small, VCPUs: 1, RAM: 1GiB, IncludedScratch: 10GB, Price: 0.02}}\n  \
             large: {{ProviderType: m5.xlarge, VCPUs: 2, RAM: 4GiB, IncludedScratch: 10GB, Price: 0.2}}\n{top}",
            key = private_key.display(),
            image = self.image,
            port = self.ssh_port,
            parameters = self.driver_parameters(),
        )
    }
}

/// A network on the loopback interface and a port in it that no other site has while the listener lives: its first address is taken.
/// The port is outside the range for outgoing connections, so that none of those takes it before a machine does.
fn place() -> io::Result<(TcpListener, u8)> {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let outgoing = range.split_whitespace().next().and_then(|first| first.parse::<u16>().ok()).unwrap_or(32768);
    let (low, high) = if outgoing > 14000 { (10_000, outgoing) } else { (40_000, 65_000) };
    let mut last = io::Error::other("no place was tried");
    for _ in 0..PLACES_TRIED {
        let mut bytes = [0; 3];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        // Neither 127.0 nor 127.1, where others are at home.
        let number = 16 + bytes[0] % 224;
        let port = low + u16::from_ne_bytes([bytes[1], bytes[2]]) % (high - low);
        match TcpListener::bind((Ipv4Addr::new(127, number, 0, 1), port)) {
            Ok(listener) => return Ok((listener, number)),
            Err(error) => last = error,
        }
    }
    Err(last)
}
