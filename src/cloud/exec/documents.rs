//! What a program gets on its standard input (spec 46 §2).
//!
//! Names and units of an instance type are those of the configuration's record: sizes in bytes, price per hour.

use serde_json::{Map, Value, json};

use crate::cloud::NewInstance;
use crate::core::effect::Tags;
use crate::core::ids::InstanceId;
use crate::core::instance_type::{IdleLimit, InstanceType};
use crate::core::units::format_duration;

/// Operator's parameters, which every document has.
pub(super) type Parameters = Map<String, Value>;

/// For `create`.
pub(super) fn create(set: &str, new: &NewInstance, parameters: &Parameters) -> Value {
    json!({
        "instance_set_id": set,
        "instance_type": instance_type(&new.instance_type),
        "image_id": new.image_id,
        "tags": tags_value(&new.tags),
        "init_command": new.init_command,
        "public_key": new.public_key,
        "parameters": parameters,
    })
}

/// For `list`.
pub(super) fn list(set: &str, tags: &Tags, parameters: &Parameters) -> Value {
    json!({"instance_set_id": set, "tags": tags_value(tags), "parameters": parameters})
}

/// For `destroy`.
pub(super) fn destroy(id: &InstanceId, parameters: &Parameters) -> Value {
    json!({"instance": id.as_str(), "parameters": parameters})
}

/// For `set-tags`.
pub(super) fn set_tags(id: &InstanceId, tags: &Tags, parameters: &Parameters) -> Value {
    json!({"instance": id.as_str(), "tags": tags_value(tags), "parameters": parameters})
}

/// For `capabilities`.
pub(super) fn capabilities(parameters: &Parameters) -> Value {
    json!({"parameters": parameters})
}

fn tags_value(tags: &Tags) -> Value {
    tags.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect::<Map<_, _>>().into()
}

/// As in `InstanceTypes`, with every field that has a default; `GPU` and `TimeoutIdle` only where there is one.
fn instance_type(one: &InstanceType) -> Value {
    let mut record = json!({
        "Name": one.name,
        "ProviderType": one.provider_type,
        "VCPUs": one.vcpus,
        "RAM": one.ram,
        "IncludedScratch": one.included_scratch,
        "AddedScratch": one.added_scratch,
        "Scratch": one.scratch(),
        "Price": one.price,
        "Preemptible": one.preemptible,
    });
    let idle = one.timeout_idle.map(|limit| match limit {
        IdleLimit::Never => "never".to_owned(),
        IdleLimit::After(limit) => format_duration(limit),
    });
    if let Some(idle) = idle {
        record["TimeoutIdle"] = idle.into();
    }
    if one.gpu.device_count > 0 || !one.gpu.stack.is_empty() {
        record["GPU"] = json!({
            "Stack": one.gpu.stack,
            "DriverVersion": one.gpu.driver_version,
            "HardwareTarget": one.gpu.hardware_target,
            "DeviceCount": one.gpu.device_count,
            "VRAM": one.gpu.vram,
        });
    }
    record
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::cloud::boot::Boot;
    use crate::core::ids::InstanceSecret;
    use crate::core::instance_type::Gpu;

    /// Exactly these fields (spec 46 §2).
    #[test]
    fn documents() {
        let parameters = json!({"region": "x"}).as_object().cloned().expect("a map");
        let tags = Tags::from_iter([("a".to_owned(), "b".to_owned())]);
        let small = InstanceType {
            name: "small".to_owned(),
            provider_type: "t3.small".to_owned(),
            vcpus: 2,
            ram: 4 << 30,
            included_scratch: 10,
            added_scratch: 20,
            price: 0.25,
            ..InstanceType::default()
        };
        let boot = Boot { image_id: "img".to_owned(), ..Boot::default() };
        let new = boot.order(Arc::new(small.clone()), tags.clone(), InstanceSecret::new("5ec2e7"));
        let record = json!({"Name": "small", "ProviderType": "t3.small", "VCPUs": 2, "RAM": 4_294_967_296_u64,
            "IncludedScratch": 10, "AddedScratch": 20, "Scratch": 30, "Price": 0.25, "Preemptible": false});
        assert_eq!(
            create("set", &new, &parameters),
            json!({"instance_set_id": "set", "instance_type": record, "image_id": "img", "tags": {"a": "b"},
                "init_command": new.init_command, "public_key": null, "parameters": {"region": "x"}})
        );
        assert!(new.init_command.contains("5ec2e7"));
        let keyed = NewInstance { public_key: Some("ssh-ed25519 AAAA".to_owned()), ..new };
        assert_eq!(create("set", &keyed, &parameters)["public_key"], "ssh-ed25519 AAAA");
        let id = InstanceId::new("i-1");
        assert_eq!(
            list("set", &tags, &parameters),
            json!({"instance_set_id": "set", "tags": {"a": "b"}, "parameters": {"region": "x"}})
        );
        assert_eq!(destroy(&id, &parameters), json!({"instance": "i-1", "parameters": {"region": "x"}}));
        assert_eq!(
            set_tags(&id, &Tags::new(), &Parameters::new()),
            json!({"instance": "i-1", "tags": {}, "parameters": {}})
        );
        assert_eq!(capabilities(&Parameters::new()), json!({"parameters": {}}));
    }

    #[test]
    fn what_few_types_have() {
        let gpu = Gpu {
            stack: "cuda".to_owned(),
            driver_version: "12.4".to_owned(),
            hardware_target: "9.0".to_owned(),
            device_count: 2,
            vram: 80,
        };
        let timeout_idle = Some(IdleLimit::After(Duration::from_secs(90)));
        let record = instance_type(&InstanceType { gpu, timeout_idle, preemptible: true, ..InstanceType::default() });
        assert_eq!(record["TimeoutIdle"], "1m30s");
        assert_eq!(record["Preemptible"], true);
        assert_eq!(
            record["GPU"],
            json!({"Stack": "cuda", "DriverVersion": "12.4", "HardwareTarget": "9.0", "DeviceCount": 2, "VRAM": 80})
        );
        let never = InstanceType { timeout_idle: Some(IdleLimit::Never), ..InstanceType::default() };
        assert_eq!(instance_type(&never)["TimeoutIdle"], "never");
    }
}
