//! Programs of the driver `exec` as processes: how many, how long, and what is left of them (spec 46 §2).

use std::sync::Arc;
use std::time::{Duration, Instant};

use muster::cloud::boot::Boot;
use muster::cloud::exec::{ExecCloud, ExecOptions};
use muster::cloud::{CloudError, InstanceSet, NewInstance};
use muster::core::effect::{Ending, Tags};
use muster::core::errors::chain;

use crate::exec::{Site, create, id};
use crate::support::{LIMIT, instance_type, log, new_secret, order, process_state, wait_until};

fn gone(pid: &str) -> bool {
    process_state(pid.trim()).is_none()
}

fn is_dead(pid: &str) -> bool {
    gone(pid) || process_state(pid.trim()) == Some('Z')
}

/// For times that have to pass, and that a busy machine may need more of: tries again with twice as much until it was enough.
fn with_enough_time(mut attempt: impl FnMut(Duration) -> bool) {
    let mut time = Duration::from_millis(250);
    while !attempt(time) {
        time *= 2;
        assert!(time < LIMIT, "no time is enough");
    }
}

fn driver_with(site: &Site, timeout: Duration, script: &str) -> Result<ExecCloud, CloudError> {
    let options = site.options(&site.install(script));
    ExecCloud::open(ExecOptions { timeout, ..options })
}

