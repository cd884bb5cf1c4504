//! One run: submit, wait for the end or for a standstill, take everything down, judge.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use muster::core::container::{ContainerRequest, GpuRequest};
use muster::core::vocabulary::ContainerState;
use muster::queue::ContainerQueue;

use super::cloud::{ChaosCloud, Counts};
use super::judge::judge;
use super::plan::Plan;
use super::shell::Shell;

/// Without any progress for so long a run has come to a standstill. Generous: a busy machine is none.
const STANDSTILL: Duration = Duration::from_secs(60);
/// More instances than this many for each container are made by a run that goes round in circles.
const INSTANCES_PER_CONTAINER: u64 = 20;
const STOP_LIMIT: Duration = Duration::from_secs(60);
const LOOK: Duration = Duration::from_millis(1);
/// A container meets a crash in one of ten attempts, and bad hosts beside that. Twenty in a row are for the unlucky.
const ATTEMPTS_MAX: u32 = 20;

/// What is run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    pub(crate) seed: u64,
    pub(crate) containers: usize,
    /// Times by which limits on answers are longer than on a machine with nothing else to do.
    pub(crate) patience: u32,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    /// From the submission until the last container was final.
    pub(crate) took: Duration,
    pub(crate) counts: Counts,
}

impl Workload {
    /// # Errors
    /// What was wrong, with the whole state.
    pub(crate) fn run(self) -> Result<Outcome, String> {
        let cloud = Arc::new(ChaosCloud::new(Plan { seed: self.seed }));
        let folder = tempfile::Builder::new().prefix("muster-chaos-").tempdir().map_err(|error| error.to_string())?;
        let shell = Shell::start(&cloud, folder.path(), self.patience);
        let run = Run { shell: &shell, cloud: &cloud, workload: self };
        let ended = run.to_the_end();
        let (overflowed, missed) = (shell.door.overflowed(), shell.scheduler.missed_wakeups.load(Ordering::Relaxed));
        let queue = shell.queue.clone();
        let late = shell.stop(STOP_LIMIT);
        let (took, uuids) = ended?;
        late.map_err(|names| format!("threads have not ended: {}", names.join(", ")))?;
        let mut counts = cloud.counts();
        judge(&queue, &uuids, &cloud.journal.entries(), &mut counts)?;
        for (name, count) in [("effects lost", overflowed), ("missed wake-ups", missed)] {
            if count > 0 {
                return Err(format!("{name}: {count}"));
            }
        }
        Ok(Outcome { took, counts })
    }
}

struct Run<'a> {
    shell: &'a Shell,
    cloud: &'a ChaosCloud,
    workload: Workload,
}

type Uuids = Vec<muster::core::ids::ContainerUuid>;

impl Run<'_> {
    fn to_the_end(&self) -> Result<(Duration, Uuids), String> {
        let began = Instant::now();
        let requests = (0..self.workload.containers).map(request);
        let uuids = self.shell.queue.submit(requests, None).map_err(|error| error.to_string())?;
        self.wait_for("the last container", || self.final_containers() == uuids.len())?;
        let took = began.elapsed();
        self.wait_for("the last instance to go, and everything to be forgotten", || self.nothing_is_left())?;
        Ok((took, uuids))
    }

    fn final_containers(&self) -> usize {
        let counts = self.shell.queue.counts_by_state();
        let of = |state| counts.get(&state).copied().unwrap_or(0);
        of(ContainerState::Complete) + of(ContainerState::Cancelled)
    }

    fn nothing_is_left(&self) -> bool {
        let view = self.shell.door.view();
        let pool = view.instances.is_empty() && view.containers.is_empty();
        pool && self.cloud.machines() == 0 && self.shell.scheduler.transitions.busy().is_empty()
    }

    /// Whatever changes when something goes on.
    fn progress(&self) -> (BTreeMap<ContainerState, usize>, usize, Counts) {
        (self.shell.queue.counts_by_state(), self.cloud.journal.len(), self.cloud.counts())
    }

    fn wait_for(&self, what: &str, mut condition: impl FnMut() -> bool) -> Result<(), String> {
        let (mut seen, mut since) = (self.progress(), Instant::now());
        let containers = u64::try_from(self.workload.containers).unwrap_or(u64::MAX);
        while !condition() {
            std::thread::park_timeout(LOOK);
            let progress = self.progress();
            let creates = progress.2.get("creates").copied().unwrap_or(0);
            if creates > containers.saturating_mul(INSTANCES_PER_CONTAINER) {
                return Err(self.dump(&format!("it goes round in circles, waiting for {what}")));
            }
            if progress != seen {
                (seen, since) = (progress, Instant::now());
            } else if since.elapsed() >= STANDSTILL {
                return Err(self.dump(&format!("a standstill, waiting for {what}")));
            }
        }
        Ok(())
    }

    /// All that can be seen from outside.
    fn dump(&self, what: &str) -> String {
        let mut text = format!("seed {}: {what}\n", self.workload.seed);
        let view = self.shell.door.view();
        for instance in view.instances.values() {
            let _ = writeln!(text, "{instance:?}");
        }
        for (uuid, whereabouts) in view.containers.iter() {
            let _ = writeln!(text, "{uuid} {whereabouts:?}");
        }
        for entry in self.shell.queue.snapshot().entries.iter() {
            let _ = writeln!(text, "{entry:?}");
        }
        let report = self.shell.scheduler.report.read().clone();
        let limits = self.shell.door.limits_in_force();
        let (busy, next) = (self.shell.scheduler.transitions.busy(), self.shell.door.next_deadline());
        let _ = writeln!(text, "report {report:?}\nlimits {limits:?}\nbusy {busy:?}\nnext deadline {next:?}");
        let _ = writeln!(text, "cloud {:?}", self.cloud);
        text
    }
}

/// Every third one needs half of an instance, the others a quarter.
fn request(number: usize) -> ContainerRequest {
    ContainerRequest {
        name: format!("chaos {number}"),
        command: vec!["job".to_owned(), number.to_string()],
        cwd: String::new(),
        environment: BTreeMap::new(),
        stdin: String::new(),
        container_image: String::new(),
        priority: 500,
        vcpus: if number.is_multiple_of(3) { 2 } else { 1 },
        ram: 1 << 20,
        keep_cache_ram: 0,
        keep_cache_disk: 0,
        scratch: 0,
        gpu: GpuRequest::default(),
        preemptible: false,
        supervisor: false,
        max_run_time: None,
        max_attempts: ATTEMPTS_MAX,
        array_index: None,
        outputs: Vec::new(),
        after: Vec::new(),
    }
}
