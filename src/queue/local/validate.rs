//! What a container request must look like to be accepted (spec 70 §3, "bad input"). Pure: no database, no clock.

use std::ops::RangeInclusive;

use crate::core::container::ContainerRequest;

use super::types::FieldError;

/// Priorities of the local queue; 0 = on hold.
pub(super) const PRIORITIES: RangeInclusive<i64> = 0..=1000;

const MAX_NAME: usize = 256;
const MAX_ATTEMPTS: u32 = 1000;
const MAX_OUTPUTS: usize = 1000;
/// Of all outputs together: the result file names each, and may have 4 MiB.
const MAX_OUTPUT_BYTES: usize = 512 * 1024;
const MAX_AFTER: usize = 1000;
/// Bytes of command and environment together: what Linux lets a process start with is about 2 MiB.
const MAX_ARGUMENTS: usize = 1024 * 1024;
/// Bytes of standard input, which is kept in the queue.
const MAX_STDIN: usize = 1024 * 1024;
/// Bytes of a variable of a container with an image: engines read them from a file with limited lines.
const MAX_IMAGE_VARIABLE: usize = 32 * 1024;
/// Bytes of any path.
const MAX_PATH: usize = 4096;
/// Above any machine; keeps sums from overflowing.
const MAX_SIZE: i64 = 1 << 53;

/// Checks everything that can be told from the request alone.
///
/// # Errors
/// Names the first field that is wrong, as in the record.
pub fn validate(request: &ContainerRequest, images_allowed: bool) -> Result<(), FieldError> {
    check_texts(request)?;
    check_numbers(request)?;
    if !request.container_image.is_empty() {
        if !images_allowed {
            return refuse(
                "container_image",
                "the workers run plain processes and no images: set Muster.Runner.Engine",
            );
        }
        check_image(request)?;
    }
    check_outputs(&request.outputs)?;
    if request.after.len() > MAX_AFTER {
        return refuse("after", format!("more than {MAX_AFTER} containers"));
    }
    Ok(())
}

fn refuse(field: &str, message: impl Into<String>) -> Result<(), FieldError> {
    Err(FieldError::new(field, message))
}

fn check_texts(request: &ContainerRequest) -> Result<(), FieldError> {
    if request.name.len() > MAX_NAME {
        return refuse("name", format!("longer than {MAX_NAME} bytes"));
    }
    if request.name.chars().any(char::is_control) {
        return refuse("name", "has a control character");
    }
    match request.command.first() {
        None => return refuse("command", "empty: say which program to run"),
        Some(program) if program.is_empty() => return refuse("command", "the program's name is empty"),
        Some(_) => {}
    }
    let environment = request.environment.iter();
    for name in request.environment.keys() {
        if name.is_empty() || name.contains('=') {
            return refuse("environment", format!("{name:?} cannot be the name of a variable"));
        }
    }
    let bytes = request.command.iter().map(String::len).sum::<usize>()
        + environment.map(|(name, value)| name.len() + value.len() + 2).sum::<usize>();
    if bytes > MAX_ARGUMENTS {
        return refuse("command", format!("command and environment have more than {MAX_ARGUMENTS} bytes together"));
    }
    if !request.cwd.is_empty() && !request.cwd.starts_with('/') {
        return refuse("cwd", format!("{:?} is not an absolute path; leave it out for a fresh directory", request.cwd));
    }
    let texts = [("cwd", &request.cwd), ("stdin", &request.stdin), ("container_image", &request.container_image)];
    for (field, text) in texts {
        let longest = if field == "stdin" { MAX_STDIN } else { MAX_PATH };
        if text.len() > longest {
            return refuse(field, format!("longer than {longest} bytes"));
        }
    }
    let all = request.command.iter().map(|text| ("command", text));
    let all =
        all.chain(request.environment.iter().flat_map(|(name, value)| [("environment", name), ("environment", value)]));
    for (field, text) in all.chain(texts) {
        if text.contains('\0') {
            return refuse(field, "has a zero byte");
        }
    }
    Ok(())
}

fn check_numbers(request: &ContainerRequest) -> Result<(), FieldError> {
    for (field, value) in [
        ("runtime_constraints.vcpus", request.vcpus),
        ("runtime_constraints.ram", request.ram),
        ("runtime_constraints.keep_cache_ram", request.keep_cache_ram),
        ("runtime_constraints.keep_cache_disk", request.keep_cache_disk),
        ("runtime_constraints.gpu.device_count", request.gpu.device_count),
        ("runtime_constraints.gpu.vram", request.gpu.vram),
        ("scratch", request.scratch),
        ("array_index", request.array_index.unwrap_or(0)),
    ] {
        if value < 0 {
            return refuse(field, format!("{value} is negative"));
        }
        if value > MAX_SIZE {
            return refuse(field, format!("{value} is more than any machine has"));
        }
    }
    if !PRIORITIES.contains(&request.priority) {
        return refuse("priority", format!("{} is not from 0 to 1000", request.priority));
    }
    if !(1..=MAX_ATTEMPTS).contains(&request.max_attempts) {
        return refuse("max_attempts", format!("{} is not from 1 to {MAX_ATTEMPTS}", request.max_attempts));
    }
    if request.max_run_time.is_some_and(|limit| limit.is_zero()) {
        return refuse("scheduling_parameters.max_run_time", "0 would end it at once: leave it out for no limit");
    }
    Ok(())
}

