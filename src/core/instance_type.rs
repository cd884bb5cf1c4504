//! The kinds of instance there are, and which of them a container may run on (spec 60 §4, 72 §7).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::container::{ContainerRequest, GpuRequest};
use super::resources::Resources;
use super::time::WallMillis;
use super::units::format_size;

/// Accelerators of a type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gpu {
    /// `cuda`, `rocm`, or empty for none.
    pub stack: String,
    /// `X.Y`.
    pub driver_version: String,
    /// cuda: capability `X.Y`; rocm: `gfxNNNN`.
    pub hardware_target: String,
    pub device_count: i64,
    /// Bytes per device.
    pub vram: i64,
}

/// A type's own TimeoutIdle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleLimit {
    After(Duration),
    Never,
}

/// A configured instance type.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceType {
    /// Key in the configuration.
    pub name: String,
    /// The cloud's name of it.
    pub provider_type: String,
    pub vcpus: i64,
    /// Bytes, as advertised.
    pub ram: i64,
    pub included_scratch: i64,
    pub added_scratch: i64,
    /// Per hour.
    pub price: f64,
    pub preemptible: bool,
    pub gpu: Gpu,
    /// `None` = the pool's.
    pub timeout_idle: Option<IdleLimit>,
}

impl InstanceType {
    /// Disk in all, in bytes.
    pub fn scratch(&self) -> i64 {
        self.included_scratch.saturating_add(self.added_scratch)
    }

    /// What an empty instance has.
    pub fn capacity(&self) -> Resources {
        Resources {
            vcpus: self.vcpus,
            ram: self.ram,
            scratch: self.scratch(),
            gpus: self.gpu.device_count,
            gpu_vram: self.gpu.vram,
        }
    }
}

/// What an instance costs from a time on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PricePoint {
    pub since: WallMillis,
    /// Per hour, with its added scratch.
    pub price: f64,
}

/// Why no type can ever run a container. The texts are part of the interface (spec 72 §7).
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum Unsatisfiable {
    #[error("site configuration does not list any instance types")]
    NoTypes,
    #[error("Invalid GPU stack {0:?}, expected to be blank or one of 'cuda' or 'rocm'")]
    GpuStack(String),
    /// What it needs, and the largest of each quantity that the types of its kind have.
    #[error("constraints not satisfiable by any configured instance type")]
    Constraints { need: Resources, largest: Resources, preemptible: bool, stack: String },
}

impl Unsatisfiable {
    /// The text with what is needed and what there is.
    pub fn for_people(&self) -> String {
        let Self::Constraints { need, largest, preemptible, stack } = self else {
            return self.to_string();
        };
        let kind = match (preemptible, stack.as_str()) {
            (false, "") => String::new(),
            (true, "") => "preemptible ".to_owned(),
            (false, stack) => format!("{stack} "),
            (true, stack) => format!("preemptible {stack} "),
        };
        let amounts = |of: &Resources| {
            let (ram, scratch) = (format_size(of.ram), format_size(of.scratch));
            let mut text = format!("{} vcpus, {ram} ram, {scratch} scratch", of.vcpus);
            if of.gpus > 0 || of.gpu_vram > 0 {
                text.push_str(&format!(", {} GPUs of {}", of.gpus, format_size(of.gpu_vram)));
            }
            text
        };
        let needs = amounts(need);
        if *largest == Resources::default() {
            return format!("{self}: with overhead it needs {needs}; there is no {kind}type at all");
        }
        format!("{self}: with overhead it needs {needs}; the most that a {kind}type has is {}", amounts(largest))
    }
}

