//! Placeholder of the shapes.
use super::resources::Resources;
use std::time::Duration;
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gpu {
    pub stack: String,
    pub driver_version: String,
    pub hardware_target: String,
    pub device_count: i64,
    pub vram: i64,
}
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GpuRequest {
    pub stack: String,
    pub driver_version: String,
    pub hardware_target: Vec<String>,
    pub device_count: i64,
    pub vram: i64,
}
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IdleLimit {
    After(Duration),
    Never,
}
#[derive(Clone, Debug, Default, PartialEq)]
pub struct InstanceType {
    pub name: String,
    pub provider_type: String,
    pub vcpus: i64,
    pub ram: i64,
    pub included_scratch: i64,
    pub added_scratch: i64,
    pub price: f64,
    pub preemptible: bool,
    pub gpu: Gpu,
    pub timeout_idle: Option<IdleLimit>,
}
impl InstanceType {
    pub fn scratch(&self) -> i64 {
        self.included_scratch.saturating_add(self.added_scratch)
    }
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
