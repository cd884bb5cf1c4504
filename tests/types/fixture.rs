//! The types of spec 72 §7, and containers that ask for something.

use std::collections::BTreeMap;
use std::sync::Arc;

use muster::core::container::ContainerRequest;
use muster::core::container::GpuRequest;
use muster::core::instance_type::{Gpu, InstanceType};

pub(crate) const MIB: i64 = 1 << 20;
pub(crate) const GIB: i64 = 1 << 30;
pub(crate) const GB: i64 = 1_000_000_000;

/// What a row asks for; the rest is nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Need {
    pub(crate) vcpus: i64,
    pub(crate) ram: i64,
    pub(crate) keep_cache_ram: i64,
    pub(crate) keep_cache_disk: i64,
    pub(crate) scratch: i64,
    /// Size part of the image's portable data hash, with its `+`; empty = no image.
    pub(crate) image: &'static str,
    pub(crate) image_text: Option<&'static str>,
    pub(crate) preemptible: bool,
    pub(crate) stack: &'static str,
    pub(crate) driver: &'static str,
    pub(crate) targets: &'static [&'static str],
    pub(crate) devices: i64,
    pub(crate) vram: i64,
}

pub(crate) fn request(need: &Need) -> ContainerRequest {
    let hashed = || if need.image.is_empty() { String::new() } else { format!("{}{}", "0a".repeat(16), need.image) };
    ContainerRequest {
        name: String::new(),
        command: vec!["true".to_owned()],
        cwd: String::new(),
        environment: BTreeMap::new(),
        stdin: String::new(),
        container_image: need.image_text.map_or_else(hashed, str::to_owned),
        priority: 500,
        vcpus: need.vcpus,
        ram: need.ram,
        keep_cache_ram: need.keep_cache_ram,
        keep_cache_disk: need.keep_cache_disk,
        scratch: need.scratch,
        gpu: GpuRequest {
            stack: need.stack.to_owned(),
            driver_version: need.driver.to_owned(),
            hardware_target: need.targets.iter().map(|target| (*target).to_owned()).collect(),
            device_count: need.devices,
            vram: need.vram,
        },
        preemptible: need.preemptible,
        supervisor: false,
        max_run_time: None,
        max_attempts: 3,
        array_index: None,
        outputs: Vec::new(),
        after: Vec::new(),
    }
}

fn plain(name: &str, vcpus: i64, ram: i64, scratch: i64, price: f64) -> InstanceType {
    InstanceType {
        name: name.to_owned(),
        provider_type: name.to_owned(),
        vcpus,
        ram: ram * GIB,
        included_scratch: scratch * GB,
        price,
        ..InstanceType::default()
    }
}

fn with_gpu(base: InstanceType, stack: &str, driver: &str, target: &str, devices: i64, vram: i64) -> InstanceType {
    let gpu = Gpu {
        stack: stack.to_owned(),
        driver_version: driver.to_owned(),
        hardware_target: target.to_owned(),
        device_count: devices,
        vram: vram * GIB,
    };
    InstanceType { gpu, ..base }
}

/// In no useful order, as a configuration may have them.
pub(crate) fn types() -> Vec<Arc<InstanceType>> {
    let types = [
        with_gpu(plain("g3", 16, 64, 200, 2.50), "cuda", "11.8", "9.0", 2, 80),
        plain("c4", 4, 16, 100, 0.20),
        plain("c2m", 2, 8, 50, 0.14),
        plain("c4d", 4, 16, 200, 0.20),
        InstanceType { preemptible: true, ..plain("c8.preemptible", 8, 32, 100, 0.15) },
        plain("c8", 8, 32, 100, 0.45),
        with_gpu(plain("r1", 8, 32, 100, 1.00), "rocm", "6.2", "gfx1100", 1, 20),
        with_gpu(plain("g2", 8, 32, 100, 0.80), "cuda", "12.2", "8.6", 1, 24),
        with_gpu(plain("g1", 4, 16, 100, 0.60), "cuda", "12.2", "7.5", 1, 16),
        plain("c2", 2, 4, 50, 0.10),
    ];
    types.into_iter().map(Arc::new).collect()
}

pub(crate) fn priced(price: f64) -> Arc<InstanceType> {
    Arc::new(plain(&price.to_string(), 1, 1, 1, price))
}
