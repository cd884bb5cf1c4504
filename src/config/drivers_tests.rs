//! What the drivers `ec2` and `exec` read from DriverParameters: every default, every form, every fault with its place.

use std::time::Duration;

use super::tests::{faults, loaded, warnings};
use super::{Ec2Config, Secret};

fn text(driver: &str, parameters: &str) -> String {
    format!(
        "ClusterID: zzzzz\nMuster: {{Queue: {{Driver: local}}}}\nContainers:\n  CloudVMs:\n    Driver: {driver}\n    \
         DriverParameters: {parameters}\nInstanceTypes: {{a: {{VCPUs: 1, RAM: 1GiB, Price: 0.1}}}}\n"
    )
}

fn ec2(parameters: &str) -> Ec2Config {
    loaded(&text("ec2", parameters)).config.cloud.ec2.expect("the driver is ec2")
}

#[test]
fn defaults_of_ec2() {
    let config = ec2("{Region: us-east-1}");
    assert_eq!((config.access_key_id.as_str(), config.secret_access_key), ("", Secret::new("")));
    assert_eq!((config.security_groups, config.subnets), (Vec::new(), Vec::new()));
    assert_eq!((config.admin_username.as_str(), config.ebs_volume_type.as_str()), ("crunch", "gp2"));
    assert_eq!((config.ebs_price, config.spot_price_interval), (0.10, Duration::from_secs(86400)));
    assert_eq!((config.iam_instance_profile.as_str(), config.endpoint), ("", None));
    let groups: Vec<String> = config.quota_groups.iter().map(|(prefix, group)| format!("{prefix}={group}")).collect();
    let standard =
        "a=standard c=standard d=standard h=standard i=standard m=standard p5=p5 r=standard t=standard vt=g z=standard";
    assert_eq!(groups.join(" "), standard);
}

/// The vectors of spec 42 §1.
#[test]
fn forms_of_subnets_and_groups() {
    for (yaml, expected) in [
        ("", &[][..]),
        ("null", &[]),
        ("\"\"", &[]),
        ("[]", &[]),
        ("\"foo\"", &["foo"]),
        ("[\"foo\"]", &["foo"]),
        ("[foo]", &["foo"]),
        ("[\"foo\",\"bar\"]", &["foo", "bar"]),
        ("[foo-bar, baz]", &["foo-bar", "baz"]),
    ] {
        assert_eq!(ec2(&format!("{{Region: r-1, SubnetID: {yaml}}}")).subnets, expected, "{yaml}");
    }
    // Empty entries are none; but each other one stays where it stands.
    let config = ec2("{Region: r-1, SubnetID: ['', a, '', b]}");
    assert_eq!((config.subnets, config.subnet_places), (vec!["a".to_owned(), "b".to_owned()], vec![1, 3]));
    for yaml in ["[sg-1, sg-2]", "{sg-1: {}, sg-2: {}}"] {
        assert_eq!(ec2(&format!("{{Region: r-1, SecurityGroupIDs: {yaml}}}")).security_groups, ["sg-1", "sg-2"]);
    }
}

#[test]
fn all_of_ec2_and_keys_of_others() {
    let parameters = "{AccessKeyID: AKIA, SecretAccessKey: shh, Region: eu-west-1, AdminUsername: admin, EBSVolumeType: gp3, \
                      EBSPrice: 0.08, IAMInstanceProfile: p, SpotPriceUpdateInterval: 0, Endpoint: 'http://127.0.0.1:1', \
                      InstanceTypeQuotaGroups: {m: '', x: big}, TenantID: t, Location: centralus}";
    let config = ec2(parameters);
    assert_eq!((config.access_key_id.as_str(), config.secret_access_key.reveal()), ("AKIA", "shh"));
    assert_eq!((config.ebs_price, config.spot_price_interval), (0.08, Duration::ZERO));
    assert_eq!((config.quota_groups["m"].as_str(), config.quota_groups["x"].as_str()), ("", "big"));
    assert_eq!(config.quota_groups["t"], "standard", "deep merged");
    assert_eq!(config.endpoint.as_deref(), Some("http://127.0.0.1:1"));
    assert!(!format!("{config:?}").contains("shh"));
    assert_eq!(warnings(&text("ec2", parameters)), Vec::<String>::new(), "Azure's keys may be there");
    let dump = super::dump(&loaded(&text("ec2", parameters)).config);
    assert!(!dump.contains("shh"), "{dump}");
}

