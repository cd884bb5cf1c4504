//! The cloud driver that the configuration names, with what it needs, and the wrappers around it (spec 40 §4).

use std::io;
use std::num::NonZeroU32;
use std::sync::Arc;

use super::clock::{Clock, wall_now};
use super::fault_point::reached;
use super::threads;
use crate::cloud::boot::Boot;
use crate::cloud::default_tags::DefaultTags;
use crate::cloud::ec2::client::{HttpQuery, Settings};
use crate::cloud::ec2::credentials::Secret;
use crate::cloud::ec2::environment::{Environment, WallClock};
use crate::cloud::ec2::{self, Ec2, Ec2Options};
use crate::cloud::exec::{ExecCloud, ExecOptions};
use crate::cloud::filtering::Filtering;
use crate::cloud::instrumented::Instrumented;
use crate::cloud::loopback::Loopback;
use crate::cloud::rate_limited::RateLimited;
use crate::cloud::ssh_access::SshAccess;
use crate::cloud::static_hosts::{HostSpec, StaticHosts, StaticOptions};
use crate::cloud::{CloudEvents, InstanceSet};
use crate::config::{CloudDriver, Config, DeployRunner, Ec2Config, StaticConfig};
use crate::core::effect::Tags;
use crate::core::ids::InstanceId;
use crate::core::time::Moment;
use crate::management::metrics::Metrics;
use crate::remote::Connector;
use crate::remote::runner::RunnerPlaces;
use crate::remote::ssh::key::PrivateKey;
use crate::remote::ssh::{SshClient, SshConnector, port_number};
use crate::remote::supply::RunnerSupply;

/// What drivers are made from.
pub(super) struct DriverParts<'a> {
    pub(super) config: &'a Config,
    /// Our instance set id.
    pub(super) set: &'a str,
    pub(super) clock: Clock,
    /// What logs in to instances; `None` with the loopback driver, which needs none.
    pub(super) key: Option<PrivateKey>,
    pub(super) supply: &'a Arc<RunnerSupply>,
    pub(super) events: &'a CloudEvents,
    /// Where the driver registers series of its own, if anywhere.
    pub(super) metrics: Option<&'a Metrics>,
}

/// A driver, and what its instances are given.
pub(super) struct Driver {
    pub(super) cloud: Arc<dyn InstanceSet>,
    pub(super) boot: Boot,
}

/// The driver itself, without wrappers.
///
/// # Errors
/// Of the driver (spec 40 §4: the process ends); the text says what to do.
pub(super) fn bare(parts: DriverParts<'_>) -> io::Result<Driver> {
    let config = parts.config;
    let public_key = parts.key.as_ref().map(PrivateKey::public_openssh);
    let boot = Boot {
        image_id: config.cloud.image_id.clone(),
        init_command: config.cloud.instance_init_command.clone(),
        public_key: public_key.filter(|_| config.cloud.deploy_public_key),
        ..Boot::default()
    };
    let connector = |key: Option<PrivateKey>| -> io::Result<Arc<dyn Connector>> {
        let key =
            key.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "there is no key for hosts over SSH"))?;
        Ok(Arc::new(SshConnector(Arc::new(ssh_client(config, key)?))))
    };
    let cloud: Arc<dyn InstanceSet> = match config.cloud.driver {
        CloudDriver::Loopback => {
            let tag = format!("{}InstanceSetID", config.cloud.tag_key_prefix);
            Arc::new(Loopback::open(&config.state_dir, home(), (&tag, parts.set))?)
        }
        CloudDriver::Static => {
            let hosts = section(config.cloud.static_hosts.as_ref())?;
            let clock = parts.clock;
            Arc::new(StaticHosts::open(StaticOptions {
                hosts: specs(config, hosts),
                state_file: hosts.state_file.clone(),
                set: parts.set.to_owned(),
                supply: parts.supply.clone(),
                tag_prefix: config.cloud.tag_key_prefix.clone(),
                init_command: config.cloud.instance_init_command.clone(),
                places: {
                    let places = places(config);
                    Arc::new(move |_| places.clone())
                },
                connector: connector(parts.key)?,
                events: parts.events.clone(),
                spawn: Arc::new(threads::spawn),
                clock: Arc::new(move || clock.now()),
                began: clock.wall_of(Moment::ZERO),
                reached: |step| reached(step.into()),
            })?)
        }
        CloudDriver::Exec => {
            let exec = section(config.cloud.exec.as_ref())?;
            let options = ExecOptions {
                program: exec.program.clone(),
                timeout: exec.timeout,
                parameters: exec.parameters.0.clone(),
                set: parts.set.to_owned(),
                home: home(),
                access: SshAccess { connector: connector(parts.key)?, places: places(config) },
                type_names: config.instance_types.keys().cloned().collect(),
            };
            Arc::new(ExecCloud::open(options).map_err(io::Error::other)?)
        }
        CloudDriver::Ec2 => {
            parts.key.as_ref().filter(|_| config.cloud.deploy_public_key).map_or(Ok(()), can_be_imported)?;
            let access = SshAccess { connector: connector(parts.key)?, places: places(config) };
            let ec2 = section(config.cloud.ec2.as_ref())?;
            Arc::new(ec2_driver(ec2, access, (parts.clock, parts.metrics, &config.metrics_prefix))?)
        }
        CloudDriver::Azure => return Err(io::Error::other("the driver azure does not exist yet")),
    };
    Ok(Driver { cloud, boot })
}

