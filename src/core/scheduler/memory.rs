//! Passes in which nothing changed: the answer of the last one stands.

use std::collections::BTreeSet;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;

use super::outlook::Outlook;
use super::{Draft, Pass, PassFigures, PassInput};
use crate::core::entry::{QueueEntry, QueueSnapshot};
use crate::core::ids::ContainerUuid;
use crate::core::pool::view::PoolView;
use crate::core::time::Moment;
use crate::core::versioned::Versioned;

/// What a pass looked at that had nothing to do, and what it found.
#[derive(Clone, Debug)]
pub(super) struct LastPass {
    pool: PoolView,
    entries: OrdMap<ContainerUuid, Versioned<QueueEntry>>,
    busy: BTreeSet<ContainerUuid>,
    last_busy_answer: Option<Moment>,
    may_start: bool,
    as_of: Moment,
    /// Something depended on when the queue was refreshed, or on the last list of the cloud.
    waits_for_refresh: bool,
    waits_for_list: bool,
    figures: PassFigures,
    outlook: Arc<Outlook>,
}

impl LastPass {
    /// `None` for a pass that ordered something: what becomes of that is looked at again, even if it is nothing.
    pub(super) fn of(draft: &Draft<'_>) -> Option<Self> {
        let (input, pass) = (&draft.input, &draft.pass);
        (pass.actions.is_empty() && !pass.refused_because_busy).then(|| Self {
            pool: input.pool.clone(),
            entries: input.queue.entries.clone(),
            busy: input.busy.clone(),
            last_busy_answer: input.last_busy_answer,
            may_start: input.may_start,
            as_of: input.queue.as_of,
            waits_for_refresh: draft.waits_for_refresh,
            waits_for_list: draft.waits_for_list,
            figures: pass.figures,
            outlook: pass.outlook.clone(),
        })
    }

    /// Nothing has changed that it looked at. Deadlines are the caller's.
    pub(super) fn still_stands(&mut self, input: &PassInput<'_>) -> bool {
        self.has_same_queue(input.queue)
            && self.has_same_pool(input.pool)
            && self.busy == *input.busy
            && self.last_busy_answer == input.last_busy_answer
            && self.may_start == input.may_start
    }

    fn has_same_queue(&self, queue: &QueueSnapshot) -> bool {
        self.entries.ptr_eq(&queue.entries) && (!self.waits_for_refresh || self.as_of == queue.as_of)
    }

    fn has_same_pool(&mut self, pool: &PoolView) -> bool {
        let known = &self.pool;
        let same = known.containers.ptr_eq(&pool.containers)
            && known.departed.ptr_eq(&pool.departed)
            && known.at_quota == pool.at_quota
            && known.creates_accepted == pool.creates_accepted
            && known.creates_refused == pool.creates_refused
            && known.quota_room == pool.quota_room
            && known.at_capacity == pool.at_capacity
            && known.breakers == pool.breakers
            && known.limits == pool.limits
            && known.first_list == pool.first_list
            && known.last_unknown_resolved == pool.last_unknown_resolved
            && (!self.waits_for_list || known.last_list == pool.last_list)
            && has_same_instances(known, pool);
        if same {
            // The next comparison has less to look at.
            self.pool.instances = pool.instances.clone();
        }
        same
    }

    pub(super) fn answer(&self) -> Pass {
        Pass { figures: self.figures, outlook: self.outlook.clone(), ..Pass::default() }
    }
}

/// As far as a pass looks at them: when a worker was last busy changes with each probe of one that is.
fn has_same_instances(known: &PoolView, pool: &PoolView) -> bool {
    known.instances.diff(&pool.instances).all(|item| match item {
        DiffItem::Update { old: (_, old), new: (_, new) } => {
            old.state == new.state
                && old.idle_behavior == new.idle_behavior
                && old.containers == new.containers
                && old.collecting == new.collecting
                && old.type_name == new.type_name
                && old.instance_type == new.instance_type
        }
        DiffItem::Add(..) | DiffItem::Remove(..) => false,
    })
}