#[test]
fn faults_of_ec2() {
    for (parameters, expected) in [
        ("{}", "/conf/config.yml:6:23: Containers.CloudVMs.DriverParameters.Region: is missing: give the region"),
        ("{Region: 'https://x'}", "DriverParameters.Region: \"https://x\" is not the name of a region"),
        ("{Region: r-1, InstanceTypeQuotaGroups: {M: x}}", "InstanceTypeQuotaGroups: \"M\" would never match"),
        ("{Endpoint: 'http://localhost:1'}", "DriverParameters.Region: is missing: give the region"),
        (
            "{Region: r-1, Endpoint: 'http://u:shh@h'}",
            "/conf/config.yml:6:47: Containers.CloudVMs.DriverParameters.Endpoint: \"(hidden)@h\" is not of the form http[s]://HOST[:PORT]",
        ),
        ("{Region: r-1, EBSPrice: cheap}", "DriverParameters.EBSPrice: \"cheap\" is not a number"),
        ("{Region: r-1, SubnetID: ['', {a: b}]}", "DriverParameters.SubnetID[1]: must be a single value"),
    ] {
        let found = faults(&text("ec2", parameters));
        assert!(found.iter().any(|fault| fault.contains(expected)), "{parameters}: {found:#?}");
    }
    for (parameters, expected) in [
        ("{Region: r-1, AccessKeyID: A}", "AccessKeyID is given without SecretAccessKey"),
        ("{Region: r-1, SecretAccessKey: A}", "SecretAccessKey is given without AccessKeyID"),
        (
            "{Region: r-1, SubnetIDs: a}",
            "DriverParameters.SubnetIDs: there is no such key (perhaps you meant SubnetID?)",
        ),
    ] {
        let found = warnings(&text("ec2", parameters));
        assert!(found.iter().any(|fault| fault.contains(expected)), "{parameters}: {found:#?}");
    }
}

/// MaxPrice would be 0, and every create refused.
#[test]
fn bids_of_nothing() {
    let warned = |driver: &str, parameters: &str, types: &str, more: &str| {
        let text = text(driver, parameters).replace("a: {VCPUs: 1, RAM: 1GiB, Price: 0.1}", types);
        let text = text.replace("Containers:\n", &format!("Containers:\n{more}"));
        let found = warnings(&text);
        found.into_iter().filter(|fault| fault.contains("needs a Price")).collect::<Vec<_>>()
    };
    let types = "a: {VCPUs: 1, RAM: 1GiB, Preemptible: true}, b: {VCPUs: 1, RAM: 1GiB, Price: 0.1, Preemptible: true}, c: {VCPUs: 1, RAM: 1GiB}";
    let found = warned("ec2", "{Region: r-1}", types, "");
    assert!(matches!(&found[..], [one] if one.contains("InstanceTypes.a: ")), "{found:#?}");
    let found = warned("ec2", "{Region: r-1}", types, "  PreemptiblePriceFactor: 0.5\n");
    assert!(matches!(&found[..], [_, two] if two.contains("InstanceTypes.c.preemptible: ")), "{found:#?}");
    assert_eq!(warned("exec", "{Program: /bin/sh}", types, ""), Vec::<String>::new());
}

#[test]
fn ports_that_are_none() {
    for (driver, parameters) in [("ec2", "{Region: r-1}"), ("exec", "{Program: /bin/sh}")] {
        let text = text(driver, parameters).replace("    DriverParameters", "    SSHPort: moon\n    DriverParameters");
        let found = faults(&text);
        assert!(found.iter().any(|fault| fault.contains("SSHPort: must be a number from 1 to 65535")), "{found:#?}");
    }
}