/// The driver as the pool uses it: counted, limited, with the configured tags, and with lists of what was asked for only.
pub(super) fn wrapped(config: &Config, driver: Arc<dyn InstanceSet>, metrics: &Arc<Metrics>) -> Arc<dyn InstanceSet> {
    // Hosts that are there already have no provider who counts calls.
    let is_limited = driver.traits().calls_provider;
    let counted = metrics.clone();
    let count = Arc::new(move |name: &'static str, failed| counted.driver_operation(name, failed));
    let mut cloud: Arc<dyn InstanceSet> = Arc::new(Instrumented::around(driver, count));
    let limit = u32::try_from(config.cloud.max_cloud_ops_per_second).unwrap_or(u32::MAX);
    if let (true, Some(limit)) = (is_limited, NonZeroU32::new(limit)) {
        cloud = Arc::new(RateLimited::around(cloud, limit));
    }
    let tags = Tags::from(config.cloud.resource_tags.clone());
    Arc::new(Filtering::around(Arc::new(DefaultTags::around(cloud, tags))))
}

/// EC2 imports no others (spec 60 §3.2).
fn can_be_imported(key: &PrivateKey) -> io::Result<()> {
    match key.algorithm() {
        "ssh-rsa" | "ssh-ed25519" => Ok(()),
        other => {
            let text = format!(
                "EC2 takes RSA and ed25519 keys only, and DispatchPrivateKey is {other}: give another one, or set \
                 DeployPublicKey: false and have the image accept it"
            );
            Err(io::Error::new(io::ErrorKind::InvalidInput, text))
        }
    }
}

fn ec2_driver(
    config: &Ec2Config,
    access: SshAccess,
    (clock, metrics, prefix): (Clock, Option<&Metrics>, &str),
) -> io::Result<Ec2> {
    let query = HttpQuery::new(Settings {
        region: config.region.clone(),
        endpoint: config.endpoint.clone(),
        access_key_id: config.access_key_id.clone(),
        secret_access_key: Secret::new(config.secret_access_key.reveal()),
        environment: Environment::of_process(Arc::new(threads::spawn)),
        clock: WallClock::new(wall_now),
    })
    .map_err(io::Error::other)?;
    let options = Ec2Options {
        security_groups: config.security_groups.clone(),
        subnets: config.subnets.clone(),
        user: config.admin_username.clone(),
        ebs_volume_type: config.ebs_volume_type.clone(),
        ebs_price: config.ebs_price,
        iam_profile: config.iam_instance_profile.clone(),
        spot_price_interval: config.spot_price_interval,
        quota_groups: config.quota_groups.clone(),
        access,
        clock: ec2::Clock { now: Arc::new(move || clock.now()), wall: WallClock::new(wall_now) },
        metrics: metrics.map(|metrics| (metrics.registry().clone(), format!("{prefix}_"))),
    };
    Ec2::new(options, Arc::new(query)).map_err(io::Error::other)
}

fn home() -> String {
    std::env::var("HOME").unwrap_or_else(|_| "/".to_owned())
}

/// The configuration has a driver's section whenever it names the driver.
fn section<T>(section: Option<&T>) -> io::Result<&T> {
    section
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "the configuration has no DriverParameters for it"))
}

fn specs(config: &Config, hosts: &StaticConfig) -> Vec<HostSpec> {
    let spec = |host: &crate::config::StaticHost| {
        let instance_type = config.instance_types.get(&host.instance_type);
        HostSpec {
            id: InstanceId::new(&host.name),
            address: host.address.clone(),
            user: host.user.clone(),
            sudo: host.use_sudo,
            type_name: host.instance_type.clone(),
            provider_type: instance_type.map(|one| one.provider_type.clone()).unwrap_or_default(),
            trust: host.trust.clone(),
        }
    };
    hosts.hosts.iter().map(spec).collect()
}

