//! What a worker says of itself, which binary it gets, and runners that are there already.

use std::collections::BTreeMap;

use super::*;
use crate::remote::scripted::Scripted;

/// Deploys without a directory that is known; the error, and the programs that were run.
fn with_home(answer: &str) -> (String, Vec<Program>) {
    let executor = Arc::new(Scripted { stdout: answer.to_owned(), ..Scripted::default() });
    let error = refused(deploy(&runner(executor.clone(), RunnerSupply::of_binary(fake("one", 0), None))));
    let asked = executor.asked.lock().drain(..).map(|one| one.program).collect();
    (error, asked)
}

#[test]
fn odd_home_directories_are_refused() {
    for home in
        ["", "/", "root", "/home/a b", "/home/$(id)", "/home/'", "/home/../etc", "~", "/home/\u{e9}", "/home/;x"]
    {
        let (error, asked) = with_home(&format!("{home}\n"));
        let part = format!("the home directory of the login user is {home:?}: set DeployRunnerDirectory");
        assert!(error.contains(&part), "{error}");
        assert_eq!(asked, [Program::Shell(r#"printf '%s\n' "$HOME""#.to_owned())]);
    }
}

/// The home of one user is not asked for twice, and is not that of another.
#[test]
fn each_login_user_has_a_home() {
    let executor = Arc::new(Scripted { stdout: "/home/one\n".to_owned(), ..Scripted::default() });
    let runner = runner(executor.clone(), RunnerSupply::of_binary(fake("one", 0), None));
    let asked_for_home = || {
        refused(deploy(&runner));
        executor.asked.lock().drain(..).any(|one| matches!(one.program, Program::Shell(_)))
    };
    for (user, expected) in [("one", true), ("one", false), ("two", true), ("two", false)] {
        runner.retarget("host", user);
        assert_eq!(asked_for_home(), expected, "{user}");
    }
}

proptest::proptest! {
    /// Whatever a worker says of its home directory: no path gets any further that a shell could read as something else.
    #[test]
    fn only_plain_paths_get_any_further(home in "(/|/home/)?([a-z./_-]|\\PC|[ '\"$`\\\\;&|<>*?~#!\n]){0,12}") {
        let (_, asked) = with_home(&home);
        let first = home.lines().next().unwrap_or_default();
        let is_plain = first.starts_with('/') && first.len() > 1 && !first.split('/').any(|part| part == "..")
            && first.chars().all(|letter| letter.is_ascii_alphanumeric() || "._/-".contains(letter));
        proptest::prop_assert_eq!(asked.len() > 1, is_plain, "{:?}", asked);
        if let Some(Program::Arguments(words)) = asked.get(1) {
            proptest::prop_assert_eq!(&words[5], &format!("{}/.cache/muster-runner/bin", first.trim_end_matches('/')));
        }
    }
}

/// An answer that is none, and a sudo that does not work.
#[test]
fn answers_that_make_no_sense() {
    for (stdout, stderr, parts) in [
        ("", "", &["cannot be used", "answered \"\""][..]),
        ("Welcome!\n", "", &["answered \"Welcome!\""]),
        ("ok relative/path\n", "", &["answered \"ok relative/path\""]),
        ("ok /x/y\nmuster 1\n", "", &["/x/y cannot be used", "not a muster-runner"]),
        ("", "sudo: a password is required", &["sudo: a password is required", "sudo without a password"]),
        ("", "sh: sudo: not found", &["must be root, or be allowed sudo"]),
    ] {
        let executor =
            Arc::new(Scripted { stdout: stdout.to_owned(), stderr: stderr.to_owned(), ..Scripted::default() });
        let supply = RunnerSupply::of_binary(fake("one", 0), Some("/opt/m".to_owned()));
        let error = refused(deploy(&runner(executor, supply)));
        assert!(parts.iter().all(|part| error.contains(part)), "{stdout:?} {stderr:?}: {error}");
    }
}

#[test]
fn each_architecture_has_its_binary() {
    let site = Site::new();
    let file = |name: &str| {
        std::fs::write(site.path(name), &*fake(name, 0).bytes).expect("written");
        site.path(name)
    };
    let this = std::env::consts::ARCH;
    let directory = site.path("bin");
    let of = |names: &[&str]| {
        let paths: BTreeMap<_, _> = names.iter().map(|name| ((*name).to_owned(), file(name))).collect();
        RunnerSupply::new(RunnerFiles::ByArchitecture(paths), Some(text(&directory)))
    };
    let executor = Behind::new(&[], is_root());
    let both = runner(executor.clone(), of(&["other", this]));
    deploy(&both).expect("installs");
    assert_eq!(executor.count(), 3, "uname, check, install");
    deploy(&both).expect("is there");
    assert_eq!((executor.count(), names(&directory)), (1, vec![name(&fake(this, 0))]), "asked once");

    let error = refused(deploy(&runner(executor.clone(), of(&["other", "another"]))));
    let part = format!(
        "no runner for the architecture {this}: set Muster.Runner.Binaries.{this} to the file (there is one for another, other)"
    );
    assert!(error.contains(&part), "{error}");
    executor.count();
    deploy(&runner(executor.clone(), of(&["other"]))).expect("the only one is for all");
    assert_eq!(executor.count(), 2, "nothing is asked");
}

#[test]
fn pre_installed_runners_are_used_as_they_are() {
    let site = Site::new();
    let program = site.path("my-runner");
    std::fs::write(site.path("source"), &*fake("mine", 0).bytes).expect("written");
    copy_program(&site.path("source"), &program);
    let of = |program: &str| {
        let supply = RunnerSupply::new(RunnerFiles::PreInstalled(program.to_owned()), None);
        runner(Behind::new(&[], is_root()), supply)
    };
    let mine = of(&text(&program));
    let deployment = deploy(&mine).expect("is there");
    assert_eq!((deployment.done, &*deployment.program), (Deployed::PreInstalled, &*text(&program)));
    assert_eq!(mine.facts().expect("asked for").cpus, 3);
    for (wrong, part) in [("/nonexistent/muster-runner", "cannot start"), ("/bin/true", "not a muster-runner")] {
        let runner = of(wrong);
        let error = refused(deploy(&runner));
        assert!(error.contains(wrong) && error.contains("CrunchRunCommand") && error.contains(part), "{error}");
        assert!(runner.program().is_err());
    }
}

/// No runner at all (spec 20 §7), and one that comes later.
#[test]
fn a_runner_that_cannot_be_loaded_is_a_failed_deployment() {
    let site = Site::new();
    let supply = RunnerSupply::new(RunnerFiles::One(site.path("missing")), Some(text(&site.path("bin"))));
    let runner = runner(Behind::new(&[], is_root()), supply);
    let error = deploy(&runner).expect_err("there is none");
    assert!(matches!(error, DeployError::NoRunner(_)), "{error:?}");
    assert!(error.text().starts_with("error loading runner binary "), "{}", error.text());
    std::fs::write(site.path("missing"), &*fake("late", 0).bytes).expect("written");
    assert!(runner.supply.reload());
    assert_eq!(deploy(&runner).expect("now there is one").done, Deployed::Installed);
}
