//! What a container needs and what an instance has: five quantities, and how containers share them (spec 72 §6).

use super::container::ContainerRequest;

/// Quantities of one container, or of one instance type. Bytes where it is memory or disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resources {
    /// 0 is allowed for a container: all such share one core.
    pub vcpus: i64,
    pub ram: i64,
    pub scratch: i64,
    pub gpus: i64,
    /// Per device.
    pub gpu_vram: i64,
}

impl Resources {
    /// At least as much of everything.
    pub fn covers(&self, need: &Self) -> bool {
        self.vcpus >= need.vcpus
            && self.ram >= need.ram
            && self.scratch >= need.scratch
            && self.gpus >= need.gpus
            && self.gpu_vram >= need.gpu_vram
    }
}

const MEBIBYTE: i128 = 1 << 20;
/// The local keepstore's process and a tenth more.
const KEEPSTORE_RAM: i128 = 220 * MEBIBYTE;
const KEEP_BLOCK: i128 = 64 * MEBIBYTE;

/// What a container needs, overhead included (spec 72 §6). Hostile numbers end at 0 or at the most there is.
///
/// `reserve_extra_ram` in bytes; `keep_buffers_per_vcpu` 0 = no local keepstore.
pub fn resources_needed(request: &ContainerRequest, reserve_extra_ram: i64, keep_buffers_per_vcpu: i64) -> Resources {
    let mut ram = i128::from(request.ram) + i128::from(request.keep_cache_ram) + i128::from(reserve_extra_ram);
    let buffers = i128::from(keep_buffers_per_vcpu);
    if buffers > 0 {
        let blocks = buffers.saturating_mul(i128::from(request.vcpus)).saturating_mul(KEEP_BLOCK * 11) / 10;
        ram = ram.saturating_add(KEEPSTORE_RAM).saturating_add(blocks);
    }
    // Instances really offer up to 5 % less than advertised.
    ram = ram.saturating_mul(100) / 95;
    let image = i128::from(image_estimate(&request.container_image));
    let scratch = i128::from(request.scratch).max(image) + image + i128::from(request.keep_cache_disk);
    // Nothing is below 0: it would make room on the instance instead of taking it.
    Resources {
        vcpus: request.vcpus.max(0),
        ram: saturated(ram),
        scratch: saturated(scratch),
        gpus: request.gpu.device_count.max(0),
        gpu_vram: request.gpu.vram.max(0),
    }
}

fn saturated(value: i128) -> i64 {
    i64::try_from(value.max(0)).unwrap_or(i64::MAX)
}

/// Bytes that loading and extracting an image takes, from the size in its portable data hash; 0 if that says nothing.
fn image_estimate(image: &str) -> i64 {
    let Some((hash, size)) = image.split_once('+') else {
        return 0;
    };
    let is_hash = hash.len() == 32 && hash.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    let manifest: i64 = match size.bytes().all(|b| b.is_ascii_digit()) {
        true if is_hash => size.parse().unwrap_or(0),
        _ => 0,
    };
    if manifest < 122 { 0 } else { ((manifest - 80) / 42).saturating_mul(64 << 20) }
}

/// An instance that several containers share.
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    remaining: Resources,
    /// A container without a core of its own is here: one core is kept for all such.
    shared: bool,
}

impl Packing {
    /// An empty instance of this capacity.
    pub fn new(capacity: Resources) -> Self {
        Self { remaining: capacity, shared: false }
    }

    /// Whether one more container of this need fits.
    pub fn fits(&self, need: &Resources) -> bool {
        self.free().is_some_and(|free| free.covers(need))
    }

    /// What one more container may need; `None` if none fits, whatever it needs: also those that share a core want one to be there.
    pub fn free(&self) -> Option<Resources> {
        let left = self.remaining;
        let kept = i64::from(self.shared);
        (left.vcpus > 0).then_some(Resources { vcpus: left.vcpus - kept, ..left })
    }

    /// Takes the container's share, whether or not it fits: what runs, runs.
    pub fn place(&mut self, need: &Resources) {
        let left = &mut self.remaining;
        left.vcpus = left.vcpus.saturating_sub(need.vcpus);
        left.ram = left.ram.saturating_sub(need.ram);
        left.scratch = left.scratch.saturating_sub(need.scratch);
        left.gpus = left.gpus.saturating_sub(need.gpus);
        left.gpu_vram = left.gpu_vram.saturating_sub(need.gpu_vram);
        self.shared |= need.vcpus == 0;
    }
}
