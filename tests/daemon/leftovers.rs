//! What jobs leave that nobody wants, through to where their users look: the result is there, and says what is not.

use std::os::unix::ffi::OsStrExt;

use crate::harness::Site;

fn has_control(text: &str) -> bool {
    text.lines().any(|line| line.chars().any(|letter| letter.is_control() && letter != '\t'))
}

/// Above the limit by its length alone: the container is complete, and its user is told; nothing was fetched.
#[test]
fn a_sparse_terabyte_is_not_brought_back() {
    let mut site = Site::started();
    let uuid = site.submit(&["--output", "giant", "--", "truncate", "-s", "1T", "giant"]);
    site.ok(&["wait", &uuid]);
    let detail = site.show(&uuid);
    assert_eq!(detail["container"]["state"], "Complete", "{detail:#}");
    let said = detail["runtime_status"]["error"].as_str().unwrap_or_default().to_owned();
    assert!(said.contains(&format!("outputs of {} bytes are above the limit", 1_u64 << 40)), "{detail:#}");
    assert!(!site.state_dir().join(format!("containers/{uuid}/1/outputs")).exists());
    site.stop();
}

/// Names that no terminal should see, links, pipes, depth: what can be is brought back as it is, the rest is told in plain letters.
#[test]
fn strange_names_and_things() {
    let mut site = Site::started();
    let names = r#"printf x > "o/$(printf 'a\nb\033[2Jc')"; ln -s /etc/passwd "o/$(printf 'l\n\033]0;title\007')"; mkfifo o/pipe"#;
    let deep = r"perl -e 'chdir q(o); for (1..200) { mkdir q(d); chdir q(d) } open my $f, q(>), q(file)'";
    let script = format!("mkdir o; {names}; {deep}; printf y > o/plain");
    let (code, refused) = site.fails(&["submit", "--output", "../../../../owner", "--", "true"]);
    assert!(code == 1 && refused.contains("is not below the working directory"), "{code} {refused}");
    let uuid = site.submit(&["--output", "o", "--", "sh", "-c", &script]);
    site.ok(&["wait", &uuid]);
    let detail = site.show(&uuid);
    assert_eq!(
        (&detail["container"]["state"], &detail["container"]["exit_code"]),
        (&"Complete".into(), &0.into()),
        "{detail:#}"
    );
    let outputs = site.state_dir().join(format!("containers/{uuid}/1/outputs"));
    let mut found: Vec<_> =
        std::fs::read_dir(outputs.join("o")).expect("there").flatten().map(|one| one.file_name()).collect();
    found.sort();
    let found: Vec<&[u8]> = found.iter().map(|name| name.as_bytes()).collect();
    assert_eq!(found, [&b"a\nb\x1b[2Jc"[..], b"d", b"plain"]);
    assert!(!outputs.join("o").join(vec!["d"; 66].join("/")).exists());
    let shown = site.ok(&["show", &uuid]);
    assert!(shown.contains("left out") && !has_control(&shown), "{shown:?}");
    assert!(!has_control(&site.log()), "{:?}", site.log());
    let result = std::fs::read_to_string(outputs.with_file_name("result.json")).expect("there");
    let result: serde_json::Value = serde_json::from_str(&result).expect("JSON");
    let skipped: Vec<&str> =
        result["skipped"].as_array().expect("a list").iter().filter_map(|line| line.as_str()).collect();
    for part in [r"o/l\n\u{1b}]0;title\u{7}: a link", "o/pipe: neither", ": too deep"] {
        assert!(skipped.iter().any(|line| line.contains(part)), "{part}: {skipped:?}");
    }
    site.stop();
}
