//! `DriverParameters`, as the driver that is configured reads them.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::build::{Builder, absolute};
use super::load::Cluster;
use super::section::Section;
use super::values::Values;
use super::yaml::Content;
use super::{CloudDriver, Ec2Config, ExecConfig, StaticConfig, ec2, exec, hosts};
use crate::core::ids::TypeName;
use crate::core::instance_type::InstanceType;
use crate::remote::ssh::port_number;

impl Builder<'_, '_> {
    /// For addresses without one; of drivers that use SSH.
    fn ssh_port(&mut self) -> u16 {
        let port = self.values.text("Containers.CloudVMs.SSHPort");
        let port = port_number(if port.is_empty() { "ssh" } else { &port });
        if port.is_none() {
            let message = "must be a number from 1 to 65535, or the name of a service";
            self.error("Containers.CloudVMs.SSHPort", message);
        }
        port.unwrap_or(22)
    }

    /// `None` unless the driver is `exec`.
    pub(super) fn exec(&mut self, driver: CloudDriver) -> Option<ExecConfig> {
        if driver != CloudDriver::Exec {
            return None;
        }
        self.ssh_port();
        let (file, cluster, mark) = (self.file, self.cluster, self.values.mark("Containers.CloudVMs.Driver"));
        let section = driver_parameters(cluster, self.values);
        exec::read(&section, mark, &|text| absolute(file, text), self.faults)
    }

    /// `None` unless the driver is `ec2`.
    pub(super) fn ec2(&mut self, driver: CloudDriver) -> Option<Ec2Config> {
        if driver != CloudDriver::Ec2 {
            return None;
        }
        self.ssh_port();
        let mark = self.values.mark("Containers.CloudVMs.Driver");
        Some(ec2::read(&driver_parameters(self.cluster, self.values), mark, self.faults))
    }

    /// `None` unless the driver is `static`.
    pub(super) fn static_hosts(
        &mut self,
        driver: CloudDriver,
        state_dir: &Path,
        types: &BTreeMap<TypeName, Arc<InstanceType>>,
    ) -> Option<StaticConfig> {
        if driver != CloudDriver::Static {
            return None;
        }
        let port = self.ssh_port();
        let driver_mark = self.values.mark("Containers.CloudVMs.Driver");
        let file = self.file;
        let Section { node: section, path } = driver_parameters(self.cluster, self.values);
        let around =
            hosts::Around { path, mark: driver_mark, absolute: &|text| absolute(file, text), state_dir, port, types };
        let read = hosts::read(section, &around, self.faults);
        let most = self.values.count("Containers.CloudVMs.MaxInstances");
        if most > 0 && read.hosts.len() > most {
            let message = format!("{most} of {} hosts are used at a time: set it to 0 for no limit", read.hosts.len());
            let key = format!("{}Containers.CloudVMs.MaxInstances", self.values.prefix);
            self.faults.warn(self.values.mark("Containers.CloudVMs.MaxInstances"), &key, message);
        }
        Some(read)
    }
}

/// `DriverParameters`. Whatever is not a map was told already.
fn driver_parameters<'a>(cluster: &Cluster<'a>, values: &Values) -> Section<'a> {
    let path = "Containers.CloudVMs.DriverParameters";
    let node = cluster.node.and_then(|root| super::values::find(root, path));
    let node = node.filter(|node| matches!(node.content, Content::Map(_)));
    Section { node, path: format!("{}{path}", values.prefix) }
}