/// The runner's own defaults, but for what the configuration says of its program.
fn places(config: &Config) -> RunnerPlaces {
    let there = config.cloud.deploy_runner_binary == DeployRunner::PreInstalled;
    RunnerPlaces {
        directory: config.cloud.deploy_runner_directory.clone(),
        program: there.then(|| config.containers.crunch_run_command.clone()),
        ..RunnerPlaces::default()
    }
}

fn ssh_client(config: &Config, key: PrivateKey) -> io::Result<SshClient> {
    let port = port_number(&config.cloud.ssh_port).ok_or_else(|| {
        let text = format!("SSHPort {:?} is neither a number nor a service in /etc/services", config.cloud.ssh_port);
        io::Error::new(io::ErrorKind::InvalidInput, text)
    })?;
    Ok(SshClient::new(key, port, Arc::new(threads::spawn)))
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::cloud::layer::recorded::{Recorded, all_calls, instance};
    use crate::config::{Host, LoadOptions, load_text};
    use crate::core::ids::InstanceSecret;

    fn config(cloud: &str) -> Config {
        let host = Host { is_root: false, cpus: 1, ram: 1 << 30, disk: 1 << 30 };
        let options = LoadOptions { path: None, cluster: None, env: &|_| None, host, private_key_fault: |_| None };
        let text = format!("Muster: {{StateDir: /x}}\nContainers: {{CloudVMs: {{{cloud}}}}}");
        load_text(None, &text, &options).expect("a configuration").config
    }

    fn counted(metrics: &Metrics) -> f64 {
        let all = metrics.registry().gather();
        let family = all.iter().find(|family| family.name().ends_with("driver_operations")).expect("registered");
        family.get_metric().iter().map(|metric| metric.get_counter().get_value()).sum()
    }

    /// Spec 40 §4: counted innermost, then limited, then with tags, then filtered.
    #[test]
    fn the_order_of_the_wrappers() {
        let metrics = Arc::new(Metrics::new("", "0").expect("a name"));
        let instances = vec![instance("ours", &[("mark", "m")]), instance("theirs", &[])];
        let recorded = Arc::new(Recorded { instances, ..Recorded::default() });
        let cloud = wrapped(&config("MaxCloudOpsPerSecond: 50, ResourceTags: {site: lab}"), recorded.clone(), &metrics);
        let asked = instance("i", &[("mark", "m")]).tags;
        let began = Instant::now();
        assert_eq!(cloud.list(&asked).expect("listed").len(), 1, "filtered");
        cloud.create(&Boot::default().order(Arc::default(), asked, InstanceSecret::new("5"))).expect("made");
        assert!(began.elapsed() >= Duration::from_millis(20), "limited");
        assert_eq!(recorded.calls.lock()[1].1.get("site").map(String::as_str), Some("lab"));
        assert!((counted(&metrics) - 2.0).abs() < 0.1);
        // What the limiter refuses was no call.
        cloud.stop();
        assert_eq!(all_calls(&*cloud), [false; 4]);
        assert!((counted(&metrics) - 2.0).abs() < 0.1);
    }

    #[test]
    fn no_limit_where_none_is_configured_or_nobody_counts() {
        let metrics = Arc::new(Metrics::new("", "0").expect("a name"));
        for (limit, calls_provider) in [(0, true), (1, false)] {
            let recorded = Arc::new(Recorded { counts_nothing: !calls_provider, ..Recorded::default() });
            let cloud = wrapped(&config(&format!("MaxCloudOpsPerSecond: {limit}")), recorded, &metrics);
            // A stop ends limited calls only.
            cloud.stop();
            assert_eq!(all_calls(&*cloud), [true; 4], "{limit} {calls_provider}");
        }
    }

    #[test]
    fn keys_that_ec2_imports() {
        assert!(can_be_imported(&PrivateKey::generate().expect("made")).is_ok());
        let group = openssl::ec::EcGroup::from_curve_name(openssl::nid::Nid::X9_62_PRIME256V1).expect("known");
        let key = openssl::pkey::PKey::from_ec_key(openssl::ec::EcKey::generate(&group).expect("made")).expect("a key");
        let pem = String::from_utf8(key.private_key_to_pem_pkcs8().expect("PEM")).expect("text");
        let error = can_be_imported(&PrivateKey::parse(&pem).expect("a key")).expect_err("ECDSA").to_string();
        assert!(error.contains("ecdsa-sha2-nistp256") && error.contains("DeployPublicKey"), "{error}");
    }
}
