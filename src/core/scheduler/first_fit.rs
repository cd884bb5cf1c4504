//! The first of a row of instances that has room for a need, without looking at each.

use crate::core::resources::Resources;

/// Free resources in a row of places, some of them empty. A tree: each node has the most, of every quantity, that a place below it has;
/// what needs more of anything is not there. The search is nearly always as long as the tree is deep.
#[derive(Clone, Debug)]
pub(super) struct FirstFit {
    /// The root is 1, the children of `n` are 2`n` and 2`n` + 1, the places come last.
    nodes: Vec<Resources>,
}

/// Less than any need.
const EMPTY: Resources = Resources { vcpus: -1, ram: -1, scratch: -1, gpus: -1, gpu_vram: -1 };

fn most(one: &Resources, other: &Resources) -> Resources {
    Resources {
        vcpus: one.vcpus.max(other.vcpus),
        ram: one.ram.max(other.ram),
        scratch: one.scratch.max(other.scratch),
        gpus: one.gpus.max(other.gpus),
        gpu_vram: one.gpu_vram.max(other.gpu_vram),
    }
}

impl FirstFit {
    /// So many places, all empty.
    pub(super) fn new(places: usize) -> Self {
        Self { nodes: vec![EMPTY; places.next_power_of_two() * 2] }
    }

    /// What is free at a place; `None`: nothing can go there. A place beyond the last makes the row longer.
    pub(super) fn set(&mut self, place: usize, free: Option<Resources>) {
        if place >= self.nodes.len() / 2 {
            self.grow(place + 1);
        }
        let mut node = self.nodes.len() / 2 + place;
        self.nodes[node] = free.unwrap_or(EMPTY);
        while node > 1 {
            node /= 2;
            let known = most(&self.nodes[node * 2], &self.nodes[node * 2 + 1]);
            if self.nodes[node] == known {
                return;
            }
            self.nodes[node] = known;
        }
    }

    /// Nothing can go anywhere.
    pub(super) fn is_empty(&self) -> bool {
        self.nodes.get(1).is_none_or(|root| *root == EMPTY)
    }

    fn grow(&mut self, places: usize) {
        let mut longer = Self::new(places);
        for (place, free) in
            self.nodes.iter().skip(self.nodes.len() / 2).enumerate().filter(|(_, free)| **free != EMPTY)
        {
            longer.set(place, Some(*free));
        }
        *self = longer;
    }

    /// The first place with at least so much of everything.
    pub(super) fn find(&self, need: &Resources) -> Option<usize> {
        let places = self.nodes.len() / 2;
        let mut node = 1;
        loop {
            if self.nodes[node].covers(need) {
                if node >= places {
                    return Some(node - places);
                }
                node *= 2;
                continue;
            }
            // The next one to the right, of this or an older generation.
            while node % 2 == 1 {
                if node == 1 {
                    return None;
                }
                node /= 2;
            }
            node += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(vcpus: i64, ram: i64) -> Resources {
        Resources { vcpus, ram, ..Resources::default() }
    }

    /// Against a look at each place, with every kind of change.
    #[test]
    fn finds_what_a_look_at_each_place_finds() {
        for places in [1, 2, 3, 5, 8, 13] {
            let mut tree = FirstFit::new(places / 2);
            let mut row: Vec<Option<Resources>> = vec![None; places];
            let mut random: u64 = 1;
            let mut draw = |below: u64| {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                (random >> 33) % below
            };
            for _ in 0..2000 {
                let place = usize::try_from(draw(places as u64)).expect("small");
                let amount = |draw: u64| i64::try_from(draw).expect("small");
                let free = (draw(4) > 0).then(|| of(amount(draw(4)), amount(draw(4))));
                row[place] = free;
                tree.set(place, free);
                let need = of(amount(draw(5)), amount(draw(5)));
                let expected = row.iter().position(|free| free.is_some_and(|free| free.covers(&need)));
                assert_eq!(tree.find(&need), expected, "{row:?} {need:?}");
                assert_eq!(tree.is_empty(), row.iter().all(Option::is_none), "{row:?}");
            }
        }
    }
}
