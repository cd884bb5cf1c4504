//! The JSON form of a container request (spec 70 §2): reading records of a submission, and writing what the database keeps. Pure.
//!
//! Field by field and by hand, so that every fault is told with the field's name. A few fields may be given in a short form at the
//! top: `vcpus`, `ram`, `scratch` and `max_run_time`; giving one in both places is refused.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use crate::core::container::ContainerRequest;
use crate::core::container::GpuRequest;
use crate::core::ids::ContainerUuid;

use super::fields::Fields;
use super::types::{CommandError, FieldError};

/// Most elements of one array.
pub const MAX_ARRAY: i64 = 100_000;
/// Most bytes of one record.
pub const MAX_RECORD: usize = 2 * 1024 * 1024;

/// What `muster submit` uses for fields that are not given.
const DEFAULT_PRIORITY: i64 = 500;
const DEFAULT_VCPUS: i64 = 1;
const DEFAULT_RAM: i64 = 256 * 1024 * 1024;

const TOP: &[&str] = &[
    "name",
    "command",
    "cwd",
    "environment",
    "stdin",
    "container_image",
    "priority",
    "runtime_constraints",
    "scheduling_parameters",
    "mounts",
    "max_attempts",
    "array_index",
    "outputs",
    "after",
    "vcpus",
    "ram",
    "scratch",
    "max_run_time",
];
const CONSTRAINTS: &[&str] = &["vcpus", "ram", "keep_cache_ram", "keep_cache_disk", "gpu"];
const GPU: &[&str] = &["stack", "driver_version", "hardware_target", "device_count", "vram"];
const SCHEDULING: &[&str] = &["preemptible", "supervisor", "max_run_time"];
const MOUNT: &[&str] = &["kind", "capacity"];

/// Reads one record of at most [`MAX_RECORD`] bytes. What it leaves out has the defaults of `muster submit`;
/// `default_max_attempts` is the queue's. Whether its values make sense is for [`super::validate()`] to say.
///
/// # Errors
/// Names the field; an unknown field is refused with the nearest known one.
pub fn parse_record(line: &[u8], default_max_attempts: u32) -> Result<ContainerRequest, FieldError> {
    if line.len() > MAX_RECORD {
        return Err(FieldError::new("record", format!("longer than {MAX_RECORD} bytes")));
    }
    let value =
        serde_json::from_slice(line).map_err(|error| FieldError::new("record", format!("not JSON: {error}")))?;
    parse_value(&value, default_max_attempts)
}

/// The fault of a line that has no end within [`MAX_RECORD`] bytes.
pub(super) fn too_long(line: usize) -> CommandError {
    let field = FieldError::new("record", format!("longer than {MAX_RECORD} bytes"));
    CommandError::Invalid { line: Some(line), field }
}

/// The same for JSON that has been parsed already.
pub fn parse_value(value: &Value, default_max_attempts: u32) -> Result<ContainerRequest, FieldError> {
    let top = Fields::top(value, TOP)?;
    let constraints = top.object("runtime_constraints", CONSTRAINTS)?;
    let scheduling = top.object("scheduling_parameters", SCHEDULING)?;
    let max_attempts = match top.integer("max_attempts")? {
        None => default_max_attempts,
        Some(number) => {
            u32::try_from(number).map_err(|_| top.fault("max_attempts", format!("{number} is out of range")))?
        }
    };
    Ok(ContainerRequest {
        name: top.text("name")?,
        command: top.texts("command")?,
        cwd: top.text("cwd")?,
        environment: environment(&top)?,
        stdin: top.text("stdin")?,
        container_image: top.text("container_image")?,
        priority: top.integer("priority")?.unwrap_or(DEFAULT_PRIORITY),
        vcpus: once(&top, &constraints, "vcpus", Fields::integer)?.unwrap_or(DEFAULT_VCPUS),
        ram: once(&top, &constraints, "ram", Fields::size)?.unwrap_or(DEFAULT_RAM),
        keep_cache_ram: constraints.size("keep_cache_ram")?.unwrap_or(0),
        keep_cache_disk: constraints.size("keep_cache_disk")?.unwrap_or(0),
        scratch: scratch(&top)?,
        gpu: gpu(&constraints)?,
        preemptible: scheduling.flag("preemptible")?,
        supervisor: scheduling.flag("supervisor")?,
        max_run_time: once(&top, &scheduling, "max_run_time", Fields::duration)?,
        max_attempts,
        array_index: top.integer("array_index")?,
        outputs: top.texts("outputs")?,
        after: after(&top)?,
    })
}

