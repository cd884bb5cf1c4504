//! Lines taken apart, and real programs: each way one can end.

use super::*;
use crate::cloud::ec2::credentials::{Lifetime, Secret};
use crate::core::errors::chain;

fn programs(environment: &Environment) -> Programs {
    Programs::new(environment).expect("a descriptor")
}

fn soon() -> Instant {
    Instant::now() + FIND_LIMIT
}

fn of(line: &str) -> Result<Credentials, String> {
    programs(&Environment::of(&[], None)).run(line, "p", soon()).map_err(|error| chain(&error))
}

#[test]
fn lines_are_taken_apart_without_a_shell() {
    for (line, expected) in [
        ("aws  configure\texport-credentials ", &["aws", "configure", "export-credentials"][..]),
        (r#""/opt/my tools/get" --user "a b""#, &["/opt/my tools/get", "--user", "a b"]),
        (r"'/opt/my tools/get' '' 'it\x'", &["/opt/my tools/get", "", r"it\x"]),
        (r#"a"b c"d'e f'g"#, &["ab cde fg"]),
        (r#"x "say \"hi\" \\ \n""#, &["x", r#"say "hi" \ \n"#]),
        (r#"/opt/my\ tools/get \"q \\"#, &["/opt/my tools/get", "\"q", "\\"]),
        (
            "x $HOME `id` $(id) ; rm -rf ~ | y > z & *",
            &["x", "$HOME", "`id`", "$(id)", ";", "rm", "-rf", "~", "|", "y", ">", "z", "&", "*"],
        ),
        (r#"x '"' "'""#, &["x", "\"", "'"]),
        ("é \u{a0}x", &["é", "\u{a0}x"]),
    ] {
        assert_eq!(words(line).expect(line), expected, "{line}");
    }
    for line in ["", "  ", "''", "\"\" x", "x 'y", "x \"y", "x \"y\\\"", "x \\"] {
        assert!(words(line).is_err(), "{line:?}");
        assert!(of(line).expect_err(line).contains("credential_process of the profile p names cannot be run: "));
    }
}

#[test]
fn a_program_prints_credentials() {
    let document = r#"{"Version": 1, "AccessKeyId": "ASIA", "SecretAccessKey": "s", "SessionToken": "t", "Expiration": "1970-01-01T00:00:10+00:00"}"#;
    // It gets an end of its input, and may say what it likes beside its answer.
    let credentials = of(&format!("sh -c 'cat && echo hello >&2 && echo \"$0\"' '{document}'")).expect("credentials");
    assert_eq!(credentials.access_key_id, "ASIA");
    assert_eq!(credentials.secret_access_key.reveal(), "s");
    assert_eq!(credentials.session_token, Some(Secret::new("t")));
    assert_eq!(credentials.lifetime, Lifetime::Until(10_000));
    let bare = of(r#"echo '{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "s"}'"#).expect("credentials");
    assert_eq!((bare.session_token, bare.lifetime), (None, Lifetime::Reread));
}

#[test]
fn a_program_gets_the_variables_that_it_needs() {
    let home = tempfile::tempdir().expect("a folder");
    let path = std::env::var("PATH").expect("set");
    let path = format!("/nonexistent:{path}");
    let variables = [
        ("PATH", path.as_str()),
        ("AWS_PROFILE", "p"),
        ("AWS_VAULT_FILE_PASSPHRASE", "of its own"),
        ("https_proxy", "http://proxy"),
        ("OTHER_SECRET", "hush"),
    ];
    let environment = Environment::of(&variables, Some(home.path()));
    let shown = r#"$HOME|$PATH|$AWS_PROFILE|$AWS_VAULT_FILE_PASSPHRASE|$https_proxy|$OTHER_SECRET|$(pwd)"#;
    let script =
        format!(r#"sh -c 'echo "{{\"Version\": 1, \"AccessKeyId\": \"A\", \"SecretAccessKey\": \"{shown}\"}}"'"#);
    let credentials = programs(&environment).run(&script, "p", soon()).expect("credentials");
    let expected = format!("{}|{path}|p|of its own|http://proxy||/", home.path().display());
    assert_eq!(credentials.secret_access_key.reveal(), expected);
}

#[test]
fn what_goes_wrong_is_told_without_what_was_printed() {
    let print = "echo verysecret;";
    for (line, expected) in [
        (
            format!("sh -c '{print} echo first >&2; printf \"last\\tline\\n \\n\" >&2; exit 3'"),
            r"failed: exit status 3; it said: last\tline",
        ),
        (format!("sh -c '{print} exit 1'"), "failed: exit status 1"),
        (format!("sh -c '{print} kill -9 $$'"), "failed: killed by signal 9"),
        ("sh -c 'printf %0500d 7 >&2; exit 1'".to_owned(), "00000…"),
        ("true".to_owned(), "are not JSON"),
        ("echo verysecret".to_owned(), "are not JSON"),
        (r#"echo '{"AccessKeyId": "A", "SecretAccessKey": "verysecret"}'"#.to_owned(), "another Version than 1"),
        (
            r#"echo '{"Version": 2, "AccessKeyId": "A", "SecretAccessKey": "verysecret"}'"#.to_owned(),
            "another Version than 1",
        ),
        (r#"echo '{"Version": 1, "SecretAccessKey": "verysecret"}'"#.to_owned(), "no key id or no secret"),
        (
            r#"echo '{"Version": 1, "AccessKeyId": "A", "SecretAccessKey": "x", "Expiration": "verysecret"}'"#
                .to_owned(),
            "an Expiration that is no time",
        ),
        (format!("head -c {} /dev/zero", OUTPUT_BYTES_MAX + 1), "printed more than 1048576 bytes and was killed"),
        ("/nonexistent/program verysecret".to_owned(), "cannot be run: /nonexistent/program: No such file"),
        ("~/bin/program".to_owned(), "~/bin/program (no shell reads it: ~ and $ mean nothing): No such"),
    ] {
        let error = of(&line).expect_err(&line);
        assert!(error.starts_with("the ") && error.contains("credential_process of the profile p"), "{error}");
        assert!(error.contains(expected) && !error.contains("verysecret"), "{error}");
    }
}

#[test]
fn a_program_that_is_late_is_killed() {
    let programs = programs(&Environment::of(&[], None));
    let late = programs.run("sleep 1000", "p", Instant::now()).expect_err("late").to_string();
    assert!(late.contains("did not end within the 1m") && late.ends_with("and was killed"), "{late}");
}

#[test]
fn after_a_stop_none_is_started() {
    let folder = tempfile::tempdir().expect("a folder");
    let mark = folder.path().join("mark");
    let programs = programs(&Environment::of(&[], None));
    programs.stop();
    let error = programs.run(&format!("touch {}", mark.display()), "p", soon()).expect_err("stopped").to_string();
    assert!(error.ends_with("was not started, since the dispatcher stops") && !mark.exists(), "{error}");
}
