//! The API's server: the account's contents, what it refuses, and that nothing of it is left behind.

use std::path::Path;
use std::process::Command;

use muster_ec2_cloud::{InstanceState, Moto};
use muster_ssh_hosts::client_key;

use crate::support::Account;

#[test]
fn a_request_without_signature_is_refused() {
    let moto = Moto::start().expect("starts");
    let mut stream = std::net::TcpStream::connect(("127.0.0.1", moto.port())).expect("connected");
    let body = "Action=DescribeInstances&Version=2016-11-15";
    let request = format!(
        "POST / HTTP/1.1\r\nHost: ec2.us-east-1.amazonaws.com\r\nContent-Type: application/x-www-form-urlencoded\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    std::io::Write::write_all(&mut stream, request.as_bytes()).expect("sent");
    let mut text = String::new();
    std::io::Read::read_to_string(&mut stream, &mut text).expect("answered");
    assert!(text.contains(" 401 ") && text.contains("<Code>AuthFailure</Code>"), "{text}");
}

#[test]
fn an_instance_is_shown_with_all_that_it_was_made_with() {
    let account = Account::new();
    let Account { moto, .. } = &account;
    let key = client_key().expect("made");
    moto.import_key_pair("pair", key.public());
    assert_eq!(moto.public_key("pair").expect("there"), key.public());
    moto.create_instance_profile("profile");
    let id = account
        .run(&[
            ("KeyName", "pair"),
            // "#!/bin/sh\ntrue\n"
            ("UserData", "IyEvYmluL3NoCnRydWUK"),
            ("InstanceMarketOptions.MarketType", "spot"),
            ("InstanceMarketOptions.SpotOptions.MaxPrice", "0.02"),
            ("MetadataOptions.HttpTokens", "required"),
            ("IamInstanceProfile.Name", "profile"),
            ("TagSpecification.1.ResourceType", "instance"),
            ("TagSpecification.1.Tag.1.Key", "set"),
            ("TagSpecification.1.Tag.1.Value", "<a & b>"),
            ("BlockDeviceMapping.1.DeviceName", "/dev/xvdt"),
            ("BlockDeviceMapping.1.Ebs.VolumeSize", "7"),
            ("BlockDeviceMapping.1.Ebs.VolumeType", "gp2"),
            ("BlockDeviceMapping.1.Ebs.DeleteOnTermination", "true"),
        ])
        .expect("made");
    let instance = moto.instance(&id);
    assert_eq!(instance.state, InstanceState::Running);
    assert_eq!(instance.address.expect("has one").octets()[..3], [127, 200, 1]);
    assert_eq!(
        (instance.instance_type.as_str(), instance.image.as_str(), instance.zone.as_deref(), instance.subnet.as_ref()),
        ("t3.small", account.image.as_str(), Some("us-east-1a"), Some(&account.subnets[0]))
    );
    assert_eq!(
        (instance.key_name.as_deref(), instance.lifecycle.as_deref(), instance.profile.as_deref()),
        (Some("pair"), Some("spot"), Some("profile"))
    );
    assert_eq!((instance.http_tokens.as_deref(), instance.public_address), (Some("required"), None));
    assert_eq!(instance.tags["set"], "<a & b>");
    assert_eq!(moto.user_data(&id).expect("there").as_deref(), Some("#!/bin/sh\ntrue\n"));
    assert_eq!(moto.volumes(&id)["/dev/xvdt"], (7, "gp2".to_owned(), true));
    moto.terminate(&id);
    assert_eq!((moto.instance(&id).state, moto.live().len()), (InstanceState::Terminated, 0));
}

/// The vectors of the specification, which were found with other programs.
#[test]
fn fingerprints_are_those_of_ec2() {
    let moto = Moto::start().expect("starts");
    let ed25519 = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIMdBef1Rc/polsg+6SDJIekiTc1YQS6reyuMFZtq9NS4";
    let rsa = "ssh-rsa AAAAB3NzaC1yc2EAAAADAQABAAABAQCOuYDJ6SrJV4bn/JBob8HREnXoT5yw2BU7IqjKR1W4mYfFGqxr8jl/DCbxHOW1vC8tF37kPFc4h4AK2OThGNxifciO6HIAv/7sWGcqsI2XNvohYV/hrci1Uq6A7EMd56v0R0HJa+UTKlIpf0unpjrNMhBmbffwbVesohCvCnTwH1DPefghM7uxFMU/Flmq36tZ4rvEzG2JayWVxn9laQYR3D6hY1lwy2WsIK8zZkdoXTGSoyk9I70RxTd6NkZyklcS2PzbR5cYUMHZnYs8CechuTDzBiteI3s3oHWFSwoYZXevlqxkkYovqy+VLRNyW3APNYwy3GtaEGAR2REDTYqZ";
    moto.import_key_pair("a", ed25519);
    moto.import_key_pair("b", rsa);
    let pairs = moto.key_pairs();
    assert_eq!(pairs["a"], "SHA256:X+ArmE6o+Lzy9Lk8Tsfdn4XtoyNNwoQt393Z3+XBejw=");
    assert_eq!(pairs["b"], "b5:62:f1:95:71:b6:d9:a6:71:0c:b7:34:29:e7:8c:b5");
}

/// What a program gets wrong is refused, and not only by a rule of a test.
#[test]
fn what_is_not_there_is_refused() {
    let account = Account::new();
    let code = |more: &[(&str, &str)]| account.run(more).expect_err("refused").code;
    assert_eq!(code(&[("KeyName", "nobodys")]), "InvalidKeyPair.NotFound");
    assert_eq!(code(&[("NetworkInterface.1.SubnetId", "subnet-12345678")]), "InvalidSubnetID.NotFound");
    assert_eq!(code(&[("InstanceType", "imaginary9.5xlarge")]), "InvalidInstanceType.NotFound");
    assert_eq!(code(&[("IamInstanceProfile.Name", "nobodys")]), "NoSuchEntity");
    let terminated = account.proxy.call("TerminateInstances", &[("InstanceId.1", "i-0123456789abcdef0")]);
    assert_eq!(terminated.expect_err("refused").code, "InvalidInstanceID.NotFound");
    assert_eq!(account.moto.instances().len(), 0);
}

/// In the process that it starts itself, it starts a server and dies of a signal.
#[test]
fn a_server_ends_with_its_test() {
    let role = "MUSTER_TEST_MOTO_OWNER";
    if let Ok(file) = std::env::var(role) {
        let moto = Moto::start().expect("starts");
        let folder = std::fs::read_link(format!("/proc/{}/cwd", moto.pid())).expect("its folder");
        std::fs::write(file, format!("{} {}", moto.pid(), folder.display())).expect("written");
        std::process::abort();
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("server");
    let mut command = Command::new(std::env::current_exe().expect("known"));
    command.args(["moto::a_server_ends_with_its_test", "--exact"]).env(role, &file);
    let output = command.output().expect("starts");
    assert!(!output.status.success());
    let text = std::fs::read_to_string(file).expect("it had started one");
    let (pid, its_folder) = text.split_once(' ').expect("a number and a path");
    // It ends by itself, a moment after its owner was gone.
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(240);
    let lives = || std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(its_folder));
    while lives() || Path::new(its_folder).exists() {
        assert!(std::time::Instant::now() < deadline, "server {pid} outlives its test");
        std::thread::yield_now();
    }
}