/// Killed with its whole group: a child that has the streams, one that ignores TERM, and a grandchild.
#[test]
fn a_timeout_ends_the_group() {
    with_enough_time(|timeout| {
        let site = Site::new();
        let script = "trap '' TERM; sleep 1000 & echo $! >\"$here/child\"
            (sleep 1000 & echo $! >\"$here/grandchild\"; wait) & echo working >&2; until test -s \"$here/grandchild\"; do :; done
            echo $$ >\"$here/pid\"; sleep 1000";
        let Ok(driver) = driver_with(&site, timeout, script) else { return false };
        let error = create(&driver, &new_secret()).expect_err("it never ends");
        if site.read("pid").is_empty() {
            return false;
        }
        let text = chain(&error);
        assert!(text.contains("create failed: it did not end within ") && text.contains("it said: working"), "{text}");
        assert!(matches!(error, CloudError::Other { .. }));
        // Reaped, so no zombie either.
        assert!(gone(&site.read("pid")));
        for name in ["child", "grandchild"] {
            // They are somebody else's children now, who may take a moment to reap them.
            wait_until("they are gone", || is_dead(&site.read(name)));
        }
        true
    });
}

/// The program's own end is what counts. What it leaves behind, which may be its instance, is not waited for, nor killed.
#[test]
fn what_a_program_leaves_behind() {
    let site = Site::new();
    let driver = site.open(
        "sleep 1000 & echo $! >\"$here/left\"; echo $$ >\"$here/pid\"
        echo '{\"instance\": {\"id\": \"i\"}}'",
    );
    create(&driver, &new_secret()).expect("answered");
    assert!(gone(&site.read("pid")));
    let left = site.read("left").trim().to_owned();
    assert!(process_state(&left).is_some_and(|state| state != 'Z'));
    let status = std::process::Command::new("kill").args(["-KILL", &left]).status().expect("kill runs");
    assert!(status.success());
}

/// However a program ends, it is no zombie.
#[test]
fn no_zombies() {
    let site = Site::new();
    let driver = site.open("echo $$ >\"$here/pid\"; . \"$here/script\"");
    for script in ["echo '{}'", "exit 5", "kill -9 $$", "exec >&- 2>&-; exit 0", "exec <&-; echo '{}'"] {
        site.write("script", script);
        let _ = driver.destroy(&id("i"), None, Ending::Unwanted);
        let pid = site.read("pid");
        assert!(!pid.is_empty() && gone(&pid), "{script}");
    }
}

/// 64 MiB are taken, one byte more is not, and what would write for ever is ended.
#[test]
fn output_has_a_limit() {
    let site = Site::new();
    let driver = site.open("echo $$ >\"$here/pid\"; printf '{\"instances\": []'; . \"$here/script\"");
    for (script, expected) in [
        ("head -c 67108847 /dev/zero | tr '\\0' ' '; printf '}'", None),
        (
            "head -c 67108848 /dev/zero | tr '\\0' ' '; printf '}'",
            Some("it wrote more than 67108864 bytes and was killed"),
        ),
        ("sleep 1000 & echo $! >\"$here/child\"; yes", Some("it wrote more than 67108864 bytes and was killed")),
        ("echo begun >&2; exec yes", Some("it wrote more than 67108864 bytes and was killed; it said: begun")),
    ] {
        site.write("script", script);
        match (driver.list(&Tags::new()), expected) {
            (Ok(all), None) => assert!(all.is_empty()),
            (Err(error), Some(part)) => assert!(chain(&error).contains(part), "{error:?}"),
            (other, _) => panic!("{script}: {other:?}"),
        }
        assert!(gone(&site.read("pid")), "{script}");
    }
    wait_until("its group is gone too", || is_dead(&site.read("child")));
}

/// Input that cannot be meant is not even tried.
#[test]
fn input_has_a_limit() {
    let site = Site::new();
    let driver = site.open("wc -c >\"$here/count\"; echo '{}'");
    // More than a pipe holds.
    let tags = |bytes: usize| Tags::from_iter([("big".to_owned(), "x".repeat(bytes))]);
    driver.set_tags(&id("i"), &tags(900_000)).expect("taken");
    assert!(site.read("count").trim().parse::<usize>().expect("a number") > 900_000);
    site.write("count", "");
    let error = driver.set_tags(&id("i"), &tags(2_000_000)).expect_err("too much");
    assert!(chain(&error).contains("its input has more than 1048576 bytes"), "{error:?}");
    assert_eq!(site.read("count"), "");
}

/// A program that reads late, and says much before: nobody waits for the other.
#[test]
fn all_streams_at_once() {
    let site = Site::new();
    let driver = site.open(
        "head -c 300000 /dev/zero | tr '\\0' ' '; head -c 300000 /dev/zero | tr '\\0' 'e' >&2
        wc -c >\"$here/count\"; echo '{}'",
    );
    driver.set_tags(&id("i"), &Tags::from_iter([("big".to_owned(), "x".repeat(900_000))])).expect("answered");
    assert!(site.read("count").trim().parse::<usize>().expect("a number") > 900_000);
}

/// Creates that hang leave room for what lists, and what ends instances. One that nobody wants any more is not begun.
#[test]
fn creates_that_hang() {
    let site = Site::new();
    let driver = site.open(
        "if [ \"$1\" = create ]; then echo >>\"$here/creates\"; until test -e \"$here/go\"; do sleep 0.01; done; fi
        echo '{\"instance\": {\"id\": \"i\"}, \"instances\": []}'",
    );
    let begun = || site.read("creates").lines().count();
    std::thread::scope(|scope| {
        let creates: Vec<_> = (0..9).map(|_| scope.spawn(|| create(&driver, &new_secret()))).collect();
        wait_until("five are there", || begun() == 5);
        assert!(driver.list(&Tags::new()).expect("answered").is_empty());
        driver.destroy(&id("i"), None, Ending::Unwanted).expect("answered");
        driver.set_tags(&id("i"), &Tags::new()).expect("answered");
        let boot_order = || order(&Boot::default(), &instance_type("small"), &new_secret());
        let unwanted = NewInstance { wanted_until: Instant::now(), ..boot_order() };
        let text = chain(&driver.create(&unwanted).expect_err("not begun"));
        assert!(text.contains("it waited too long for its turn"), "{text}");
        assert_eq!(begun(), 5);
        // The same of one like which another was refused while it waited.
        let refused = boot_order();
        let throttle = CloudError::RateLimit { message: "slowly".to_owned(), retry_after: Duration::from_secs(3600) };
        refused.refusals.note(&refused.instance_type, &throttle);
        site.write("go", "");
        let error = driver.create(&refused).expect_err("not begun");
        assert!(matches!(error, CloudError::RateLimit { .. }), "{error:?}");
        assert!(creates.into_iter().all(|create| create.join().expect("no panic").is_ok()));
    });
    assert_eq!(begun(), 9);
}

/// Calls of one kind that hang, as many as the dispatcher can have, stop no other kind.
#[test]
fn one_kind_that_hangs() {
    let site = Site::new();
    let driver = site.open(
        "if [ \"$1\" = destroy ]; then echo >>\"$here/destroys\"; until test -e \"$here/go\"; do sleep 0.01; done; fi
        echo '{\"instance\": {\"id\": \"i\"}, \"instances\": []}'",
    );
    std::thread::scope(|scope| {
        let destroy = || driver.destroy(&id("i"), None, Ending::Unwanted);
        let hanging: Vec<_> = (0..9).map(|_| scope.spawn(destroy)).collect();
        wait_until("as many hang as may", || site.read("destroys").lines().count() == 5);
        assert!(driver.list(&Tags::new()).expect("answered").is_empty());
        create(&driver, &new_secret()).expect("answered");
        driver.set_tags(&id("i"), &Tags::new()).expect("answered");
        assert_eq!(site.read("destroys").lines().count(), 5);
        site.write("go", "");
        assert!(hanging.into_iter().all(|call| call.join().expect("no panic").is_ok()));
    });
}

/// Eight run; the others wait, and run when there is room.
#[test]
fn eight_at_a_time() {
    let site = Site::new();
    std::fs::create_dir(site.path("running")).expect("made");
    // Each counts those that run, while it does.
    let driver = site.open(
        ": >\"$here/running/$$\"; set -- \"$here\"/running/*; echo $# >>\"$here/counts\"
        until test -e \"$here/go\"; do sleep 0.01; done; rm \"$here/running/$$\"
        echo '{\"instance\": {\"id\": \"i\"}, \"instances\": []}'",
    );
    let running = || std::fs::read_dir(site.path("running")).expect("there").count();
    let call = |number: usize| match number % 4 {
        0 => create(&driver, &new_secret()).map(drop),
        1 => driver.list(&Tags::new()).map(drop),
        2 => driver.destroy(&id("i"), None, Ending::Unwanted),
        _ => driver.set_tags(&id("i"), &Tags::new()),
    };
    std::thread::scope(|scope| {
        let calls: Vec<_> = (0..20).map(|number| scope.spawn(move || call(number))).collect();
        wait_until("eight run", || running() == 8);
        // Those eight wait for this; whoever were let in beside them would count more than eight below.
        site.write("go", "");
        for call in calls {
            call.join().expect("no panic").expect("answered");
        }
    });
    assert_eq!(running(), 0);
    let counts: Vec<usize> = site.read("counts").lines().map(|line| line.parse().expect("a number")).collect();
    // The last of the eight may have been let on before it counted.
    assert!(counts.len() == 20 && counts.iter().all(|count| *count <= 8), "{counts:?}");
}

/// A call that waits longer for its turn than Timeout has all of Timeout then.
#[test]
fn waiting_is_not_the_programs_time() {
    with_enough_time(|timeout| {
        let site = Site::new();
        let script = "test -e \"$here/answer\" || { echo >>\"$here/holding\"; exec sleep 1000; }; echo '{}'";
        let Ok(driver) = driver_with(&site, timeout, script) else { return false };
        std::thread::scope(|scope| {
            let hold = || driver.set_tags(&id("i"), &Tags::new());
            let holding: Vec<_> = (0..5).map(|_| scope.spawn(hold)).collect();
            // One that is late on a busy machine lets others go first: then this attempt shows nothing.
            let mut in_time = true;
            wait_until("all turns are taken", || {
                in_time = !holding.iter().any(std::thread::ScopedJoinHandle::is_finished);
                !in_time || site.read("holding").lines().count() == 5
            });
            // Each gets its turn when a whole Timeout has passed for the five.
            site.write("answer", "");
            let waiting: Vec<_> = (0..5).map(|_| scope.spawn(hold)).collect();
            let results: Vec<_> = waiting.into_iter().map(|call| call.join().expect("no panic")).collect();
            in_time && results.iter().all(Result::is_ok)
        })
    });
}

/// Lines come to the log while the program runs, whatever is in them.
#[test]
fn standard_error_is_logged_line_by_line() {
    let site = Site::new();
    let mark = new_secret();
    let mark = mark.reveal();
    let driver = site.open(&format!(
        "printf 'one {mark}\\n\\ntwo {mark} \\377 \\033[2J \"q\"\\n' >&2; until test -e \"$here/go\"; do sleep 0.01; done
        printf 'three {mark}' >&2; echo '{{}}'"
    ));
    let lines = || -> Vec<String> { log().lines().filter(|line| line.contains(mark)).map(str::to_owned).collect() };
    std::thread::scope(|scope| {
        let call = scope.spawn(|| driver.set_tags(&id("i"), &Tags::new()));
        wait_until("the first lines are logged", || lines().len() == 2);
        assert!(!call.is_finished());
        site.write("go", "");
        call.join().expect("no panic").expect("answered");
    });
    let lines = lines();
    assert_eq!(lines.len(), 3, "{lines:?}");
    assert!(lines.iter().all(|line| line.contains("target=cloud") && line.contains("Operation=set-tags")), "{lines:?}");
    assert!(lines[1].contains(&format!("two {mark} \\\\xff \\u001b[2J \\\"q\\\"")), "{}", lines[1]);
}

/// What changes something ends by itself and its answer is taken; what reads is killed; what waits never begins.
#[test]
fn a_stop() {
    let site = Site::new();
    let script = "echo $$ >>\"$here/$1\"; until test -e \"$here/go\"; do sleep 0.01; done; echo '{\"instance\": {\"id\": \"i\"}}'";
    let driver = Arc::new(site.open(script));
    let count = |verb: &str| site.read(verb).lines().count();
    std::thread::scope(|scope| {
        let creates: Vec<_> = (0..5).map(|_| scope.spawn(|| create(&driver, &new_secret()))).collect();
        let set_tags = || driver.set_tags(&id("i"), &Tags::new());
        let change = scope.spawn(set_tags);
        let list = scope.spawn(|| driver.list(&Tags::new()));
        wait_until("all run", || count("create") == 5 && count("set-tags") == 1 && count("list") == 1);
        // The eighth turn is a destroy's.
        let waiting = scope.spawn(set_tags);
        driver.stop();
        // Nobody but the log's readers can end one that hangs, once the daemon is gone.
        let program = site.path("program").display().to_string();
        let told = log().lines().any(|line| {
            line.contains("level=warn") && line.contains(&program) && line.contains("Creates=5 Destroys=0 SetTags=1")
        });
        assert!(told, "{}", log());
        let stopped = [list.join().expect("no panic").map(drop), waiting.join().expect("no panic")];
        for (result, part) in stopped.into_iter().zip(["it was killed, since", "it was not started, since"]) {
            let text = chain(&result.expect_err("stopped"));
            assert!(text.contains(part), "{text}");
        }
        assert!(gone(&site.read("list")));
        assert!(creates.iter().all(|create| !create.is_finished()));
        site.write("go", "");
        for create in creates {
            assert_eq!(create.join().expect("no panic").expect("it has ended by itself").id, id("i"));
        }
        change.join().expect("no panic").expect("it has ended by itself");
    });
    assert_eq!(count("set-tags"), 1);
    let text = chain(&create(&driver, &new_secret()).expect_err("no more"));
    assert!(text.contains("the dispatcher stops"), "{text}");
}

/// The daemon may die before a create has ended: the machine is made all the same, also by a program that still has something to say.
#[test]
fn a_create_outlives_the_daemon() {
    const ROLE: &str = "MUSTER_TEST_PROGRAM";
    let script = "trap '' PIPE; : >\"$here/begun\"; until test -e \"$here/go\"; do sleep 0.01; done
        echo progress >&2; : >\"$here/made\"; echo '{\"instance\": {\"id\": \"i\"}}'";
    let site = Site::new();
    if let Some(program) = std::env::var_os(ROLE) {
        // This is the daemon.
        let driver = ExecCloud::open(site.options(std::path::Path::new(&program))).expect("opens");
        let _ = create(&driver, &new_secret());
        return;
    }
    let mut daemon = std::process::Command::new(std::env::current_exe().expect("known"))
        .args(["--exact", "exec_runs::a_create_outlives_the_daemon"])
        .env(ROLE, site.install(script))
        // It has no time to tidy up.
        .env("TMPDIR", site.path(""))
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("starts");
    wait_until("the create has begun", || site.path("begun").exists());
    daemon.kill().expect("killed");
    daemon.wait().expect("ended");
    site.write("go", "");
    wait_until("the machine is made", || site.path("made").exists());
}
