//! Submissions: all or none, tokens, batches, refusals; lists and states.

use super::*;
use ContainerState::{Cancelled, Locked, Queued};

#[test]
fn uuids_are_well_formed_different_and_in_order() {
    let bench = bench();
    let requests: Vec<_> = (0..50).map(|n| ContainerRequest { name: format!("n{n}"), ..request() }).collect();
    let uuids = bench.queue.submit(requests, None).unwrap();
    assert!(uuids.iter().all(|uuid| uuid.cluster_id() == "local"));
    let listed = bench.queue.list(&ListFilter::default()).unwrap().containers;
    let oldest_first: Vec<_> = listed.iter().rev().map(|container| container.uuid.clone()).collect();
    assert_eq!(oldest_first, uuids);
    assert_eq!(bench.record(&uuids[7]).request.name, "n7");
    let snapshot = bench.queue.snapshot();
    assert!(snapshot.entries[&uuids[3]].first_seen < snapshot.entries[&uuids[4]].first_seen);
}

#[test]
fn nothing_of_a_refused_submission_is_stored() {
    let bench = bench_with(|options| options.max_queued = 3);
    let unknown = ContainerUuid::parse("local-dz642-000000000000000").unwrap();
    for (spoilt, line, text) in [
        (ContainerRequest { command: vec![], ..request() }, Some(2), "line 2: command"),
        (
            ContainerRequest { vcpus: 9, ..request() },
            Some(2),
            "line 2: runtime_constraints: constraints not satisfiable",
        ),
        (ContainerRequest { after: vec![unknown], ..request() }, Some(2), "line 2: after: there is no container"),
    ] {
        let error = bench.queue.submit(vec![request(), spoilt], Some("token")).unwrap_err();
        assert!(error.to_string().starts_with(text), "{error}");
        assert!(matches!(error, CommandError::Invalid { line: found, .. } if found == line));
    }
    let error = bench.queue.submit(vec![request(); 4], Some("token")).unwrap_err();
    assert!(matches!(error, CommandError::TooMany { adding: 4, waiting: 0, limit: 3 }), "{error}");
    assert!(bench.queue.submit(vec![], None).is_err());
    assert!(bench.queue.list(&ListFilter::default()).unwrap().containers.is_empty());
    assert!(bench.queue.snapshot().entries.is_empty());
    bench.queue.submit(vec![request(); 3], Some("token")).unwrap();
    assert!(bench.queue.submit(vec![request()], None).is_err());
    let error = bench.queue.submit(vec![ContainerRequest { command: vec![], ..request() }], None).unwrap_err();
    assert!(error.to_string().starts_with("command"), "{error}");
}

#[test]
fn a_token_gives_the_same_uuids_again() {
    let bench = bench();
    let uuids = bench.queue.submit(vec![request(); 3], Some("t")).unwrap();
    assert_eq!(bench.queue.submit(vec![request(); 3], Some("t")).unwrap(), uuids);
    let bench = bench.reopen();
    assert_eq!(bench.queue.submit(vec![request(); 3], Some("t")).unwrap(), uuids);
    assert_ne!(bench.queue.submit(vec![request(); 3], Some("u")).unwrap(), uuids);
    assert_eq!(bench.queue.counts_by_state()[&Queued], 6);
    bench.queue.set_selector(cores("none", 0)).unwrap();
    assert!(bench.queue.submit(vec![request(); 3], Some("v")).is_err(), "no type has what it asks for now");
    assert_eq!(bench.queue.submit(vec![request(); 3], Some("t")).unwrap(), uuids);
    for bad in [String::new(), "x".repeat(201)] {
        assert!(bench.queue.submit(vec![request()], Some(&bad)).is_err());
    }
}