#[test]
fn endpoints() {
    for url in ["http://h", "https://ec2.example:443/", "http://127.0.0.1:5000", "http://[::1]", "http://[fd00::1]:80/"]
    {
        assert_eq!(ec2(&format!("{{Region: r-1, Endpoint: '{url}'}}")).endpoint.as_deref(), Some(url));
    }
    for url in [
        "h",
        "ftp://h",
        "http://",
        "http:///",
        "http://h/path",
        "http://h:",
        "http://h:0",
        "http://h:99999",
        "http://:1",
    ]
    .into_iter()
    .chain(["http://h:+1", "http://::1", "http://[x]", "http://a b", "http://h?q", "http://h//", "HTTP:h"])
    {
        let found = faults(&text("ec2", &format!("{{Region: r-1, Endpoint: '{url}'}}")));
        assert!(found.iter().any(|fault| fault.contains("DriverParameters.Endpoint: ")), "{url}: {found:#?}");
    }
}

#[test]
fn parameters_of_exec() {
    let config =
        loaded(&text("exec", "{Program: /bin/sh, Timeout: 30s, Parameters: {region: x, deep: {n: 5, l: [a]}}}"));
    let exec = config.config.cloud.exec.expect("the driver is exec");
    assert_eq!((exec.program.to_str(), exec.timeout), (Some("/bin/sh"), Duration::from_secs(30)));
    let parameters = serde_json::Value::Object(exec.parameters.0);
    assert_eq!(parameters, serde_json::json!({"region": "x", "deep": {"n": 5, "l": ["a"]}}));
    assert_eq!(
        loaded(&text("exec", "{Program: /bin/sh}")).config.cloud.exec.expect("exec").timeout,
        Duration::from_secs(300)
    );
    for (parameters, expected) in [
        ("{}", "DriverParameters.Program: the driver exec needs a program"),
        ("{Program: my-cloud}", "DriverParameters.Program: /conf/my-cloud: No such file"),
        ("{Program: /tmp}", "DriverParameters.Program: /tmp: is not a file"),
        ("{Program: /etc/passwd}", "DriverParameters.Program: /etc/passwd: is not executable: chmod +x"),
        ("{Program: /bin/sh, Timeout: 0}", "DriverParameters.Timeout: must be more than 0"),
        ("{Program: /bin/sh, Parameters: [a]}", "DriverParameters.Parameters: must be a map, not a list"),
    ] {
        let found = faults(&text("exec", parameters));
        assert!(found.iter().any(|fault| fault.contains(expected)), "{parameters}: {found:#?}");
    }
    let found = warnings(&text("exec", "{Program: /bin/sh, Programm: x}"));
    assert!(found.iter().any(|fault| fault.contains("perhaps you meant Program?")), "{found:#?}");
}

/// Whoever takes the comment signs away has a configuration.
#[test]
fn examples_of_the_reference_file() {
    let reference = super::reference();
    let blocks: Vec<&str> = reference.split("\n\n").filter(|block| block.contains("# # Containers:")).collect();
    let uncommented = |block: &str| {
        let lines = block.lines().filter_map(|line| line.strip_prefix("# # ")).filter(|line| !line.is_empty());
        // The first lines are text.
        let lines = lines.skip_while(|line| !line.starts_with("Containers:"));
        lines.map(|line| format!("{line}\n")).collect::<String>()
    };
    let local = "Muster: {Queue: {Driver: local}}\n";
    let block = |driver: &str| {
        let found = blocks.iter().find(|block| block.contains(&format!("Driver: {driver}\n")));
        uncommented(found.unwrap_or_else(|| panic!("{driver}: {reference}"))) + local
    };
    assert_eq!(warnings(&block("ec2")), Vec::<String>::new(), "{}", block("ec2"));
    let exec = block("exec").replace("/usr/local/bin/my-cloud", "/bin/sh")
        + "InstanceTypes: {a: {VCPUs: 1, RAM: 1GiB, Price: 0.1}}\n";
    assert_eq!(warnings(&exec), Vec::<String>::new(), "{exec}");
}
