//! `InstanceTypes` (spec 60 §4, §5.2): reading, and the preemptible variants.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::CloudDriver;
use super::fault::{Faults, nearest};
use super::values::{count, flag, number, size, text_of};
use super::yaml::{Content, Node};
use crate::core::ids::TypeName;
use crate::core::instance_type::{Gpu, IdleLimit, InstanceType};
use crate::core::units::parse_duration;

const FIELDS: [&str; 9] =
    ["ProviderType", "VCPUs", "RAM", "IncludedScratch", "AddedScratch", "Price", "Preemptible", "GPU", "TimeoutIdle"];
const GPU_FIELDS: [&str; 5] = ["Stack", "DriverVersion", "HardwareTarget", "DeviceCount", "VRAM"];
const NOT_A_LIST: &str =
    "InstanceTypes must be specified as a map, not an array, see https://doc.arvados.org/admin/config.html";

/// The configured types, by name. Missing fields are zero.
pub(super) fn read(root: Option<&Node>, prefix: &str, faults: &mut Faults) -> BTreeMap<TypeName, Arc<InstanceType>> {
    let mut types = BTreeMap::new();
    let Some(node) = root.and_then(|root| root.get("InstanceTypes")) else {
        return types;
    };
    match &node.content {
        Content::Map(entries) => {
            for (key, node) in entries.iter().filter(|(key, _)| key.name != "SAMPLE") {
                let path = format!("{prefix}InstanceTypes.{}", key.name);
                let one = read_one(&key.name, node, &path, faults);
                types.insert(TypeName::new(&key.name), Arc::new(one));
            }
        }
        Content::Null => {}
        Content::List(_) => faults.error(Some(node.mark), &format!("{prefix}InstanceTypes"), NOT_A_LIST),
        Content::Scalar { .. } => faults.error(Some(node.mark), &format!("{prefix}InstanceTypes"), "must be a map"),
    }
    types
}

fn read_one(name: &str, node: &Node, path: &str, faults: &mut Faults) -> InstanceType {
    let mut one = InstanceType { name: name.to_owned(), provider_type: name.to_owned(), ..InstanceType::default() };
    if !matches!(node.content, Content::Map(_) | Content::Null) {
        faults.error(Some(node.mark), path, format!("must be a map, not {}", node.kind()));
    }
    for (key, value) in node.entries() {
        if value.content == Content::Null {
            continue;
        }
        if key.name == "GPU" {
            one.gpu = read_gpu(value, &format!("{path}.GPU"), faults);
            continue;
        }
        let result = match key.name.as_str() {
            "ProviderType" => text_of(value).map(|text| text.clone_into(&mut one.provider_type)),
            "VCPUs" => whole(value).map(|vcpus| one.vcpus = vcpus),
            "RAM" => size(value).map(|ram| one.ram = ram),
            "IncludedScratch" => size(value).map(|scratch| one.included_scratch = scratch),
            "AddedScratch" => size(value).map(|scratch| one.added_scratch = scratch),
            "Price" => text_of(value).and_then(number).map(|price| one.price = price),
            "Preemptible" => text_of(value).and_then(flag).map(|preemptible| one.preemptible = preemptible),
            "TimeoutIdle" => text_of(value).and_then(idle_limit).map(|limit| one.timeout_idle = Some(limit)),
            other => {
                unknown(other, &FIELDS, key.mark, path, faults);
                Ok(())
            }
        };
        if let Err(message) = result {
            faults.error(Some(value.mark), &format!("{path}.{}", key.name), message);
        }
    }
    one
}

fn read_gpu(node: &Node, path: &str, faults: &mut Faults) -> Gpu {
    let mut gpu = Gpu::default();
    if !matches!(node.content, Content::Map(_)) {
        faults.error(Some(node.mark), path, format!("must be a map, not {}", node.kind()));
    }
    for (key, value) in node.entries().iter().filter(|(_, value)| value.content != Content::Null) {
        let result = match key.name.as_str() {
            "Stack" => text_of(value).map(|text| text.clone_into(&mut gpu.stack)),
            "DriverVersion" => text_of(value).map(|text| text.clone_into(&mut gpu.driver_version)),
            "HardwareTarget" => text_of(value).map(|text| text.clone_into(&mut gpu.hardware_target)),
            "DeviceCount" => whole(value).map(|devices| gpu.device_count = devices),
            "VRAM" => size(value).map(|vram| gpu.vram = vram),
            other => {
                unknown(other, &GPU_FIELDS, key.mark, path, faults);
                Ok(())
            }
        };
        if let Err(message) = result {
            faults.error(Some(value.mark), &format!("{path}.{}", key.name), message);
        }
    }
    let decimal =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') && text.parse::<f64>().is_ok();
    if gpu.device_count != 0 && !decimal(&gpu.driver_version) {
        let message = format!("invalid GPU.DriverVersion {:?}, expected format X.Y", gpu.driver_version);
        faults.error(Some(node.mark), path, message);
    }
    gpu
}

fn unknown(name: &str, known: &[&str], mark: super::fault::Mark, path: &str, faults: &mut Faults) {
    let hint = nearest(name, known.iter().copied()).map(|name| format!(" (perhaps you meant {name}?)"));
    let message = format!("deprecated or unknown config entry{}", hint.unwrap_or_default());
    faults.warn(Some(mark), &format!("{path}.{name}"), message);
}

fn whole(node: &Node) -> Result<i64, String> {
    let count = text_of(node).and_then(count)?;
    i64::try_from(count).map_err(|_| format!("{count} is too large"))
}

fn idle_limit(text: &str) -> Result<IdleLimit, String> {
    if text == "never" {
        return Ok(IdleLimit::Never);
    }
    parse_duration(text).map(IdleLimit::After).map_err(|fault| format!("{fault}, or never"))
}

/// What can be said, and made, of all types together: for this driver, and with this PreemptiblePriceFactor.
pub(super) fn finish(
    types: &mut BTreeMap<TypeName, Arc<InstanceType>>,
    (driver, factor): (CloudDriver, f64),
    prefix: &str,
    faults: &mut Faults,
) {
    add_preemptible_variants(types, factor, prefix, faults);
    // There the price is the highest bid.
    for one in types.values().filter(|one| driver == CloudDriver::Ec2 && one.preemptible && one.price <= 0.0) {
        let message = "a preemptible type needs a Price, which is the highest bid: EC2 gives no instance for 0";
        faults.warn(None, &format!("{prefix}InstanceTypes.{}", one.name), message);
    }
}

/// For each type that is not preemptible one that is, at `factor` of its price (spec 60 §5.2).
fn add_preemptible_variants(
    types: &mut BTreeMap<TypeName, Arc<InstanceType>>,
    factor: f64,
    prefix: &str,
    faults: &mut Faults,
) {
    if factor <= 0.0 {
        return;
    }
    let base: Vec<Arc<InstanceType>> = types.values().filter(|one| !one.preemptible).cloned().collect();
    for one in base {
        let name = format!("{}.preemptible", one.name);
        let variant =
            InstanceType { name: name.clone(), preemptible: true, price: one.price * factor, ..(*one).clone() };
        match types.get(name.as_str()) {
            None => {
                types.insert(TypeName::new(&name), Arc::new(variant));
            }
            Some(known) if **known == variant => {}
            Some(_) => {
                let message =
                    format!("already exists, so not automatically adding a preemptible variant of {}", one.name);
                faults.warn(None, &format!("{prefix}InstanceTypes[{name}]"), message);
            }
        }
    }
}
