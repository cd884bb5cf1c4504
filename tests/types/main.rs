//! Resources needed, packing, and the choice of instance types: every worked vector of spec 72 §6–§7 as a row.

mod fixture;
mod properties;

use std::sync::Arc;

use fixture::{GB, GIB, MIB, Need, request, types};
use muster::core::instance_type::{InstanceType, TypeLists, choose};
use muster::core::resources::{Packing, Resources, resources_needed};

const DEFAULT_RESERVE: i64 = 550 * MIB;

#[test]
fn image_estimates() {
    for (suffix, estimate) in [
        ("+34", 0),
        ("+121", 0),
        ("+-342", 0),
        ("+122", 67_108_864),
        ("+163", 67_108_864),
        ("+164", 134_217_728),
        ("+342", 402_653_184),
        ("+500", 671_088_640),
        ("+10000", 15_837_691_904),
        ("", 0),
        ("+99999999999999999999999", 0),
    ] {
        let wanted = request(&Need { image: suffix, ..Need::default() });
        assert_eq!(resources_needed(&wanted, 0, 0).scratch, 2 * estimate, "{suffix}");
    }
    let not_a_hash = request(&Need { image_text: Some("debian+342"), ..Need::default() });
    assert_eq!(resources_needed(&not_a_hash, 0, 0).scratch, 0);
}

#[test]
fn scratch_needed() {
    for (tmp, image, keep_cache_disk, scratch) in [
        (2 * GIB, "+342", 0, 2_550_136_832),
        (200 * MIB, "+342", 0, 805_306_368),
        (15 * GIB, "+10000", 2 * GIB, 34_091_302_912),
        (0, "+34", 8 * GIB, 8_589_934_592),
    ] {
        let wanted = request(&Need { scratch: tmp, image, keep_cache_disk, ..Need::default() });
        assert_eq!(resources_needed(&wanted, DEFAULT_RESERVE, 1).scratch, scratch, "{tmp} {image}");
    }
}

#[test]
fn ram_needed() {
    for (ram, keep_cache_ram, vcpus, with_defaults, without_buffers, bare) in [
        (GIB, 0, 1, 2_057_857_993, 1_737_324_867, 1_130_254_551),
        (4 * GIB, 0, 2, 5_526_326_648, 5_128_088_522, 4_521_018_206),
        (4 * GIB, 256 * MIB, 2, 5_808_890_286, 5_410_652_160, 4_803_581_844),
        (15 * GIB, 0, 4, 18_114_536_716, 17_560_888_589, 16_953_818_273),
    ] {
        let wanted = request(&Need { vcpus, ram, keep_cache_ram, ..Need::default() });
        let needed = |reserve, buffers| resources_needed(&wanted, reserve, buffers).ram;
        assert_eq!(needed(DEFAULT_RESERVE, 1), with_defaults, "{ram}");
        assert_eq!(needed(DEFAULT_RESERVE, 0), without_buffers, "{ram}");
        assert_eq!(needed(0, 0), bare, "{ram}");
    }
    let odd = request(&Need { vcpus: 2, ram: 987_654_321, keep_cache_ram: 123_456_789, ..Need::default() });
    assert_eq!(resources_needed(&odd, 268_435_456, 1).ram, 1_850_392_406);
    assert_eq!(resources_needed(&odd, 268_435_456, 16).ram, 4_181_542_418);
}

#[test]
fn hostile_numbers_saturate() {
    let wanted = request(&Need { vcpus: i64::MAX, ram: i64::MAX, scratch: i64::MAX, ..Need::default() });
    let need = resources_needed(&wanted, i64::MAX, i64::MAX);
    assert_eq!((need.ram, need.scratch), (i64::MAX, i64::MAX));
    let negative = request(&Need { vcpus: -5, ram: -1 << 40, scratch: -1, devices: -1, vram: -1, ..Need::default() });
    assert_eq!(resources_needed(&negative, 0, 0), Resources::default());
    let mut packing = Packing::new(Resources { vcpus: 1, ..Resources::default() });
    packing.place(&need);
    packing.place(&need);
    assert!(!packing.fits(&Resources::default()));
}

