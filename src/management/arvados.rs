//! The JSON records of Arvados' paths (spec 82 §3.1, §3.3): the same keys, zero values and nulls, built from core data.
//!
//! Clients written for Arvados' dispatcher read these, so no key may be missing; the few additional ones
//! (`instance_type`, `Name`) are harmless. No logic beyond the translation; runs on the caller's thread.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::core::container::Container;
use crate::core::entry::QueueEntry;
use crate::core::instance_type::InstanceType;
use crate::core::pool::view::InstanceView;
use crate::core::resources::Resources;
use crate::core::time::{Moment, WallMillis};
use crate::core::vocabulary::{IdleBehavior, WorkerState};
use crate::management::records::InstanceRow;

/// How Arvados' clients expect "no time".
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// RFC 3339 in UTC with as many decimals as needed; a time that no calendar knows becomes the zero time.
pub fn timestamp(at: WallMillis) -> String {
    jiff::Timestamp::from_millisecond(at).map_or_else(|_| ZERO_TIME.to_owned(), |time| time.to_string())
}

/// Spec 82 §3.1.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct QueueEntryRecord {
    pub container: ArvadosContainer,
    pub instance_resources: ResourcesRecord,
    /// Cheapest first; `null` if there is none.
    pub instance_types: Option<Vec<ArvadosInstanceType>>,
    /// The first of `instance_types`: what older clients look for.
    pub instance_type: Option<ArvadosInstanceType>,
    pub first_seen_at: String,
    pub scheduling_status: String,
}

