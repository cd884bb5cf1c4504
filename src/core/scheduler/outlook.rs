//! What a pass has found out about every entry of the queue, for people.
//!
//! It costs the pass next to nothing: positions and texts are made when somebody asks.

use std::sync::Arc;

use imbl::OrdMap;

use super::EntryStatus;
use super::backlog::{Line, Shape};
use super::explain::Grounds;
use super::order::{Rank, Turn};
use super::plan::Walked;
use super::status::{Hold, Positions, Status, text};
use crate::core::entry::QueueEntry;
use crate::core::ids::ContainerUuid;
use crate::core::versioned::Versioned;

/// An entry that was judged by itself.
#[derive(Clone, Debug)]
pub(super) struct Judged {
    pub(super) turn: Turn,
    pub(super) entry: Versioned<QueueEntry>,
    pub(super) rank: Rank,
    pub(super) status: Status,
}

/// Of one pass. Immutable.
#[derive(Debug, Default)]
pub struct Outlook {
    /// All entries as the pass saw them.
    pub(super) entries: OrdMap<ContainerUuid, Versioned<QueueEntry>>,
    /// In scheduling order.
    pub(super) judged: Vec<Judged>,
    pub(super) groups: OrdMap<Shape, Line>,
    pub(super) on_hold: Line,
    pub(super) not_ready: Line,
    pub(super) walked: Walked,
    pub(super) grounds: Arc<Grounds>,
}

type Row<'a> = (&'a Turn, &'a Versioned<QueueEntry>, Status);

/// One entry with its place among the others.
#[derive(Clone, Debug)]
pub struct Listed {
    pub entry: Versioned<QueueEntry>,
    pub(super) status: Status,
    /// In its queue, from 1; 0 without one.
    position: usize,
}

/// All entries in scheduling order, with what is told about each.
#[derive(Debug, Default)]
pub struct Listing {
    pub items: Vec<Listed>,
    /// Where in `items` each rank begins.
    begins: [usize; 4],
    entries: OrdMap<ContainerUuid, Versioned<QueueEntry>>,
    pub(super) grounds: Arc<Grounds>,
}

impl Outlook {
    /// Every entry of the queue, in scheduling order. Costs some tenth of a microsecond for each.
    pub fn listing(&self) -> Listing {
        let mut items: Vec<Listed> = Vec::with_capacity(self.entries.len());
        let mut begins = [0; 4];
        for (begin, rank) in begins.iter_mut().zip([Rank::Placed, Rank::Locked, Rank::Queued, Rank::Ended]) {
            *begin = items.len();
            let judged = self.judged.iter().filter(|one| one.rank == rank);
            let mut rows: Vec<Row<'_>> = judged.map(|one| (&one.turn, &one.entry, one.status.clone())).collect();
            if rank == Rank::Queued {
                self.add_waiting(&mut rows);
                // A few lines, each of them in order: that is what this sort is good at.
                rows.sort_by_key(|(turn, ..)| *turn);
            }
            let listed = |(_, entry, status): Row<'_>| Listed { entry: entry.clone(), status, position: 0 };
            items.extend(rows.into_iter().map(listed));
        }
        let mut positions = Positions::new(items.iter().filter(|one| one.status == Status::AtCapacity).count());
        for one in &mut items {
            one.position = positions.next(&one.status);
        }
        Listing { items, begins, entries: self.entries.clone(), grounds: self.grounds.clone() }
    }

    /// What was not judged by itself.
    fn add_waiting<'a>(&'a self, rows: &mut Vec<Row<'a>>) {
        for (shape, line) in self.groups.iter() {
            for (turn, entry) in line.iter() {
                let told = self.walked.told.binary_search_by(|(told, _)| told.cmp(turn));
                let status = told.map_or_else(
                    |_| self.walked.of_waiting(turn, Some(shape), shape.is_supervisor),
                    |found| self.walked.told[found].1.clone(),
                );
                rows.push((turn, entry, status));
            }
        }
        rows.extend(self.on_hold.iter().map(|(turn, entry)| (turn, entry, Status::OnHold)));
        rows.extend(self.not_ready.iter().map(|(turn, entry)| (turn, entry, Status::AfterOthers)));
    }

    /// Every entry of the queue, in scheduling order.
    pub fn statuses(&self) -> Vec<EntryStatus> {
        let listing = self.listing();
        let status = |one: &Listed| EntryStatus { uuid: one.entry.container.uuid.clone(), text: listing.text(one) };
        listing.items.iter().map(status).collect()
    }
}

impl Listing {
    /// What the pass saw of a container.
    pub fn find(&self, uuid: &ContainerUuid) -> Option<&Listed> {
        let turn = Turn::of(self.entries.get(uuid)?);
        let ends = self.begins.iter().skip(1).copied().chain([self.items.len()]);
        self.begins.iter().zip(ends).find_map(|(begin, end)| {
            let rank = self.items.get(*begin..end)?;
            let found = rank.binary_search_by(|one| Turn::of(&one.entry).cmp(&turn)).ok()?;
            rank.get(found)
        })
    }

    /// No instance has room for it, or for one that comes before it, and no more can be had.
    pub fn is_over_quota(&self, one: &Listed) -> bool {
        one.status == Status::Waiting(Hold::OverQuota)
    }

    /// The text of spec 82 §3.2; empty once it runs or has ended.
    pub fn text(&self, one: &Listed) -> String {
        text(&one.entry, &one.status, one.position, self.grounds.at_quota)
    }
}