#[test]
fn sharing_an_instance() {
    for (remaining, shared, wanted, fits) in [
        (2, false, 2, true),
        (2, true, 2, false),
        (2, true, 1, true),
        (2, true, 0, true),
        (1, true, 1, false),
        (1, true, 0, true),
        (0, false, 0, false),
        (0, true, 0, false),
    ] {
        let vcpus = |vcpus| Resources { vcpus, ..Resources::default() };
        let mut packing = Packing::new(vcpus(remaining));
        if shared {
            packing.place(&vcpus(0));
        }
        assert_eq!(packing.fits(&vcpus(wanted)), fits, "{remaining} {shared} {wanted}");
    }
}

/// Names of the chosen types, or the error.
fn chosen(need: &Need, factor: f64, reserve: i64, buffers: i64) -> (i64, i64, String) {
    let wanted = request(need);
    let resources = resources_needed(&wanted, reserve, buffers);
    let types = types();
    let result = match choose(types.iter(), &resources, &wanted, factor) {
        Ok(types) => types.iter().map(|one| one.name.clone()).collect::<Vec<_>>().join(" "),
        Err(error) => error.to_string(),
    };
    (resources.ram, resources.scratch, result)
}

const NONE: &str = "constraints not satisfiable by any configured instance type";

#[test]
fn worked_vectors_with_defaults() {
    let plain = Need::default();
    for (need, ram, scratch, result) in [
        (Need { vcpus: 1, ram: GIB, ..plain }, 2_057_857_993, 0, "c2 c2m"),
        (Need { vcpus: 2, ram: 4 * GIB, ..plain }, 5_526_326_648, 0, "c2m c4d c4"),
        (Need { vcpus: 2, ram: 3 * GIB, scratch: 60 * GB, ..plain }, 4_396_072_096, 60_000_000_000, "c4d c4"),
        (Need { vcpus: 4, ram: 14 * GIB, ..plain }, 16_984_282_165, 0, "c4d c4"),
        (Need { vcpus: 4, ram: 15 * GIB, ..plain }, 18_114_536_716, 0, "c8"),
        (
            Need { vcpus: 2, ram: GIB, scratch: 40 * GB, image: "+5000", ..plain },
            2_135_562_993,
            47_851_737_088,
            "c2 c2m",
        ),
        (
            Need { vcpus: 2, ram: GIB, scratch: 40 * GB, image: "+5000", keep_cache_disk: 32 * GIB, ..plain },
            2_135_562_993,
            82_211_475_456,
            "c4d c4",
        ),
        (Need { vcpus: 2, ram: GIB, keep_cache_ram: 2 * GIB, ..plain }, 4_396_072_096, 0, "c2m c4d c4"),
        (Need { vcpus: 0, ram: 512 * MIB, ..plain }, 1_415_025_717, 0, "c2 c2m"),
        (Need { vcpus: 8, ram: 8 * GIB, preemptible: true, ..plain }, 10_513_574_857, 0, "c8.preemptible"),
        (Need { vcpus: 16, ram: 8 * GIB, preemptible: true, ..plain }, 11_135_214_861, 0, NONE),
    ] {
        assert_eq!(chosen(&need, 1.5, DEFAULT_RESERVE, 1), (ram, scratch, result.to_owned()), "{need:?}");
    }
}

#[test]
fn worked_vectors_with_other_settings() {
    let plain = Need::default();
    for factor in [1.0, 0.5] {
        let need = Need { vcpus: 2, ram: 4 * GIB, ..plain };
        assert_eq!(chosen(&need, factor, DEFAULT_RESERVE, 1).2, "c2m", "{factor}");
    }
    for (ram, needed) in [(15 * GIB, 16_953_818_273), (16_320_875_724, 17_179_869_183)] {
        let need = Need { vcpus: 4, ram, ..plain };
        assert_eq!(chosen(&need, 1.5, 0, 0), (needed, 0, "c4d c4".to_owned()));
    }
}

