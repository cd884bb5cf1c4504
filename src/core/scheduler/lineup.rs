//! The Queued ones that may be placed, one after the other in the order of their turns: those of all groups, and single ones.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use imbl::ordmap::Iter;
use imbl::shared_ptr::DefaultSharedPtr;

use super::backlog::{Line, Shape};
use super::order::{Item, Standing, Turn};
use crate::core::entry::QueueEntry;
use crate::core::ids::ContainerUuid;
use crate::core::versioned::Versioned;

type Members<'a> = Iter<'a, Turn, Versioned<QueueEntry>, DefaultSharedPtr>;

/// One after another of a group, or a single one.
enum Source<'a> {
    Group(Shape, Members<'a>),
    Single,
}

struct Cursor<'a> {
    source: Source<'a>,
    head: Item<'a>,
    /// With the head.
    left: usize,
}

/// See the module. Each head is in the heap, unless its cursor was closed.
pub(super) struct Lineup<'a> {
    cursors: Vec<Cursor<'a>>,
    heap: BinaryHeap<Reverse<(Turn, usize)>>,
    busy: &'a BTreeSet<ContainerUuid>,
    /// Of all cursors that are not closed.
    left: usize,
}

/// Who is next, and of which cursor.
pub(super) struct Next<'a> {
    pub(super) item: Item<'a>,
    pub(super) turn: Turn,
    /// Of its group, if it has one.
    pub(super) shape: Option<Shape>,
    cursor: usize,
}

impl<'a> Lineup<'a> {
    pub(super) fn new(busy: &'a BTreeSet<ContainerUuid>) -> Self {
        Self { cursors: Vec::new(), heap: BinaryHeap::new(), busy, left: 0 }
    }

    pub(super) fn add_single(&mut self, item: Item<'a>) {
        self.add(Cursor { source: Source::Single, head: item, left: 1 });
    }

    pub(super) fn add_group(&mut self, shape: Shape, line: &'a Line) {
        let mut members = line.iter();
        if let Some((_, entry)) = members.next() {
            let head = self.item(entry);
            self.add(Cursor { source: Source::Group(shape, members), head, left: line.len() });
        }
    }

    fn item(&self, entry: &'a Versioned<QueueEntry>) -> Item<'a> {
        let busy = !self.busy.is_empty() && self.busy.contains(&entry.container.uuid);
        Item { entry, standing: Standing::Free, busy }
    }

    fn add(&mut self, cursor: Cursor<'a>) {
        self.left += cursor.left;
        self.heap.push(Reverse((Turn::of(cursor.head.entry), self.cursors.len())));
        self.cursors.push(cursor);
    }

    /// Those that are left, without those of closed groups.
    pub(super) fn left(&self) -> usize {
        self.left
    }

    /// Takes the next one out: [`Lineup::advance`], [`Lineup::close`] or [`Lineup::put_back`] says how it goes on.
    pub(super) fn pop(&mut self) -> Option<Next<'a>> {
        let Reverse((turn, cursor)) = self.heap.pop()?;
        let found = &self.cursors[cursor];
        let shape = match found.source {
            Source::Group(shape, _) => Some(shape),
            Source::Single => None,
        };
        Some(Next { item: found.head, turn, shape, cursor })
    }

    /// It has been decided about: the next of its group may come.
    pub(super) fn advance(&mut self, next: &Next<'a>) {
        let cursor = &mut self.cursors[next.cursor];
        cursor.left -= 1;
        self.left -= 1;
        let following = match &mut cursor.source {
            Source::Group(_, members) => members.next(),
            Source::Single => None,
        };
        if let Some((turn, entry)) = following {
            let head = self.item(entry);
            self.cursors[next.cursor].head = head;
            self.heap.push(Reverse((turn.clone(), next.cursor)));
        }
    }

    /// What was decided about it holds for all that are left of its group: so many, it included.
    pub(super) fn close(&mut self, next: &Next<'a>) -> usize {
        let left = std::mem::take(&mut self.cursors[next.cursor].left);
        self.left -= left;
        left
    }

    pub(super) fn put_back(&mut self, next: Next<'a>) {
        self.heap.push(Reverse((next.turn, next.cursor)));
    }

    /// The heads of all that are left, in no order.
    pub(super) fn heads(&self) -> impl Iterator<Item = (&Turn, &Item<'a>)> {
        self.heap.iter().map(|Reverse((turn, cursor))| (turn, &self.cursors[*cursor].head))
    }
}
