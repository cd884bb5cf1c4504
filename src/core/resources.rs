//! Placeholder of the shapes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resources {
    pub vcpus: i64,
    pub ram: i64,
    pub scratch: i64,
    pub gpus: i64,
    pub gpu_vram: i64,
}
#[derive(Clone, Copy, Debug)]
pub struct Packing {
    remaining: Resources,
    shared: bool,
}
impl Packing {
    pub fn new(capacity: Resources) -> Self {
        Self { remaining: capacity, shared: false }
    }
    pub fn fits(&self, need: &Resources) -> bool {
        let r = &self.remaining;
        r.vcpus >= need.vcpus
            && r.ram >= need.ram
            && r.scratch >= need.scratch
            && r.gpus >= need.gpus
            && r.gpu_vram >= need.gpu_vram
            && r.vcpus > 0
            && (!self.shared || r.vcpus > need.vcpus)
    }
    pub fn place(&mut self, need: &Resources) {
        let r = &mut self.remaining;
        r.vcpus -= need.vcpus;
        r.ram -= need.ram;
        r.scratch -= need.scratch;
        r.gpus -= need.gpus;
        r.gpu_vram -= need.gpu_vram;
        self.shared |= need.vcpus == 0;
    }
}