#[test]
fn worked_vectors_with_gpus() {
    let of = |stack, driver, targets, devices, vram| Need {
        vcpus: 4,
        ram: 8 * GIB,
        stack,
        driver,
        targets,
        devices,
        vram,
        ..Need::default()
    };
    for (need, result) in [
        (of("cuda", "12.0", &["7.0"][..], 1, 8 * GIB), "g1 g2"),
        (of("cuda", "12.0", &["8.0"], 1, 8 * GIB), "g2"),
        (of("cuda", "11.0", &["7.5", "9.0"], 1, 8 * GIB), "g1"),
        (of("cuda", "11.0", &["7.5", "9.0"], 2, 8 * GIB), "g3"),
        (of("cuda", "11.0", &[], 1, 8 * GIB), NONE),
        (of("cuda", "12.2.1", &["7.5"], 1, 8 * GIB), NONE),
        (of("cuda", "12.2.1", &[], 0, 0), "g1 g2"),
        (of("rocm", "6.0", &["gfx1100", "gfx1103"], 1, 8 * GIB), "r1"),
        (
            of("opencl", "1.0", &["x"], 1, 0),
            "Invalid GPU stack \"opencl\", expected to be blank or one of 'cuda' or 'rocm'",
        ),
        // As decimal numbers: 11.10 is less than 11.9.
        (of("cuda", "11.9", &["9.0"], 2, 8 * GIB), NONE),
    ] {
        assert_eq!(chosen(&need, 1.5, DEFAULT_RESERVE, 1), (10_202_754_855, 0, result.to_owned()), "{need:?}");
    }
}

/// The price cap is inclusive: 3.0 = 2.0 × 1.5 is in, 3.4 is out.
#[test]
fn price_cap() {
    let types: Vec<_> = [3.4, 2.6, 2.0, 3.0, 2.4, 2.2].map(fixture::priced).to_vec();
    let wanted = request(&Need::default());
    let found = choose(types.iter(), &Resources::default(), &wanted, 1.5).expect("there are some");
    assert_eq!(found.iter().map(|one| one.price).collect::<Vec<_>>(), [2.0, 2.2, 2.4, 2.6, 3.0]);
}

#[test]
fn errors_say_what_is_needed_and_what_there_is() {
    let wanted = request(&Need { vcpus: 100, ram: GIB, ..Need::default() });
    let need = resources_needed(&wanted, 0, 0);
    let text = choose(types().iter(), &need, &wanted, 1.5).expect_err("too large").for_people();
    assert!(text.starts_with(NONE) && text.contains("100 vcpus") && text.contains("8 vcpus"), "{text}");
    let none: [std::sync::Arc<muster::core::instance_type::InstanceType>; 0] = [];
    let error = choose(none.iter(), &need, &wanted, 1.5).expect_err("no types");
    assert_eq!(error.to_string(), "site configuration does not list any instance types");
}

/// Equal lists are the same; others are not.
#[test]
fn equal_lists_are_the_same() {
    let mut lists = TypeLists::default();
    let all = types();
    let list = |range: std::ops::Range<usize>| -> Arc<[Arc<InstanceType>]> { all[range].to_vec().into() };
    let first = lists.share(list(0..2));
    assert!(Arc::ptr_eq(&first, &lists.share(list(0..2))));
    assert!(!Arc::ptr_eq(&first, &lists.share(list(0..3))));
    // Types that look alike are others: those of another configuration.
    let alike: Arc<[Arc<InstanceType>]> = first.iter().map(|one| Arc::new((**one).clone())).collect();
    assert!(!Arc::ptr_eq(&first, &lists.share(alike)));
}
