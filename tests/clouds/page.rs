//! The page about programs for the driver `exec`: its example is one.

use std::sync::Arc;

use muster::cloud::CloudError;
use muster::cloud::boot::Boot;
use muster_ssh_hosts::client_key;

use crate::contract;
use crate::rig::{Reach, Rig};
use crate::rigs::{example, exec_driver};
use crate::support::{install, instance_type, log};

#[test]
fn the_example_of_the_page() {
    log();
    let page = std::fs::read_to_string(example("README.md")).expect("there");
    let rest = page.split_once("```python\n").expect("an example").1;
    let folder = tempfile::tempdir().expect("a folder");
    let program = folder.path().join("program");
    install(rest.split_once("```").expect("its end").0, &program);
    let file = folder.path().join("machines.json");
    let parameters = serde_json::json!({ "file": file });
    let key = client_key().expect("made");
    let left = move || -> Vec<String> {
        let text = std::fs::read_to_string(&file).expect("there");
        if text == "{}" { Vec::new() } else { vec![text] }
    };
    contract::check(&Rig {
        name: "exec with the page's example",
        open: Box::new(move || Arc::new(exec_driver(&program, &parameters, &key))),
        shared: true,
        instance_type: instance_type("small"),
        boot: Boot::default(),
        full: Some((3, |error| matches!(error, CloudError::Quota { .. }))),
        reach: Reach::Nothing,
        prices: false,
        unknown_id: "machine-0123456789abcdef",
        faulty: false,
        leftovers: Box::new(left),
        errors: Default::default(),
    });
}