/// What the runner demands of containers with an image: the variables reach them through a file of lines, or as names with a prefix.
fn check_image(request: &ContainerRequest) -> Result<(), FieldError> {
    let image = &request.container_image;
    if image.starts_with('-') || image.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return refuse("container_image", format!("{image:?} is not the name of an image"));
    }
    let is_name = |name: &str| {
        name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') && !name.starts_with(|c: char| c.is_ascii_digit())
    };
    if request
        .command
        .first()
        .is_some_and(|program| program.starts_with('[') && program.ends_with(']') && program.len() > 1)
    {
        return refuse("command", "with an image, a program's name is not in brackets");
    }
    let is_bad = |value: &str| value.contains(['\n', '\r']) || value.len() > MAX_IMAGE_VARIABLE;
    match request.environment.iter().find(|(name, value)| !is_name(name) || is_bad(value)) {
        Some((name, _)) => refuse(
            "environment",
            format!(
                "{name:?}: with an image, names are letters, digits and _, and values have no line break and at most \
                 {MAX_IMAGE_VARIABLE} bytes"
            ),
        ),
        None => Ok(()),
    }
}

/// Outputs are fetched from below the working directory, so they must stay there.
fn check_outputs(outputs: &[String]) -> Result<(), FieldError> {
    if outputs.len() > MAX_OUTPUTS {
        return refuse("outputs", format!("more than {MAX_OUTPUTS} paths"));
    }
    if outputs.iter().map(String::len).sum::<usize>() > MAX_OUTPUT_BYTES {
        return refuse("outputs", format!("more than {MAX_OUTPUT_BYTES} bytes of paths: name their directory"));
    }
    for path in outputs {
        if path.is_empty() || path.len() > MAX_PATH || path.contains('\0') {
            return refuse("outputs", format!("a path is empty, longer than {MAX_PATH} bytes or has a zero byte"));
        }
        if path.starts_with('/') || path.split('/').any(|part| part == "..") {
            return refuse("outputs", format!("{path:?} is not below the working directory"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::super::record::parse_record;
    use super::*;

    #[test]
    fn each_bad_field_is_named() {
        type Spoil = fn(&mut ContainerRequest);
        let table: &[(&str, Spoil)] = &[
            ("", |_| ()),
            ("", |r| r.priority = 0),
            ("", |r| r.priority = 1000),
            ("", |r| r.vcpus = 0),
            ("command", |r| r.command.clear()),
            ("command", |r| r.command = vec![String::new()]),
            ("command", |r| r.command.push("a\0b".into())),
            ("command", |r| r.command.push("x".repeat(MAX_ARGUMENTS))),
            ("environment", |r| drop(r.environment.insert("A=B".into(), String::new()))),
            ("environment", |r| drop(r.environment.insert(String::new(), String::new()))),
            ("environment", |r| drop(r.environment.insert("A".into(), "\0".into()))),
            ("cwd", |r| r.cwd = "/\0".into()),
            ("cwd", |r| r.cwd = "relative".into()),
            ("", |r| r.stdin = "x".repeat(MAX_STDIN)),
            ("stdin", |r| r.stdin = "x".repeat(MAX_STDIN + 1)),
            ("name", |r| r.name = "x".repeat(MAX_NAME + 1)),
            ("name", |r| r.name = "a\x1b[31m".into()),
            ("runtime_constraints.vcpus", |r| r.vcpus = -1),
            ("runtime_constraints.ram", |r| r.ram = -1),
            ("runtime_constraints.ram", |r| r.ram = i64::MAX),
            ("runtime_constraints.keep_cache_ram", |r| r.keep_cache_ram = -1),
            ("runtime_constraints.keep_cache_disk", |r| r.keep_cache_disk = -1),
            ("runtime_constraints.gpu.device_count", |r| r.gpu.device_count = -1),
            ("scratch", |r| r.scratch = -1),
            ("array_index", |r| r.array_index = Some(-1)),
            ("priority", |r| r.priority = 1001),
            ("priority", |r| r.priority = -1),
            ("max_attempts", |r| r.max_attempts = 0),
            ("max_attempts", |r| r.max_attempts = MAX_ATTEMPTS + 1),
            ("scheduling_parameters.max_run_time", |r| r.max_run_time = Some(Duration::ZERO)),
            ("container_image", |r| r.container_image = "debian".into()),
            ("outputs", |r| r.outputs = vec!["/etc/passwd".into()]),
            ("outputs", |r| r.outputs = vec!["a/../../b".into()]),
            ("outputs", |r| r.outputs = vec![String::new()]),
            ("outputs", |r| r.outputs = vec!["a".repeat(4000); 200]),
            ("", |r| r.outputs = vec!["a/b..c".into(), "..d".into()]),
        ];
        for (number, (field, spoil)) in table.iter().enumerate() {
            let mut request = parse_record(br#"{"command":["true"]}"#, 3).unwrap();
            spoil(&mut request);
            let found = validate(&request, false).err().map(|error| error.field).unwrap_or_default();
            assert_eq!(found, *field, "row {number}");
        }
    }

    #[test]
    fn an_image_is_accepted_by_an_engine_that_runs_them() {
        let request = parse_record(br#"{"command":["true"],"container_image":"debian"}"#, 3).unwrap();
        assert_eq!(validate(&request, true), Ok(()));
    }
}
