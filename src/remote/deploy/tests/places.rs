//! Where the program goes, and where it must not go (spec 62 §3).

use std::os::unix::fs::symlink;

use super::*;

/// The home directory is asked for once, and everything below it is private.
#[test]
fn without_root_it_goes_below_the_home_directory() {
    if !is_root() {
        return;
    }
    let (site, binary) = (Site::new(), fake("one", 0));
    let home = site.path("home");
    make_dir(&home, 0o755);
    give_to_stranger(&home);
    let executor = Behind::stranger(&text(&home));
    let runner = runner(executor.clone(), RunnerSupply::of_binary(binary.clone(), None));
    let deployment = deploy(&runner).expect("installs");
    assert_eq!((deployment.done, executor.count()), (Deployed::Installed, 3), "home, check, install");
    let directory = home.join(".cache/muster-runner/bin");
    assert_eq!(&*deployment.program, text(&directory.join(name(&binary))));
    for part in [".cache", ".cache/muster-runner", ".cache/muster-runner/bin"] {
        assert_eq!(mode(&home.join(part)), 0o700, "{part}");
    }
    deploy(&runner).expect("is there");
    assert_eq!(executor.count(), 1, "the home directory is known");

    // Group and others may not write where it goes, even for the user himself.
    set_mode(&directory, 0o770);
    let error = refused(deploy(&runner));
    let part = format!("{} is writable for others", directory.display());
    assert!(error.contains(&part) && error.contains("DeployRunnerDirectory"), "{error}");
    set_mode(&directory, 0o700);
    std::os::unix::fs::chown(&home, Some(0), Some(0)).expect("root may");
    std::fs::remove_dir_all(home.join(".cache")).expect("removed");
    let error = refused(deploy(&runner));
    assert!(error.contains(&format!("cannot make {}/.cache", home.display())), "{error}");
}

#[test]
fn a_directory_that_others_may_write_is_refused() {
    let (site, binary) = (Site::new(), fake("one", 0));
    for (above, itself, good) in [
        (0o755, 0o755, true),
        (0o755, 0o711, true),
        (0o1777, 0o755, true),
        (0o777, 0o755, false),
        (0o775, 0o755, false),
        (0o757, 0o755, false),
        (0o755, 0o775, false),
        (0o755, 0o757, false),
        // What is protected is the file, not the name: a stranger could make it first.
        (0o755, 0o1777, false),
        (0o1777, 0o1777, false),
    ] {
        let (top, bin) = (site.path(&format!("{above:o}-{itself:o}")), format!("{above:o}-{itself:o}/bin"));
        make_dir(&site.path(&bin), itself);
        set_mode(&top, above);
        let result = deploy(&plain(&text(&site.path(&bin)), &binary));
        assert_eq!(result.is_ok(), good, "{bin}: {result:?}");
        if let Err(error) = result {
            let culprit = if above & 0o022 != 0 && above & 0o1000 == 0 { &top } else { &site.path(&bin) };
            let part =
                format!("{} is writable for others, who could swap the program: chmod go-w it", culprit.display());
            assert!(error.text().contains(&part), "{}", error.text());
            assert!(names(&site.path(&bin)).is_empty());
        }
    }
}

/// The right program in the wrong place is not run: it may be another one when it is.
#[test]
fn nothing_is_run_from_a_place_that_was_refused() {
    let (site, binary) = (Site::new(), fake("one", 0));
    let directory = site.path("bin");
    let runner = plain(&text(&directory), &binary);
    deploy(&runner).expect("installs");
    let program = runner.program().expect("known");
    set_mode(&directory, 0o777);
    let again = plain(&text(&directory), &binary);
    let error = refused(deploy(&again));
    assert!(error.contains("writable for others"), "{error}");
    assert!(again.program().is_err() && again.facts().is_err());
    assert_eq!(runner.program().expect("as before"), program, "what was found good is gone on with");
}