/// A field that may be given at the top or in its place, not both.
fn once<'v, T>(
    top: &Fields<'v>,
    place: &Fields<'v>,
    name: &str,
    read: impl Fn(&Fields<'v>, &str) -> Result<Option<T>, FieldError>,
) -> Result<Option<T>, FieldError> {
    match (read(top, name)?, read(place, name)?) {
        (Some(_), Some(_)) => Err(top.fault(name, format!("given twice, here and in {}", place.path(name)))),
        (short, long) => Ok(short.or(long)),
    }
}

fn environment(top: &Fields<'_>) -> Result<BTreeMap<String, String>, FieldError> {
    let mut environment = BTreeMap::new();
    for (name, value) in top.map("environment")?.into_iter().flatten() {
        let Value::String(value) = value else {
            return Err(FieldError::new(format!("environment.{name}"), "not a text"));
        };
        environment.insert(name.clone(), value.clone());
    }
    Ok(environment)
}

/// Scratch space is the sum of the capacities of `tmp` mounts: the only kind there is.
fn scratch(top: &Fields<'_>) -> Result<i64, FieldError> {
    let short = top.size("scratch")?;
    let mut sum: Option<i64> = None;
    for (path, mount) in top.map("mounts")?.into_iter().flatten() {
        let mount = Fields::new(mount, format!("mounts.{path}"), MOUNT)?;
        let kind = mount.text("kind")?;
        if kind != "tmp" {
            return Err(mount.fault("kind", format!("{kind:?} is not supported, only \"tmp\"")));
        }
        let capacity = mount.size("capacity")?.unwrap_or(0);
        if capacity < 0 {
            return Err(mount.fault("capacity", format!("{capacity} is negative")));
        }
        sum = Some(sum.unwrap_or(0).checked_add(capacity).ok_or_else(|| mount.fault("capacity", "too large"))?);
    }
    match (short, sum) {
        (Some(_), Some(_)) => Err(top.fault("scratch", "given twice, here and in mounts")),
        (short, sum) => Ok(short.or(sum).unwrap_or(0)),
    }
}

fn gpu(constraints: &Fields<'_>) -> Result<GpuRequest, FieldError> {
    let gpu = constraints.object("gpu", GPU)?;
    Ok(GpuRequest {
        stack: gpu.text("stack")?,
        driver_version: gpu.text("driver_version")?,
        hardware_target: gpu.texts("hardware_target")?,
        device_count: gpu.integer("device_count")?.unwrap_or(0),
        vram: gpu.size("vram")?.unwrap_or(0),
    })
}

fn after(top: &Fields<'_>) -> Result<Vec<ContainerUuid>, FieldError> {
    let parse = |text: String| {
        ContainerUuid::parse(&text)
            .ok_or_else(|| top.fault("after", format!("{text:?} is not the uuid of a container")))
    };
    top.texts("after")?.into_iter().map(parse).collect()
}

/// The record of a request: [`parse_value`] gives the same request back. Fields that are empty or absent are left out, since
/// a queue may hold a million of them.
pub fn to_value(request: &ContainerRequest) -> Value {
    let mut top = Map::new();
    let mut put = |name: &str, value: Value, is_empty: bool| {
        if !is_empty {
            top.insert(name.to_owned(), value);
        }
    };
    put("name", json!(request.name), request.name.is_empty());
    put("command", json!(request.command), false);
    put("cwd", json!(request.cwd), request.cwd.is_empty());
    put("environment", json!(request.environment), request.environment.is_empty());
    put("stdin", json!(request.stdin), request.stdin.is_empty());
    put("container_image", json!(request.container_image), request.container_image.is_empty());
    put("priority", json!(request.priority), false);
    put("runtime_constraints", constraints_value(request), false);
    put("scheduling_parameters", scheduling_value(request), false);
    put("mounts", json!({"/tmp": {"kind": "tmp", "capacity": request.scratch}}), request.scratch == 0);
    put("max_attempts", json!(request.max_attempts), false);
    put("array_index", json!(request.array_index), request.array_index.is_none());
    put("outputs", json!(request.outputs), request.outputs.is_empty());
    let after: Vec<&str> = request.after.iter().map(ContainerUuid::as_str).collect();
    put("after", json!(after), after.is_empty());
    Value::Object(top)
}

