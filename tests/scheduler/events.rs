//! What happens to the model: instances come and go, runners start and end, people change their minds, the dispatcher crashes.

use muster::core::ids::{InstanceId, OperationId, TypeName};
use muster::core::pool::view::{InstanceKey, Phase};
use muster::core::vocabulary::{IdleBehavior, WorkerState};

use crate::fixture::{supervisor, uuid};
use crate::model::Model;

/// Kinds of [`Model::event`].
pub(crate) const EVENTS: u8 = 18;

impl Model {
    /// What a booting, unknown, departing or being-created instance waits for.
    pub(crate) fn advance_instance(&mut self, index: usize) {
        let view = self.world.nth(index);
        match (view.key.clone(), view.state) {
            (InstanceKey::Create(OperationId(number)), _) => {
                // Names in no particular order, so that ties are decided by id and not by age.
                let id = InstanceId::new(&format!("i{}-{number}", number * 7 % 10));
                let key = std::mem::replace(&mut view.key, InstanceKey::Instance(id.clone()));
                let made = self.world.pool.instances.remove(&key).expect("just looked at");
                self.world.pool.instances.insert(InstanceKey::Instance(id), made);
            }
            (_, WorkerState::Booting) => view.state = WorkerState::Idle,
            (InstanceKey::Instance(id), WorkerState::Unknown) => {
                view.state = WorkerState::Idle;
                self.world.pool.last_unknown_resolved = Some(self.world.now);
                for (uuid, attempt) in self.alive.get(&id).cloned().unwrap_or_default() {
                    self.put(&uuid, &id, attempt, Phase::Running);
                }
            }
            (InstanceKey::Instance(id), WorkerState::Shutdown) => self.remove_instance(&id),
            _ => {}
        }
    }

    /// The dispatcher is killed and started again: what it believed is gone, what runs goes on.
    fn restart(&mut self, choice: usize) {
        self.scheduler = self.world.scheduler();
        self.pending.clear();
        self.sent.clear();
        self.world.pool.containers.clear();
        for (key, view) in self.world.pool.instances.clone() {
            if view.id().is_none() {
                self.world.pool.instances.remove(&key);
            }
        }
        self.world.each_instance(|view| {
            view.state = WorkerState::Unknown;
            view.containers.clear();
            view.collecting.clear();
        });
        let pool = &mut self.world.pool;
        pool.last_unknown_resolved = None;
        pool.departed.clear();
        pool.first_list = Some(self.world.now);
        pool.last_list = Some(self.world.now);
        // With a remote queue only the runners' own claims keep two of them from running: nothing to hold here.
        if self.world.settings.keeps_attempts && choice.is_multiple_of(3) && !pool.instances.is_empty() {
            let key = pool.instances.keys().nth(choice % pool.instances.len()).expect("one of them").clone();
            self.unlisted.extend(pool.instances.remove(&key));
        }
    }

    /// The cloud's lists are complete again.
    pub(crate) fn list_all(&mut self) {
        let listed = self.unlisted.drain(..).map(|view| (view.key.clone(), view));
        self.world.pool.instances.extend(listed);
    }

    /// One of the things that can happen; `choice` says to whom.
    pub(crate) fn event(&mut self, kind: u8, choice: usize) {
        self.history.push(format!("-- event {kind} {choice}"));
        let instances = self.world.pool.instances.len();
        match kind {
            0 => self.submit([1, 1, 2, 4][choice % 4], i64::try_from(choice % 3).expect("small") + 1, |entry| {
                if choice.is_multiple_of(5) {
                    supervisor(entry);
                }
            }),
            1 | 2 if instances > 0 => self.advance_instance(choice % instances),
            3 | 4 => {
                if let Some((uuid, place)) = self.nth_place(choice) {
                    self.probe(&uuid, &place);
                }
            }
            5 => {
                if let Some((uuid, place)) = self.nth_place(choice).filter(|(_, place)| place.phase == Phase::Running) {
                    self.end(&uuid, &place);
                }
            }
            6 => {
                if let Some((uuid, place)) = self.nth_place(choice) {
                    self.alive.entry(place.instance).or_default().remove(&uuid);
                }
            }
            7 | 8 if !self.sent.is_empty() => {
                let sent = self.sent.remove(choice % self.sent.len());
                self.run_start(&sent, kind == 7 || choice.is_multiple_of(2));
            }
            9 if instances > 0 => {
                if let InstanceKey::Instance(id) = self.world.nth(choice % instances).key.clone() {
                    self.remove_instance(&id);
                }
            }
            10 if self.next_container > 0 => self.change_priority(choice),
            11 => self.immediate = !self.immediate,
            12 if !self.pending.is_empty() => {
                let action = self.pending.remove(choice % self.pending.len());
                self.commit(&action);
            }
            13 => self.at_quota = !self.at_quota,
            14 => {
                let name = TypeName::new(["type1", "type2", "type4"][choice % 3]);
                if !self.world.pool.at_capacity.remove(&name) {
                    self.world.pool.at_capacity.insert(name);
                }
            }
            15 if choice.is_multiple_of(2) => self.restart(choice / 2),
            15 => self.list_all(),
            16 if instances > 0 => {
                let behavior = &mut self.world.nth(choice % instances).idle_behavior;
                *behavior = if *behavior == IdleBehavior::Run { IdleBehavior::Hold } else { IdleBehavior::Run };
            }
            17 => {
                // What a crash between commit and send leaves.
                for sent in std::mem::take(&mut self.sent) {
                    self.run_start(&sent, choice.is_multiple_of(2));
                }
                self.restart(choice);
            }
            _ => {}
        }
        self.check_truth();
    }

    fn change_priority(&mut self, choice: usize) {
        let uuid = uuid(choice % self.next_container + 1);
        let Some(slot) = self.world.queue.entries.get_mut(&uuid) else {
            return;
        };
        let container = &mut slot.make_mut().container;
        match choice % 3 {
            0 => container.priority = 0,
            1 if !container.cancel_requested => container.priority = 5,
            2 if self.world.settings.keeps_attempts && !container.state.is_final() => {
                container.priority = 0;
                container.cancel_requested = true;
            }
            _ => {}
        }
    }
}