/// Nothing is made below a directory that is not safe, not even on the way.
#[test]
fn missing_directories_are_made_only_where_it_is_safe() {
    let (site, binary) = (Site::new(), fake("one", 0));
    let open = make_dir(&site.path("open"), 0o777);
    let error = refused(deploy(&plain(&format!("{open}/a/b"), &binary)));
    assert!(error.contains("writable for others"), "{error}");
    assert!(names(&site.path("open")).is_empty());
    std::fs::write(site.path("file"), "").expect("written");
    let error = refused(deploy(&plain(&text(&site.path("file/bin")), &binary)));
    assert!(error.contains("/file cannot be entered"), "{error}");
}

#[test]
fn directories_of_others_are_refused() {
    if !is_root() {
        return;
    }
    let (site, binary) = (Site::new(), fake("one", 0));
    for path in ["theirs", "theirs/bin", "sticky/theirs", "sticky/theirs/bin"] {
        let directory = site.path(path);
        make_dir(&site.path("sticky"), 0o1777);
        let owned = site.path(path.strip_suffix("/bin").unwrap_or(path));
        make_dir(&owned, 0o755);
        give_to_stranger(&owned);
        let error = refused(deploy(&plain(&text(&directory), &binary)));
        let part = format!("{} belongs to user {STRANGER}", owned.display());
        assert!(error.contains(&part) && error.contains("chown it to user 0"), "{path}: {error}");
        assert!(names(&owned).is_empty(), "{path}");
    }
}

/// Who became root by sudo is trusted, as root is; who is a user is not by that variable.
#[test]
fn the_login_user_behind_sudo_is_trusted() {
    if !is_root() {
        return;
    }
    let (site, binary) = (Site::new(), fake("one", 0));
    let theirs = make_dir(&site.path("theirs"), 0o755);
    give_to_stranger(&site.path("theirs"));
    let login = format!("SUDO_UID={STRANGER}");
    let supply = || RunnerSupply::of_binary(binary.clone(), Some(format!("{theirs}/bin")));
    deploy(&runner(Behind::new(&["env", &login], true), supply())).expect("installs");
    let other = Behind::new(&["setpriv", "--reuid=64124", "--clear-groups", "env", &login], false);
    let error = refused(deploy(&runner(other, supply())));
    assert!(error.contains(&format!("theirs belongs to user {STRANGER}")), "{error}");
}

/// A link of root's is followed, and from then on the place that it led to is what counts.
#[test]
fn links_are_resolved_once() {
    let (site, binary) = (Site::new(), fake("one", 0));
    let real = make_dir(&site.path("real"), 0o755);
    symlink("real", site.path("link")).expect("made");
    let runner = plain(&text(&site.path("link/bin")), &binary);
    let program = deploy(&runner).expect("installs").program;
    assert_eq!(&*program, format!("{real}/bin/{}", name(&binary)));
    std::fs::remove_file(site.path("link")).expect("there");
    assert!(runner.facts().is_ok(), "the link is not needed any more");

    make_dir(&site.path("open/bin"), 0o755);
    set_mode(&site.path("open"), 0o777);
    symlink("open", site.path("link")).expect("made");
    let error = refused(deploy(&plain(&text(&site.path("link/bin")), &binary)));
    assert!(error.contains(&format!("{} is writable for others", site.path("open").display())), "{error}");
    symlink("/nonexistent/place", site.path("dangling")).expect("made");
    let error = refused(deploy(&plain(&text(&site.path("dangling/bin")), &binary)));
    assert!(error.contains("/dangling cannot be entered"), "{error}");
}

#[test]
fn links_of_others_are_refused() {
    if !is_root() {
        return;
    }
    let (site, binary) = (Site::new(), fake("one", 0));
    let (sticky, safe) = (make_dir(&site.path("sticky"), 0o1777), site.path("safe"));
    make_dir(&safe, 0o755);
    symlink(&safe, site.path("sticky/link")).expect("made");
    give_to_stranger(&site.path("sticky/link"));
    let error = refused(deploy(&plain(&format!("{sticky}/link/bin"), &binary)));
    assert!(error.contains(&format!("sticky/link is a link of user {STRANGER}: remove it")), "{error}");
    assert!(names(&safe).is_empty(), "nobody else says where root makes directories");
}
