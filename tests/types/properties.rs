//! What holds for any types and any container.

use std::sync::Arc;

use muster::core::instance_type::{InstanceType, choose};
use muster::core::resources::{Resources, resources_needed};
use proptest::prelude::*;

use crate::fixture::{GIB, Need, request};

fn any_type() -> impl Strategy<Value = Arc<InstanceType>> {
    (0..9_i64, 0..9_i64, 0..5_i64, 0..8_u32, any::<bool>(), 0..3_usize).prop_map(
        |(vcpus, ram, disk, price, spot, name)| {
            Arc::new(InstanceType {
                name: format!("t{vcpus}{ram}{disk}{price}{name}"),
                vcpus,
                ram: ram * GIB,
                included_scratch: disk * GIB,
                price: f64::from(price) / 4.0,
                preemptible: spot,
                ..InstanceType::default()
            })
        },
    )
}

fn any_need() -> impl Strategy<Value = Need> {
    (0..6_i64, 0..6_i64, 0..3_i64, any::<bool>()).prop_map(|(vcpus, ram, scratch, preemptible)| Need {
        vcpus,
        ram: ram * GIB,
        scratch: scratch * GIB,
        preemptible,
        ..Need::default()
    })
}

fn fits(one: &InstanceType, need: &Resources, preemptible: bool) -> bool {
    let has = one.capacity();
    has.vcpus >= need.vcpus && has.ram >= need.ram && has.scratch >= need.scratch && one.preemptible == preemptible
}

proptest! {
    #[test]
    fn chosen_types_fit_are_sorted_and_none_cheaper_is_left_out(
        types in prop::collection::vec(any_type(), 1..12),
        need in any_need(),
        factor in 0.0..3.0_f64,
    ) {
        let wanted = request(&need);
        let resources = resources_needed(&wanted, 0, 0);
        let fitting: Vec<_> = types.iter().filter(|one| fits(one, &resources, need.preemptible)).collect();
        match choose(types.iter(), &resources, &wanted, factor) {
            Err(_) => prop_assert!(fitting.is_empty()),
            Ok(chosen) => {
                prop_assert!(!chosen.is_empty());
                prop_assert!(chosen.iter().all(|one| fits(one, &resources, need.preemptible)));
                prop_assert!(chosen.windows(2).all(|pair| pair[0].price <= pair[1].price));
                let dearest = chosen.last().expect("not empty").price;
                for one in fitting.iter().filter(|one| one.price <= dearest) {
                    prop_assert!(chosen.contains(one), "{} is left out", one.name);
                }
            }
        }
    }

    #[test]
    fn another_type_never_makes_a_container_unschedulable(
        types in prop::collection::vec(any_type(), 1..8),
        more in any_type(),
        need in any_need(),
    ) {
        let wanted = request(&need);
        let resources = resources_needed(&wanted, 0, 0);
        if choose(types.iter(), &resources, &wanted, 1.5).is_ok() {
            let all: Vec<_> = types.iter().cloned().chain([more]).collect();
            prop_assert!(choose(all.iter(), &resources, &wanted, 1.5).is_ok());
        }
    }
}
