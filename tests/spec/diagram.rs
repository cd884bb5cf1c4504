//! The diagram of a worker's states is true. That no history makes a change which it lacks, [`crate::world`] checks after each event
//! of every test; here every row is met, and the page shows the table as it is.

use std::collections::BTreeSet;

use muster::core::worker::diagram::{self, Arrow, DIAGRAM};

use crate::world::World;

/// `b` cannot be killed, so the worker is drained; `a` is there as well, one way or another.
const UNKILLABLE: &str = "up i1; probe i1 ok b; kill b; wait 100;";

/// Ways along every arrow.
const WAYS: &[&str] = &[
    "list i1; list",
    "create t; list i1:s1; list",
    "create t; created 1 i1; created 1 i2",
    "list i1; probe i1 ok",
    "list i1; probe i1 ok a",
    "list i1; drain i1; probe i1 ok",
    "list i1; wait 601; probe i1 dead",
    "list i1; destroy i1; list",
    "booting 1 i1; probe i1 ok",
    "booting 1 i1; probe i1 ok a",
    "booting 1 i1; probe i1 ok broken",
    "booting 1 i1; wait 601; probe i1 dead",
    "booting 1 i1; drain i1",
    "create t; list i1:s1,drain; tick i1",
    "booting 1 i1; shutdown i1",
    "booting 1 i1; destroy i1",
    "up i1; start i1 a",
    "up i1; probe i1 ok a; probe i1 ok",
    "up i1; ruleout i1 a",
    "up i1; wait 61; probe i1 ok",
    "up i1; wait 601; probe i1 dead",
    "up i1; drain i1",
    "up i1; wait 59; probe i1 ok; wait 2; tick i1",
    "up i1; shutdown i1",
    "up i1; destroy i1",
    "up i1; list",
    "up i1; start i1 a; refused a",
    "plain; up i1; probe i1 ok a; kill a; gone a",
    "up i1; probe i1 ok a; wait 601; probe i1 dead",
    "up i1; probe i1 ok a; kill a; gone a; jump 601; ruleout i1 a@2",
    "up i1; hold i1; probe i1 ok a; kill a; wait 121; drain i1",
    "up i1; probe i1 ok a; kill a; wait 121",
    "up i1; start i1 a; destroy i1",
    "up i1; start i1 a; list",
];

#[test]
fn every_arrow_is_met() {
    let beside_unkillable = [
        format!("{UNKILLABLE} probe i1 ok a, b; wait 21; probe i1 ok b"),
        format!("{UNKILLABLE} start i1 a; wait 21; refused a"),
        format!("plain; {UNKILLABLE} probe i1 ok a, b; kill a; wait 21; gone a"),
        format!("{UNKILLABLE} probe i1 ok b, a finished; wait 21; collected a; forgotten a"),
        format!("{UNKILLABLE} probe i1 ok b, a finished; wait 301; tick i1"),
    ];
    let mut met: BTreeSet<Arrow> = BTreeSet::new();
    for events in WAYS.iter().copied().chain(beside_unkillable.iter().map(String::as_str)) {
        let mut world = World::new();
        world.run(events);
        met.append(&mut world.arrows);
    }
    let missed: Vec<_> = DIAGRAM.iter().filter(|row| !met.contains(&row.arrow)).collect();
    assert!(missed.is_empty(), "{missed:#?}");
}

#[test]
fn every_arrow_is_there_once() {
    let arrows: BTreeSet<_> = DIAGRAM.iter().map(|row| row.arrow).collect();
    assert_eq!(arrows.len(), DIAGRAM.len());
}

/// The lines between the marks on the page. `MUSTER_WRITE_DIAGRAM=1` writes them anew.
#[test]
fn the_page_shows_the_diagram() {
    const BEGIN: &str = "<!-- begin of the diagram -->\n```text\n";
    const END: &str = "```\n<!-- end of the diagram -->\n";
    let path = "src/ARCHITECTURE.md";
    let page = std::fs::read_to_string(path).expect("readable");
    let (before, rest) = page.split_once(BEGIN).expect("the first mark");
    let (shown, after) = rest.split_once(END).expect("the last mark");
    if std::env::var_os("MUSTER_WRITE_DIAGRAM").is_some() {
        std::fs::write(path, [before, BEGIN, &diagram::text(), END, after].concat()).expect("written");
    } else {
        assert_eq!(shown, diagram::text(), "MUSTER_WRITE_DIAGRAM=1 writes it anew");
    }
}