impl QueueEntryRecord {
    /// `scheduling_status` is one of the texts of spec 82 §3.2.
    pub fn new(entry: &QueueEntry, first_seen_at: WallMillis, scheduling_status: &str) -> Self {
        let types: Vec<_> = entry.instance_types.iter().map(|one| ArvadosInstanceType::new(one)).collect();
        Self {
            container: ArvadosContainer::new(&entry.container),
            instance_resources: ResourcesRecord::new(&entry.resources),
            instance_type: types.first().cloned(),
            instance_types: (!types.is_empty()).then_some(types),
            first_seen_at: timestamp(first_seen_at),
            scheduling_status: scheduling_status.to_owned(),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ResourcesRecord {
    #[serde(rename = "VCPUs")]
    pub vcpus: i64,
    #[serde(rename = "RAM")]
    pub ram: i64,
    #[serde(rename = "Scratch")]
    pub scratch: i64,
    #[serde(rename = "GPUs")]
    pub gpus: i64,
    #[serde(rename = "GPUVRAM")]
    pub gpu_vram: i64,
}

impl ResourcesRecord {
    fn new(resources: &Resources) -> Self {
        let Resources { vcpus, ram, scratch, gpus, gpu_vram } = *resources;
        Self { vcpus, ram, scratch, gpus, gpu_vram }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ArvadosInstanceType {
    pub name: String,
    pub provider_type: String,
    #[serde(rename = "VCPUs")]
    pub vcpus: i64,
    #[serde(rename = "RAM")]
    pub ram: i64,
    pub included_scratch: i64,
    pub added_scratch: i64,
    pub price: f64,
    pub preemptible: bool,
    #[serde(rename = "GPU")]
    pub gpu: ArvadosGpu,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct ArvadosGpu {
    pub stack: String,
    pub driver_version: String,
    pub hardware_target: String,
    pub device_count: i64,
    #[serde(rename = "VRAM")]
    pub vram: i64,
}

impl ArvadosInstanceType {
    pub fn new(instance_type: &InstanceType) -> Self {
        let gpu = &instance_type.gpu;
        Self {
            name: instance_type.name.clone(),
            provider_type: instance_type.provider_type.clone(),
            vcpus: instance_type.vcpus,
            ram: instance_type.ram,
            included_scratch: instance_type.included_scratch,
            added_scratch: instance_type.added_scratch,
            price: instance_type.price,
            preemptible: instance_type.preemptible,
            gpu: ArvadosGpu {
                stack: gpu.stack.clone(),
                driver_version: gpu.driver_version.clone(),
                hardware_target: gpu.hardware_target.clone(),
                device_count: gpu.device_count,
                vram: gpu.vram,
            },
        }
    }
}

/// A container with every key that Arvados' record has; what the dispatcher does not load stays at its zero value.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ArvadosContainer {
    pub uuid: String,
    pub created_at: String,
    pub container_image: String,
    pub locked_by_uuid: String,
    pub priority: i64,
    pub state: &'static str,
    pub runtime_constraints: ConstraintsRecord,
    pub scheduling_parameters: SchedulingRecord,
    #[serde(flatten)]
    zero: BTreeMap<&'static str, serde_json::Value>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ConstraintsRecord {
    #[serde(rename = "API")]
    pub api: bool,
    pub ram: i64,
    pub vcpus: i64,
    pub keep_cache_ram: i64,
    pub keep_cache_disk: i64,
    pub gpu: GpuRequestRecord,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct GpuRequestRecord {
    pub stack: String,
    pub driver_version: String,
    pub hardware_target: Option<Vec<String>>,
    pub device_count: i64,
    pub vram: i64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SchedulingRecord {
    pub partitions: Option<Vec<String>>,
    pub preemptible: bool,
    /// Seconds; 0 = no limit.
    pub max_run_time: u64,
    pub supervisor: bool,
}

impl ArvadosContainer {
    pub fn new(container: &Container) -> Self {
        let request = &container.request;
        let gpu = &request.gpu;
        Self {
            uuid: container.uuid.to_string(),
            created_at: timestamp(container.created_at),
            container_image: request.container_image.clone(),
            locked_by_uuid: container.locked_by_uuid.clone(),
            priority: container.priority,
            state: container.state.as_str(),
            runtime_constraints: ConstraintsRecord {
                api: false,
                ram: request.ram,
                vcpus: request.vcpus,
                keep_cache_ram: request.keep_cache_ram,
                keep_cache_disk: request.keep_cache_disk,
                gpu: GpuRequestRecord {
                    stack: gpu.stack.clone(),
                    driver_version: gpu.driver_version.clone(),
                    hardware_target: (!gpu.hardware_target.is_empty()).then(|| gpu.hardware_target.clone()),
                    device_count: gpu.device_count,
                    vram: gpu.vram,
                },
            },
            scheduling_parameters: SchedulingRecord {
                partitions: None,
                preemptible: request.preemptible,
                max_run_time: request.max_run_time.map_or(0, |limit| limit.as_secs()),
                supervisor: request.supervisor,
            },
            zero: zero_values(),
        }
    }
}

/// The keys that a dispatcher never fills (spec 82 §3.1).
fn zero_values() -> BTreeMap<&'static str, serde_json::Value> {
    use serde_json::Value;
    let texts = [
        "etag",
        "modified_by_user_uuid",
        "cwd",
        "output",
        "output_path",
        "gateway_address",
        "runtime_user_uuid",
        "runtime_token",
        "auth_uuid",
        "log",
    ];
    let nulls = [
        "command",
        "environment",
        "mounts",
        "output_glob",
        "runtime_status",
        "started_at",
        "finished_at",
        "output_storage_classes",
        "runtime_auth_scopes",
        "published_ports",
    ];
    let numbers = ["lock_count", "exit_code", "cost", "subrequests_cost"];
    let flags = ["interactive_session_started", "service"];
    let mut zero = BTreeMap::from([("modified_at", Value::from(ZERO_TIME))]);
    zero.extend(texts.map(|key| (key, Value::from(""))));
    zero.extend(nulls.map(|key| (key, Value::Null)));
    zero.extend(numbers.map(|key| (key, Value::from(0))));
    zero.extend(flags.map(|key| (key, Value::from(false))));
    zero
}

/// Spec 82 §3.3.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct InstanceRecord {
    /// Empty while the create call is pending.
    pub instance: String,
    pub address: String,
    pub price: f64,
    pub arvados_instance_type: String,
    pub provider_instance_type: String,
    pub last_container_uuid: String,
    pub last_busy: String,
    /// Sorted; `null` for a pending create.
    pub running_container_uuids: Option<Vec<String>>,
    pub worker_state: &'static str,
    pub idle_behavior: &'static str,
}

impl InstanceRecord {
    /// `wall` turns the monotonic clock into the calendar's time.
    pub fn new(view: &InstanceView, wall: impl Fn(Moment) -> WallMillis) -> Self {
        let pending = view.id().is_none();
        let text = |value: Option<String>| value.unwrap_or_default();
        Self {
            instance: text(view.id().map(ToString::to_string)),
            address: view.address.clone(),
            price: view.price(),
            arvados_instance_type: view.type_name.to_string(),
            provider_instance_type: text(view.instance_type.as_ref().map(|one| one.provider_type.clone())),
            last_container_uuid: text(view.last_container.as_ref().map(ToString::to_string)),
            last_busy: view.last_busy.map_or_else(|| ZERO_TIME.to_owned(), |at| timestamp(wall(at))),
            running_container_uuids: (!pending).then(|| view.containers.iter().map(ToString::to_string).collect()),
            worker_state: if pending { WorkerState::Booting } else { view.state }.as_str(),
            idle_behavior: if pending { IdleBehavior::Run } else { view.idle_behavior }.as_str(),
        }
    }
}

impl From<InstanceRecord> for InstanceRow {
    fn from(record: InstanceRecord) -> Self {
        Self {
            instance: record.instance,
            address: record.address,
            price: record.price,
            arvados_instance_type: record.arvados_instance_type,
            provider_instance_type: record.provider_instance_type,
            last_container_uuid: record.last_container_uuid,
            last_busy: record.last_busy,
            running_container_uuids: record.running_container_uuids,
            worker_state: record.worker_state.to_owned(),
            idle_behavior: record.idle_behavior.to_owned(),
            detail: String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::core::container::GpuRequest;
    use crate::core::container::{ContainerRequest, RuntimeStatus};
    use crate::core::ids::{ContainerUuid, InstanceId, OperationId, TypeName};
    use crate::core::pool::view::InstanceKey;
    use crate::core::vocabulary::ContainerState;

    const UUID: &str = "zzzzz-dz642-aaaaaaaaaaaaaa1";

    fn uuid() -> ContainerUuid {
        ContainerUuid::parse(UUID).unwrap()
    }

    fn instance_type() -> InstanceType {
        InstanceType {
            name: "m".to_owned(),
            provider_type: "m5.large".to_owned(),
            vcpus: 2,
            ram: 8_589_934_592,
            included_scratch: 50_000_000_000,
            price: 0.14,
            ..InstanceType::default()
        }
    }

    fn container() -> Container {
        let request = ContainerRequest {
            name: String::new(),
            command: vec!["true".to_owned()],
            cwd: "/secret".to_owned(),
            environment: BTreeMap::new(),
            stdin: String::new(),
            container_image: "img".to_owned(),
            priority: 1,
            vcpus: 1,
            ram: 2,
            keep_cache_ram: 3,
            keep_cache_disk: 4,
            scratch: 0,
            gpu: GpuRequest::default(),
            preemptible: true,
            supervisor: false,
            max_run_time: Some(Duration::from_secs(60)),
            max_attempts: 1,
            array_index: None,
            outputs: Vec::new(),
            after: Vec::new(),
        };
        Container {
            uuid: uuid(),
            state: ContainerState::Queued,
            request: Arc::new(request),
            priority: 5,
            created_at: 0,
            started_at: None,
            finished_at: None,
            attempt: 0,
            instance: None,
            instance_type: None,
            exit_code: None,
            runtime_status: RuntimeStatus::default(),
            cancel_requested: false,
            locked_by_uuid: String::new(),
            cost: 0.0,
        }
    }

    #[test]
    fn container_has_every_key_of_spec_82() {
        let expected = serde_json::json!({
            "uuid": UUID, "etag": "", "created_at": "1970-01-01T00:00:00Z", "modified_by_user_uuid": "",
            "modified_at": "0001-01-01T00:00:00Z", "command": null, "container_image": "img", "cwd": "",
            "environment": null, "locked_by_uuid": "", "lock_count": 0, "mounts": null, "output": "", "output_path": "",
            "output_glob": null, "priority": 5,
            "runtime_constraints": {"API": false, "ram": 2, "vcpus": 1, "keep_cache_ram": 3, "keep_cache_disk": 4,
                "gpu": {"stack": "", "driver_version": "", "hardware_target": null, "device_count": 0, "vram": 0}},
            "state": "Queued",
            "scheduling_parameters": {"partitions": null, "preemptible": true, "max_run_time": 60, "supervisor": false},
            "exit_code": 0, "runtime_status": null, "started_at": null, "finished_at": null, "gateway_address": "",
            "interactive_session_started": false, "output_storage_classes": null, "runtime_user_uuid": "",
            "runtime_auth_scopes": null, "runtime_token": "", "auth_uuid": "", "log": "", "cost": 0,
            "subrequests_cost": 0, "service": false, "published_ports": null,
        });
        assert_eq!(serde_json::to_value(ArvadosContainer::new(&container())).unwrap(), expected);
    }

    #[test]
    fn queue_entry_lists_types_and_null_without_any() {
        let mut entry = QueueEntry {
            container: container(),
            resources: Resources { vcpus: 1, ram: 2, scratch: 3, gpus: 4, gpu_vram: 5 },
            instance_types: Arc::new([Arc::new(instance_type())]),
            first_seen: 1,
            ready: true,
        };
        let value = serde_json::to_value(QueueEntryRecord::new(&entry, 1_500, "why")).unwrap();
        let one = serde_json::json!({"Name": "m", "ProviderType": "m5.large", "VCPUs": 2, "RAM": 8_589_934_592_i64,
            "IncludedScratch": 50_000_000_000_i64, "AddedScratch": 0, "Price": 0.14, "Preemptible": false,
            "GPU": {"Stack": "", "DriverVersion": "", "HardwareTarget": "", "DeviceCount": 0, "VRAM": 0}});
        assert_eq!(value["instance_types"], serde_json::json!([one]));
        assert_eq!(value["instance_type"], one);
        assert_eq!(value["first_seen_at"], "1970-01-01T00:00:01.5Z");
        assert_eq!(value["scheduling_status"], "why");
        let resources = serde_json::json!({"VCPUs": 1, "RAM": 2, "Scratch": 3, "GPUs": 4, "GPUVRAM": 5});
        assert_eq!(value["instance_resources"], resources);
        entry.instance_types = Arc::new([]);
        let value = serde_json::to_value(QueueEntryRecord::new(&entry, 0, "")).unwrap();
        assert!(value["instance_types"].is_null());
    }

    #[test]
    fn pending_creates_and_instances() {
        let mut view = InstanceView {
            key: InstanceKey::Create(OperationId(1)),
            address: String::new(),
            type_name: TypeName::new("m"),
            instance_type: Some(Arc::new(instance_type())),
            state: WorkerState::Booting,
            idle_behavior: IdleBehavior::Run,
            containers: Vec::new(),
            collecting: Vec::new(),
            last_container: None,
            last_busy: None,
            storage_fault: None,
        };
        let wall = |at: Moment| i64::try_from(at.elapsed_since_start().as_millis()).unwrap();
        let value = serde_json::to_value(InstanceRecord::new(&view, wall)).unwrap();
        let pending = serde_json::json!({"instance": "", "address": "", "price": 0.14, "arvados_instance_type": "m",
            "provider_instance_type": "m5.large", "last_container_uuid": "", "last_busy": "0001-01-01T00:00:00Z",
            "running_container_uuids": null, "worker_state": "booting", "idle_behavior": "run"});
        assert_eq!(value, pending);
        view.key = InstanceKey::Instance(InstanceId::new("i-1"));
        view.instance_type = None;
        view.state = WorkerState::Running;
        view.idle_behavior = IdleBehavior::Drain;
        view.last_busy = Some(Moment::since_start(Duration::from_millis(123)));
        let value = serde_json::to_value(InstanceRecord::new(&view, wall)).unwrap();
        assert_eq!(value["running_container_uuids"], serde_json::json!([]));
        assert_eq!(value["last_busy"], "1970-01-01T00:00:00.123Z");
        assert_eq!(
            (&value["price"], &value["provider_instance_type"]),
            (&serde_json::json!(0.0), &serde_json::json!(""))
        );
        assert_eq!(
            (&value["worker_state"], &value["idle_behavior"]),
            (&serde_json::json!("running"), &serde_json::json!("drain"))
        );
        view.containers = vec![uuid()];
        let sums = crate::management::gauges::sum_instances(std::iter::once(&view), &[Arc::new(instance_type())]);
        assert_eq!(sums[&("inuse", "m".to_owned())].instances, 1);
        assert_eq!(sums.len(), 5, "every category, for every configured type");
    }
}