/// The types a container may run on, cheapest first: then RAM, VCPUs and scratch from large to small, then by name. At least one.
///
/// # Errors
/// See [`Unsatisfiable`].
pub fn choose<'a>(
    types: impl Iterator<Item = &'a Arc<InstanceType>> + Clone,
    need: &Resources,
    request: &ContainerRequest,
    maximum_price_factor: f64,
) -> Result<Arc<[Arc<InstanceType>]>, Unsatisfiable> {
    if types.clone().next().is_none() {
        return Err(Unsatisfiable::NoTypes);
    }
    if !matches!(request.gpu.stack.as_str(), "" | "cuda" | "rocm") {
        return Err(Unsatisfiable::GpuStack(request.gpu.stack.clone()));
    }
    let mut eligible: Vec<Arc<InstanceType>> =
        types.clone().filter(|one| is_eligible(one, need, request)).cloned().collect();
    let Some(lowest) = eligible.iter().map(|one| one.price).min_by(f64::total_cmp) else {
        return Err(unsatisfiable(types, need, request));
    };
    let most = lowest * maximum_price_factor.max(1.0);
    eligible.retain(|one| one.price <= most);
    eligible.sort_by(|one, other| {
        one.price
            .total_cmp(&other.price)
            .then(other.ram.cmp(&one.ram))
            .then(other.vcpus.cmp(&one.vcpus))
            .then(other.scratch().cmp(&one.scratch()))
            .then(one.name.cmp(&other.name))
    });
    Ok(eligible.into())
}

/// The lists that [`choose`] has given of one configuration's types, each once: equal lists are the same then, by which the scheduler knows
/// containers that can go to the same places. As many as there are different ones, which the configuration limits.
#[derive(Clone, Debug, Default)]
pub struct TypeLists(BTreeMap<Vec<usize>, Arc<[Arc<InstanceType>]>>);

impl TypeLists {
    /// The list that was shared first of those with the same types in the same order.
    pub fn share(&mut self, list: Arc<[Arc<InstanceType>]>) -> Arc<[Arc<InstanceType>]> {
        // The kept list keeps its types alive, so none of their addresses is another's.
        let key = list.iter().map(|one| Arc::as_ptr(one).addr()).collect();
        self.0.entry(key).or_insert(list).clone()
    }
}

fn is_of_kind(one: &InstanceType, request: &ContainerRequest) -> bool {
    one.preemptible == request.preemptible && one.gpu.stack == request.gpu.stack
}

fn is_eligible(one: &InstanceType, need: &Resources, request: &ContainerRequest) -> bool {
    let has = one.capacity();
    is_of_kind(one, request)
        && has.scratch >= need.scratch
        && has.ram >= need.ram
        && has.vcpus >= need.vcpus
        && has.gpus >= need.gpus
        && has.gpu_vram >= need.gpu_vram
        && (request.gpu.device_count <= 0 || gpu_fits(&one.gpu, &request.gpu))
}

fn gpu_fits(has: &Gpu, wanted: &GpuRequest) -> bool {
    let at_least = |has: &str, wanted: &str| match (has.parse::<f64>(), wanted.parse::<f64>()) {
        (Ok(has), Ok(wanted)) => has >= wanted,
        _ => false,
    };
    let hardware = match wanted.hardware_target.as_slice() {
        [] => false,
        [least] if has.stack == "cuda" => at_least(&has.hardware_target, least),
        several => several.contains(&has.hardware_target),
    };
    hardware && at_least(&has.driver_version, &wanted.driver_version)
}

fn unsatisfiable<'a>(
    types: impl Iterator<Item = &'a Arc<InstanceType>>,
    need: &Resources,
    request: &ContainerRequest,
) -> Unsatisfiable {
    let mut largest = Resources::default();
    for has in types.filter(|one| is_of_kind(one, request)).map(|one| one.capacity()) {
        largest.vcpus = largest.vcpus.max(has.vcpus);
        largest.ram = largest.ram.max(has.ram);
        largest.scratch = largest.scratch.max(has.scratch);
        largest.gpus = largest.gpus.max(has.gpus);
        largest.gpu_vram = largest.gpu_vram.max(has.gpu_vram);
    }
    let (preemptible, stack) = (request.preemptible, request.gpu.stack.clone());
    Unsatisfiable::Constraints { need: *need, largest, preemptible, stack }
}