#[test]
fn one_token_from_many_threads_is_one_submission() {
    let bench = bench();
    let all: Vec<_> = thread::scope(|scope| {
        let submit = || bench.queue.submit(vec![request(); 5], Some("t")).unwrap();
        let threads: Vec<_> = (0..8).map(|_| scope.spawn(submit)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(all.iter().all(|uuids| uuids == &all[0]));
    assert_eq!(bench.queue.counts_by_state()[&Queued], 5);
}

#[test]
fn a_batch_grows_in_pieces_and_is_committed_as_one() {
    let bench = bench();
    let batch = bench.queue.create_batch().unwrap();
    for (piece, lines) in
        [("{\"command\":[\"a\"]}\n\n{\"com", 3), ("mand\":[\"b\"]}\r\n", 3), ("{\"command\":[\"c\"]}", 4)]
    {
        assert_eq!(bench.queue.append_batch(&batch, piece.as_bytes()).unwrap(), lines);
    }
    assert!(bench.queue.snapshot().entries.is_empty());
    let bench = bench.reopen();
    let uuids = bench.queue.commit_batch(&batch, Some("t")).unwrap();
    let commands: Vec<_> = uuids.iter().map(|uuid| bench.record(uuid).request.command[0].clone()).collect();
    assert_eq!(commands, ["a", "b", "c"]);
    assert_eq!(bench.queue.commit_batch(&batch, Some("t")).unwrap(), uuids);
    assert!(matches!(bench.queue.commit_batch(&batch, None), Err(CommandError::NoSuchBatch(_))));
    assert!(matches!(bench.queue.append_batch(&batch, b""), Err(CommandError::NoSuchBatch(_))));
}

#[test]
fn faults_of_a_batch_name_the_line_and_can_be_mended() {
    let bench = bench();
    for (text, message) in [
        ("{\"command\":[\"a\"]}\n\n{\"comand\":[\"b\"]}\n", "line 3: comand: unknown field; did you mean command?"),
        (
            "{\"command\":[\"a\"]}\n{\"command\":[\"b\"],\"vcpus\":-1}",
            "line 2: runtime_constraints.vcpus: -1 is negative",
        ),
        ("{\"command\":[\"a\"]}\n{\"command\":[\"b\"],\"vcpus\":9}", "line 2: runtime_constraints: constraints not"),
        ("\n\n", "record: nothing to submit"),
    ] {
        let batch = bench.queue.create_batch().unwrap();
        bench.queue.append_batch(&batch, text.as_bytes()).unwrap();
        let error = bench.queue.commit_batch(&batch, None).unwrap_err();
        assert!(error.to_string().starts_with(message), "{error}");
    }
    assert_eq!(bench.queue.counts_by_state()[&Queued], 0);
    let batch = bench.queue.create_batch().unwrap();
    assert!(matches!(bench.queue.append_batch(&batch, vec![b'x'; MAX_PIECE + 2]), Err(CommandError::TooLarge(_))));
    bench.queue.append_batch(&batch, vec![b'x'; MAX_RECORD + 1]).unwrap();
    let error = bench.queue.commit_batch(&batch, None).unwrap_err();
    assert!(error.to_string().starts_with("line 1: record: longer than"), "{error}");
}

#[test]
fn batches_vanish_ten_minutes_after_their_last_piece() {
    let bench = bench();
    let (old, fresh) = (bench.queue.create_batch().unwrap(), bench.queue.create_batch().unwrap());
    bench.queue.append_batch(&old, b"{}").unwrap();
    bench.later(5 * 60_000);
    bench.queue.append_batch(&fresh, b"{\"command\":[\"a\"]}").unwrap();
    bench.later(5 * 60_000);
    assert_eq!(bench.queue.expire_batches().unwrap(), 0);
    bench.later(1);
    assert_eq!(bench.queue.expire_batches().unwrap(), 1);
    assert!(matches!(bench.queue.commit_batch(&old, None), Err(CommandError::NoSuchBatch(_))));
    assert_eq!(bench.queue.commit_batch(&fresh, None).unwrap().len(), 1);
}

#[test]
fn a_hundred_thousand_in_one_array() {
    let bench = bench();
    let all = array(MAX_ARRAY);
    let uuids = bench.queue.submit(all, Some("array")).unwrap();
    assert_eq!(uuids.len(), 100_000);
    assert_eq!(bench.queue.snapshot().entries.len(), 100_000);
    let bench = bench.reopen();
    let snapshot = bench.queue.snapshot();
    assert_eq!(snapshot.entries.len(), 100_000);
    let last = &snapshot.entries[&uuids[99_999]];
    assert_eq!((last.container.request.array_index, last.first_seen), (Some(100_000), 100_000));
    drop(snapshot);
    bench.queue.lock(&uuids[50_000]).unwrap();
    assert_eq!((bench.queue.counts_by_state()[&Queued], bench.queue.counts_by_state()[&Locked]), (99_999, 1));
    assert_eq!(bench.queue.submit(vec![request()], Some("array")).unwrap(), uuids);
}

#[test]
fn lists_are_filtered_and_paged() {
    let bench = bench();
    let named = |name: &str| bench.submit(ContainerRequest { name: name.to_owned(), ..request() });
    let uuids = [named("a1"), named("b1"), named("a2"), named("a3"), named("")];
    bench.queue.cancel(&uuids[2], "x").unwrap();
    let list = |filter: &ListFilter| {
        let page = bench.queue.list(filter).unwrap();
        let numbers: Vec<_> = page
            .containers
            .iter()
            .map(|container| uuids.iter().position(|uuid| *uuid == container.uuid).unwrap())
            .collect();
        (numbers, page.next)
    };
    let glob = |text: &str| ListFilter { name_glob: Some(text.to_owned()), ..ListFilter::default() };
    assert_eq!(list(&ListFilter::default()), (vec![4, 3, 2, 1, 0], None));
    assert_eq!(list(&glob("a*")).0, [3, 2, 0]);
    assert_eq!(list(&ListFilter { state: Some(Cancelled), ..glob("a*") }).0, [2]);
    assert_eq!(list(&ListFilter { state: Some(Queued), ..glob("{a,b}1") }).0, [1, 0]);
    let some = Some([uuids[0].clone(), uuids[2].clone()].into_iter().collect());
    assert_eq!(list(&ListFilter { uuids: some.clone(), ..ListFilter::default() }).0, [2, 0]);
    assert_eq!(list(&ListFilter { uuids: some, state: Some(Queued), ..ListFilter::default() }).0, [0]);
    let (first, next) = list(&ListFilter { limit: 2, ..ListFilter::default() });
    assert_eq!(first, [4, 3]);
    assert_eq!(list(&ListFilter { limit: 9, after: next, ..ListFilter::default() }), (vec![2, 1, 0], None));
    for pattern in ["[", &"{".repeat(300), &"{".repeat(20_000), &"a".repeat(1001)] {
        assert!(matches!(bench.queue.list(&glob(pattern)), Err(CommandError::Invalid { .. })), "{pattern}");
    }
    let matching = |state, name, unfinished_only| {
        let found = bench.queue.matching(state, name, unfinished_only).unwrap();
        found.iter().map(|uuid| uuids.iter().position(|known| known == uuid).unwrap()).collect::<Vec<_>>()
    };
    assert_eq!(matching(None, Some("a*"), false), [0, 2, 3], "oldest first");
    assert_eq!(matching(None, Some("a*"), true), [0, 3]);
    assert_eq!(matching(Some(Cancelled), None, false), [2]);
    assert_eq!(matching(Some(Queued), Some("{a,b}1"), true), [0, 1]);
    assert!(matches!(bench.queue.matching(None, Some("["), false), Err(CommandError::Invalid { .. })));
    let unknown = ContainerUuid::parse("local-dz642-000000000000000").unwrap();
    assert_eq!(
        bench.queue.states(&[uuids[2].clone(), unknown.clone()]).unwrap(),
        [(uuids[2].clone(), Some((Cancelled, None))), (unknown.clone(), None)]
    );
    assert!(bench.queue.show(&unknown).unwrap().is_none());
}

#[test]
fn rerun_submits_the_same_again() {
    let bench = bench();
    let first = bench.submit(ContainerRequest { name: "n".to_owned(), ..request() });
    let second = bench.submit(ContainerRequest { after: vec![first.clone()], priority: 9, ..request() });
    let again = bench.queue.rerun(&second).unwrap();
    assert_eq!(bench.record(&again).request, bench.record(&second).request);
    bench.queue.cancel(&first, "x").unwrap();
    let again = bench.queue.rerun(&first).unwrap();
    assert_eq!((bench.record(&again).state, bench.record(&again).request.name.as_str()), (Queued, "n"));
    let unknown = ContainerUuid::parse("local-dz642-000000000000000").unwrap();
    assert!(matches!(bench.queue.rerun(&unknown), Err(CommandError::Queue(QueueError::NotFound(_)))));
}

#[test]
fn what_fits_no_type_any_more_is_cancelled_unless_it_may_run() {
    for reload in [false, true] {
        let bench = bench();
        let request = ContainerRequest { vcpus: 4, ..request() };
        let waiting = bench.submit(request.clone());
        let locked = bench.submit(request.clone());
        bench.queue.lock(&locked).unwrap();
        let out = bench.assigned(request.clone());
        let small = bench.submit(ContainerRequest { vcpus: 1, ..request.clone() });
        let held = bench.submit(ContainerRequest { priority: 0, ..request });
        bench.queue.forget(&held);
        let bench = if reload {
            bench.queue.set_selector(cores("small", 2)).unwrap();
            bench
        } else {
            bench.reopen_with(|options| options.selector = cores("small", 2))
        };
        for uuid in [&waiting, &locked] {
            let record = bench.record(uuid);
            assert_eq!(record.state, Cancelled);
            assert!(record.runtime_status.error.contains("not satisfiable"));
        }
        let snapshot = bench.queue.snapshot();
        assert_eq!(snapshot.entries[&out].instance_types.len(), 0);
        assert_eq!(bench.record(&out).state, Locked);
        assert_eq!(snapshot.entries[&small].instance_types[0].name, "small");
        if reload {
            let error = bench.queue.set_priority(&held, 5).unwrap_err();
            assert!(error.to_string().contains("not satisfiable"), "{error}");
        }
        assert_consistent(&bench.queue);
    }
}