fn constraints_value(request: &ContainerRequest) -> Value {
    let mut value = json!({"vcpus": request.vcpus, "ram": request.ram});
    for (name, bytes) in [("keep_cache_ram", request.keep_cache_ram), ("keep_cache_disk", request.keep_cache_disk)] {
        if bytes != 0 {
            value[name] = json!(bytes);
        }
    }
    let gpu = &request.gpu;
    if *gpu != GpuRequest::default() {
        value["gpu"] = json!({
            "stack": gpu.stack,
            "driver_version": gpu.driver_version,
            "hardware_target": gpu.hardware_target,
            "device_count": gpu.device_count,
            "vram": gpu.vram,
        });
    }
    value
}

fn scheduling_value(request: &ContainerRequest) -> Value {
    let mut value = Map::new();
    if request.preemptible {
        value.insert("preemptible".to_owned(), json!(true));
    }
    if request.supervisor {
        value.insert("supervisor".to_owned(), json!(true));
    }
    if let Some(limit) = request.max_run_time {
        let seconds = if limit.subsec_nanos() == 0 { json!(limit.as_secs()) } else { json!(limit.as_secs_f64()) };
        value.insert("max_run_time".to_owned(), seconds);
    }
    Value::Object(value)
}

/// The requests of the array `first..=last`, made one by one: the same except for `array_index`, which the runner hands to the command
/// as `MUSTER_ARRAY_INDEX`. At most [`MAX_ARRAY`].
pub fn expand_array(
    request: &ContainerRequest,
    first: i64,
    last: i64,
) -> Result<impl Iterator<Item = ContainerRequest>, FieldError> {
    if first < 0 || last < first {
        return Err(FieldError::new("array", format!("{first}-{last} is not a range of numbers from 0 on")));
    }
    if last - first >= MAX_ARRAY {
        return Err(FieldError::new("array", format!("{first}-{last} has more than {MAX_ARRAY} elements: split it")));
    }
    Ok((first..=last).map(|index| ContainerRequest { array_index: Some(index), ..request.clone() }))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn all_fields_are_read() {
        let text = br#"{"name":"n","command":["sh","-c","true"],"cwd":"/w","environment":{"A":"b"},"stdin":"in",
            "container_image":"i","priority":7,"runtime_constraints":{"vcpus":2,"ram":"1GiB","keep_cache_ram":1,"keep_cache_disk":2,
            "gpu":{"stack":"cuda","driver_version":"12.2","hardware_target":["8.0"],"device_count":1,"vram":"8GiB"}},
            "scheduling_parameters":{"preemptible":true,"supervisor":true,"max_run_time":60},
            "mounts":{"/a":{"kind":"tmp","capacity":5},"/b":{"kind":"tmp","capacity":"1KiB"}},
            "max_attempts":2,"array_index":4,"outputs":["o"],"after":["local-dz642-000000000000001"]}"#;
        let request = parse_record(text, 3).unwrap();
        assert_eq!((request.vcpus, request.ram, request.scratch), (2, 1 << 30, 1029));
        assert_eq!(request.max_run_time, Some(Duration::from_secs(60)));
        assert_eq!((request.max_attempts, request.array_index, request.priority), (2, Some(4), 7));
        assert_eq!(request.gpu.vram, 8 << 30);
        assert_eq!(parse_value(&to_value(&request), 9), Ok(request));
    }

    #[test]
    fn what_is_left_out_has_defaults_and_short_forms_work() {
        let request = parse_record(br#"{"command":["true"],"cwd":null}"#, 3).unwrap();
        assert_eq!((request.vcpus, request.ram, request.scratch, request.priority), (1, 256 << 20, 0, 500));
        assert_eq!((request.max_attempts, request.max_run_time), (3, None));
        let short = br#"{"command":["true"],"vcpus":2,"ram":"2GiB","scratch":"1MB","max_run_time":"1h"}"#;
        let request = parse_record(short, 3).unwrap();
        assert_eq!((request.vcpus, request.ram, request.scratch), (2, 2 << 30, 1_000_000));
        assert_eq!(request.max_run_time, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn faults_name_their_field() {
        for (text, field, part) in [
            (r"[]", "record", "object"),
            (r"{", "record", "not JSON"),
            (r#"{"comand":["a"]}"#, "comand", "command"),
            (r#"{"runtime_constraints":{"vcpu":1}}"#, "runtime_constraints.vcpu", "vcpus"),
            (r#"{"xyzzyxyzzy":1}"#, "xyzzyxyzzy", "unknown"),
            (r#"{"command":"a"}"#, "command", "list"),
            (r#"{"command":[1]}"#, "command", "text"),
            (r#"{"command":["a"],"ram":"1gib"}"#, "ram", "size"),
            (r#"{"command":["a"],"ram":1.5}"#, "ram", "size"),
            (r#"{"command":["a"],"ram":1,"runtime_constraints":{"ram":1}}"#, "ram", "twice"),
            (r#"{"command":["a"],"scratch":1,"mounts":{"/a":{"kind":"tmp"}}}"#, "scratch", "twice"),
            (r#"{"command":["a"],"mounts":{"/a":{"kind":"collection"}}}"#, "mounts./a.kind", "tmp"),
            (r#"{"command":["a"],"mounts":{"/a":[]}}"#, "mounts./a", "object"),
            (r#"{"command":["a"],"mounts":{"/a":{"kind":"tmp","capacity":-1}}}"#, "mounts./a.capacity", "negative"),
            (r#"{"command":["a"],"environment":{"A":1}}"#, "environment.A", "text"),
            (r#"{"command":["a"],"after":["x"]}"#, "after", "uuid"),
            (r#"{"command":["a"],"max_run_time":"soon"}"#, "max_run_time", "duration"),
            (
                r#"{"command":["a"],"scheduling_parameters":{"max_run_time":-1}}"#,
                "scheduling_parameters.max_run_time",
                "duration",
            ),
            (
                r#"{"command":["a"],"scheduling_parameters":{"preemptible":1}}"#,
                "scheduling_parameters.preemptible",
                "true",
            ),
            (r#"{"command":["a"],"priority":"high"}"#, "priority", "number"),
            (r#"{"command":["a"],"priority":1.5}"#, "priority", "number"),
            (r#"{"command":["a"],"max_attempts":-1}"#, "max_attempts", "range"),
        ] {
            let error = parse_record(text.as_bytes(), 3).unwrap_err();
            assert_eq!(error.field, field, "{text}: {error}");
            assert!(error.message.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn arrays_are_limited() {
        let request = parse_record(br#"{"command":["true"]}"#, 3).unwrap();
        let array = expand_array(&request, 2, 4).unwrap();
        assert_eq!(array.map(|request| request.array_index).collect::<Vec<_>>(), [Some(2), Some(3), Some(4)]);
        assert_eq!(expand_array(&request, 1, MAX_ARRAY).map(Iterator::count), Ok(100_000));
        for (first, last) in [(0, MAX_ARRAY), (3, 2), (-1, 2), (0, i64::MAX)] {
            assert!(expand_array(&request, first, last).is_err(), "{first}-{last}");
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_was(
            texts in proptest::collection::vec(".*", 0..4),
            numbers in proptest::array::uniform6(0..i64::MAX),
            millis in proptest::option::of(0..10_000_000_000_u64),
            flags in proptest::array::uniform2(any::<bool>()),
        ) {
            let text = texts.first().cloned().unwrap_or_default();
            let request = ContainerRequest {
                name: text.clone(),
                command: texts.clone(),
                cwd: text.clone(),
                environment: texts.iter().map(|text| (text.clone(), text.clone())).collect(),
                stdin: text.clone(),
                container_image: text.clone(),
                priority: numbers[0],
                vcpus: numbers[1],
                ram: numbers[2],
                keep_cache_ram: numbers[3],
                keep_cache_disk: numbers[4],
                scratch: numbers[5],
                gpu: GpuRequest { hardware_target: texts.clone(), vram: numbers[0], ..GpuRequest::default() },
                preemptible: flags[0],
                supervisor: flags[1],
                max_run_time: millis.map(Duration::from_millis),
                max_attempts: 5,
                array_index: Some(numbers[3]),
                outputs: texts,
                after: ContainerUuid::parse("local-dz642-000000000000001").into_iter().collect(),
            };
            prop_assert_eq!(parse_value(&to_value(&request), 1), Ok(request));
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse_record(&bytes, 3);
        }
    }
}
