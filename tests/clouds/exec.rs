//! What a program of the driver `exec` is given, what it answers, and what becomes of that (spec 46 §2): with small programs of a shell's.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use muster::cloud::boot::Boot;
use muster::cloud::exec::{ExecCloud, ExecOptions};
use muster::cloud::{CloudError, CloudInstance, InstanceSet, Traits};
use muster::core::effect::{Ending, Tags};
use muster::core::errors::chain;
use muster::core::ids::{InstanceId, InstanceSecret, TypeName};
use muster::core::instance_type::PricePoint;
use muster::remote::{Command, ExecuteError, Lane, Program};
use muster_ssh_hosts::{ClientKey, HostOptions, client_key};
use serde_json::{Value, json};

use crate::support::{LIMIT, SET, access, install, instance_type, log, new_secret, order};

/// A folder with a program in it, which knows the folder as `$here`.
pub(crate) struct Site {
    folder: tempfile::TempDir,
    key: ClientKey,
}

impl Site {
    pub(crate) fn new() -> Self {
        log();
        Self { folder: tempfile::tempdir().expect("a folder"), key: client_key().expect("made") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("written");
    }

    pub(crate) fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    pub(crate) fn options(&self, program: &Path) -> ExecOptions {
        ExecOptions {
            program: program.to_path_buf(),
            timeout: LIMIT,
            parameters: json!({"region": "x", "token": "pa5sw0rd"}).as_object().cloned().expect("a map"),
            set: SET.to_owned(),
            home: "/home/of-muster".to_owned(),
            access: access(&self.key),
            type_names: BTreeSet::from([TypeName::new("small")]),
        }
    }

    /// Answers `capabilities` too.
    pub(crate) fn install_whole(&self, script: &str) -> PathBuf {
        let path = self.path("program");
        install(&format!("#!/bin/sh\nhere='{}'\n{script}\n", self.folder.path().display()), &path);
        path
    }

    pub(crate) fn install(&self, script: &str) -> PathBuf {
        self.install_whole(&format!("if [ \"$1\" = capabilities ]; then echo '{{}}'; exit; fi\n{script}"))
    }

    pub(crate) fn open(&self, script: &str) -> ExecCloud {
        ExecCloud::open(self.options(&self.install(script))).expect("opens")
    }
}

pub(crate) fn create(driver: &ExecCloud, secret: &InstanceSecret) -> Result<CloudInstance, CloudError> {
    driver.create(&order(&Boot::default(), &instance_type("small"), secret))
}

pub(crate) fn id(text: &str) -> InstanceId {
    InstanceId::new(text)
}

/// The error of each operation.
fn errors(driver: &ExecCloud) -> Vec<CloudError> {
    vec![
        create(driver, &new_secret()).expect_err("refused"),
        driver.list(&Tags::new()).expect_err("refused"),
        driver.destroy(&id("i"), None, Ending::Unwanted).expect_err("refused"),
        driver.set_tags(&id("i"), &Tags::new()).expect_err("refused"),
    ]
}

/// An error that the program tells counts, whatever its exit status is, and whatever it was asked for.
#[test]
fn errors_by_kind() {
    let site = Site::new();
    let driver = site.open("cat \"$here/answer\"; exit \"$(cat \"$here/status\")\"");
    for status in ["0", "1", "77"] {
        site.write("status", status);
        for (error, expected) in [
            (
                json!({"kind": "rate_limit", "message": "m", "retry_after_s": 2.5}),
                "RateLimit { message: \"m\", retry_after: 2.5s }",
            ),
            (json!({"kind": "quota", "message": "m"}), "Quota { message: \"m\" }"),
            (json!({"kind": "capacity", "message": "m", "scope": "type"}), "Capacity { message: \"m\", scope: Type }"),
            (
                json!({"kind": "capacity", "message": "m", "scope": "group"}),
                "Capacity { message: \"m\", scope: Group }",
            ),
            (json!({"kind": "capacity", "message": "m"}), "Capacity { message: \"m\", scope: Everything }"),
            (json!({"kind": "other", "message": "m"}), "Other { message: \"m\", source: None }"),
        ] {
            site.write("answer", &json!({ "error": error }).to_string());
            for error in errors(&driver) {
                assert_eq!(format!("{error:?}"), expected, "exit status {status}");
            }
        }
    }
}

/// Everything else that is no answer is a plain error with the last line of the program's standard error.
#[test]
fn what_is_no_answer() {
    let site = Site::new();
    let driver = site.open(". \"$here/script\"");
    for (script, expected) in [
        ("exit 3", "exit status 3"),
        ("echo first >&2; printf 'last one\\n\\n' >&2; exit 3", "exit status 3; it said: last one"),
        ("echo '{\"instances\": [], \"instance\": {\"id\": \"i\"}}'; exit 1", "exit status 1"),
        ("kill -9 $$", "killed by signal 9"),
        ("", "it has no output"),
        ("echo why >&2", "it has no output; it said: why"),
        ("echo nonsense", "its output is not JSON (expected ident at line 1 column 2)"),
        ("echo '{} {}'", "its output is not JSON (trailing characters"),
        ("printf '{\"instances\": [], \"x\": \"\\377\"}'", "its output is not JSON (invalid unicode"),
        ("printf '{\"instances\": ['", "its output is not JSON (EOF"),
        ("echo '{\"retry_after_s\": NaN}'", "its output is not JSON (expected value"),
        ("echo '{\"Price\": Infinity}'", "its output is not JSON (expected value"),
        ("echo '{\"Price\": -Infinity}'", "its output is not JSON (invalid number"),
        ("echo '{\"Price\": 1e999}'", "its output is not JSON (number out of range"),
        ("echo '[]'", "its output is JSON, but not an object"),
        ("echo '\"error\"'", "its output is JSON, but not an object"),
        ("printf '\\033[31mred\\033[0m\\r\\n' >&2; exit 1", "it said:  [31mred [0m"),
    ] {
        site.write("script", script);
        for error in errors(&driver) {
            let CloudError::Other { .. } = &error else { panic!("{script}: {error:?}") };
            let text = chain(&error);
            assert!(text.contains(expected) && text.contains("the driver program's "), "{script}: {text}");
        }
    }
    // An object is enough for those that ask for nothing.
    site.write("script", "echo hm >&2; echo '{\"error\": null, \"more\": 1}'");
    driver.destroy(&id("i"), None, Ending::Unwanted).expect("answered");
    driver.set_tags(&id("i"), &Tags::new()).expect("answered");
    let texts: Vec<String> = errors_of_answers(&driver);
    assert!(
        texts[0].contains("create failed: its output is not as it should be: there is no instance in it; it said: hm"),
        "{texts:?}"
    );
    assert!(texts[1].contains("list failed: its output is not as it should be: there is no list"), "{texts:?}");
}

fn errors_of_answers(driver: &ExecCloud) -> Vec<String> {
    let (created, listed) = (create(driver, &new_secret()), driver.list(&Tags::new()));
    vec![chain(&created.expect_err("not an answer")), chain(&listed.expect_err("not an answer"))]
}

/// One that cannot be used is known at the start, with what to do about it.
#[test]
fn programs_that_cannot_be_run() {
    let site = Site::new();
    let good = site.install("");
    let copy = |name: &str, text: &str, mode: &str| {
        install(text, &site.path(name));
        let status = std::process::Command::new("chmod").arg(mode).arg(site.path(name)).status().expect("runs");
        assert!(status.success());
        site.path(name)
    };
    for (program, expected) in [
        (site.path("missing"), "missing: No such file or directory"),
        (site.folder.path().to_path_buf(), "Permission denied"),
        (copy("plain", "#!/bin/sh\n", "644"), "plain (it must be executable: chmod +x): Permission denied"),
        (
            copy("lost", "#!/nonexistent/shell\n", "755"),
            "lost (the interpreter that its first line names is not there)",
        ),
        (copy("bare", "\u{1}\u{2}", "755"), "bare (it has no first line such as #!/bin/sh)"),
        (PathBuf::from("program"), "must be given as an absolute path"),
    ] {
        let error = ExecCloud::open(site.options(&program)).expect_err("it cannot be run");
        let text = chain(&error);
        assert!(text.contains(expected), "{text}");
    }
    ExecCloud::open(site.options(&good)).expect("this one can");
    for (script, expected) in [
        ("exit 2", "capabilities failed: exit status 2"),
        ("echo '{\"cheap_list\": \"no\"}'", "cheap_list must be true or false"),
        ("echo '{\"error\": {\"kind\": \"other\", \"message\": \"no such region\"}}'", "no such region"),
    ] {
        let error = ExecCloud::open(site.options(&site.install_whole(script))).expect_err("it does not answer");
        assert!(chain(&error).contains(expected), "{error:?}");
    }
}

/// Exactly the documents of the specification, and nothing else of the daemon's: no secret where others could see it.
#[test]
fn what_a_program_is_given() {
    let site = Site::new();
    let program = site.install_whole(
        "for what in cmdline environ; do tr '\\0' '\\n' <\"/proc/$$/$what\" >\"$here/$1.$what\"; done
        ls -l /proc/self/fd >\"$here/$1.files\"; pwd >\"$here/$1.pwd\"; cut -d' ' -f5 /proc/$$/stat >\"$here/$1.group\"
        echo $$ >\"$here/$1.pid\"; cat >\"$here/$1.stdin\"
        echo '{\"instance\": {\"id\": \"i\"}, \"instances\": []}'",
    );
    let driver = ExecCloud::open(site.options(&program)).expect("opens");
    let secret = new_secret();
    let new = order(&Boot { image_id: "image".to_owned(), ..Boot::default() }, &instance_type("small"), &secret);
    // Descriptors of this process are not the program's.
    let file = std::fs::File::create(site.path("open-here")).expect("made");
    assert_eq!(driver.create(&new).expect("answered").tags, new.tags);
    driver.list(&new.tags).expect("answered");
    driver.destroy(&id("i -x"), Some(&secret), Ending::Unwanted).expect("answered");
    driver.set_tags(&id("i"), &new.tags).expect("answered");
    drop(file);

    let parameters = json!({"region": "x", "token": "pa5sw0rd"});
    let tags: Value = new
        .tags
        .iter()
        .map(|(name, value)| (name.clone(), value.clone().into()))
        .collect::<serde_json::Map<_, _>>()
        .into();
    let record = json!({"Name": "small", "ProviderType": "small-provider", "VCPUs": 1, "RAM": 1_073_741_824,
        "IncludedScratch": 0, "AddedScratch": 0, "Scratch": 0, "Price": 0.125, "Preemptible": false});
    let documents = [
        ("capabilities", json!({"parameters": parameters})),
        (
            "create",
            json!({"instance_set_id": SET, "instance_type": record, "image_id": "image", "tags": tags,
                "init_command": new.init_command, "public_key": null, "parameters": parameters}),
        ),
        ("list", json!({"instance_set_id": SET, "tags": tags, "parameters": parameters})),
        ("destroy", json!({"instance": "i -x", "parameters": parameters})),
        ("set-tags", json!({"instance": "i", "tags": tags, "parameters": parameters})),
    ];
    for (verb, document) in documents {
        let read = |what: &str| site.read(&format!("{verb}.{what}"));
        assert_eq!(serde_json::from_str::<Value>(&read("stdin")).expect("JSON"), document, "{verb}");
        assert_eq!(read("cmdline"), format!("/bin/sh\n{}\n{verb}\n", program.display()));
        let environment = read("environ");
        let names: BTreeSet<&str> =
            environment.lines().filter_map(|line| line.split_once('=')).map(|(name, _)| name).collect();
        assert_eq!(names, BTreeSet::from(["HOME", "LANG", "PATH"]), "{verb}");
        let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        for expected in ["HOME=/home/of-muster", "LANG=C.UTF-8", path] {
            assert!(environment.lines().any(|line| line == expected), "{environment}");
        }
        assert_eq!((read("pwd").as_str(), read("group")), ("/\n", read("pid")), "{verb}");
        let files = read("files");
        assert!(!files.contains("open-here"), "{files}");
        for secret in [secret.reveal(), "pa5sw0rd"] {
            assert!(!read("cmdline").contains(secret) && !environment.contains(secret), "{verb}");
        }
    }
}

/// A program that goes wrong in any way, and one that repeats what it was given, do not bring secrets to light.
#[test]
fn secrets_are_in_no_text() {
    let site = Site::new();
    let driver = site.open("cat >\"$here/in\"; . \"$here/script\"");
    let secret = new_secret();
    let new = order(&Boot::default(), &instance_type("small"), &secret);
    let mut texts = format!("{driver:?} {:?}", site.options(Path::new("/x")));
    for script in [
        "exit 1",
        "cat \"$here/in\"",
        "echo \"{\\\"instance\\\": $(cat \"$here/in\")}\"",
        "echo \"{\\\"instances\\\": [$(cat \"$here/in\")]}\"",
        "printf '{\"instances\": [{\"id\": \"i\", \"tags\": {\"a\": [\"pa5sw0rd\"]}}]}'",
        "cat \"$here/in\"; echo x",
    ] {
        site.write("script", script);
        let created = driver.create(&new).expect_err("no answer");
        let listed = driver.list(&new.tags).expect_err("no answer");
        texts.push_str(&format!("{created:?} {} {listed:?} {}", chain(&created), chain(&listed)));
    }
    texts.push_str(&log());
    assert!(!texts.contains(secret.reveal()) && !texts.contains("pa5sw0rd"));
}

#[test]
fn what_the_program_says_of_itself_and_of_prices() {
    let site = Site::new();
    let bare = site.open("");
    assert_eq!(bare.traits(), Traits { calls_provider: true, ..Traits::default() });
    assert_eq!(bare.quota_group(&instance_type("small")), "");
    site.write("answer", "");
    let mark = new_secret();
    let mark = mark.reveal();
    let program = site.install_whole(&format!(
        "if [ \"$1\" = capabilities ]; then echo >>\"$here/asked\"; echo '{{\"cheap_list\": true, \"quota_groups\": {{\"small\": \"g\", \"{mark}\": \"g\"}}}}'
        else cat \"$here/answer\"; fi",
    ));
    let driver = ExecCloud::open(site.options(&program)).expect("opens");
    let (log, program) = (log(), program.to_string_lossy().into_owned());
    let lines = |part: &str| log.lines().filter(|line| line.contains(part)).collect::<Vec<_>>();
    assert!(lines(&program)[0].contains("asking the driver program"), "{:?}", lines(&program));
    // Whoever misspells a type's name is told so, once.
    assert!(matches!(&lines(mark)[..], [line] if line.contains("name a type that there is not")), "{:?}", lines(mark));
    assert_eq!(driver.traits(), Traits { calls_provider: true, cheap_list: true, ..Traits::default() });
    // By the type's name, not by the provider's.
    assert_eq!(driver.quota_group(&instance_type("small")), "g");
    assert_eq!(driver.quota_group(&instance_type("large")), "");

    let prices = json!([{"StartTime": "1970-01-01T00:00:01Z", "Price": 1.5}, {"StartTime": "1970-01-01T00:00:03Z", "Price": 2},
        {"StartTime": "1970-01-01T00:00:02Z", "Price": 1.5}]);
    let of = |name: &str| driver.price_history(&id(name), &instance_type("small"));
    let expected = [PricePoint { since: 3000, price: 2.0 }, PricePoint { since: 1000, price: 1.5 }];
    site.write("answer", &json!({"instance": {"id": "a", "prices": prices}}).to_string());
    create(&driver, &new_secret()).expect("answered");
    assert_eq!(of("a"), expected);
    site.write("answer", &json!({"instances": [{"id": "b", "prices": prices}]}).to_string());
    driver.list(&Tags::new()).expect("answered");
    assert_eq!((of("a"), of("b").as_slice()), (Vec::new(), expected.as_slice()));
    // A list that is wrong in one place changes nothing.
    site.write("answer", &json!({"instances": [{"id": "c"}, {"id": "d", "host_key": "x"}]}).to_string());
    let error = driver.list(&Tags::new()).expect_err("a bad key");
    assert!(chain(&error).contains("instance d: host_key must be a public key"), "{error:?}");
    assert_eq!(of("b"), expected);
    assert_eq!(site.read("asked").lines().count(), 1);
}

/// On a real SSH server: the key that the program tells decides, and one that is announced is waited for.
#[test]
fn host_keys_of_the_programs() {
    let site = Site::new();
    let host = HostOptions::new(site.key.public()).start().expect("starts");
    let another = client_key().expect("made");
    let program = site.install_whole("cat \"$here/$1\"");
    let list = |key: Option<&str>| {
        let one = json!({"id": "a", "address": host.address(), "remote_user": host.user(), "host_key": key});
        site.write("list", &json!({"instances": [one]}).to_string());
    };
    for announced in [true, false] {
        site.write("capabilities", &json!({ "verify_host_key": announced }).to_string());
        let driver = ExecCloud::open(site.options(&program)).expect("opens");
        let listed = |key| {
            list(key);
            driver.list(&Tags::new()).expect("answered");
        };
        listed(None);
        let access = driver.open(&id("a"), None).expect("a descriptor");
        access.executor.set_target(&host.address(), host.user());
        let run = || {
            let program = Program::Arguments(vec!["true".to_owned()]);
            let deadline = Instant::now() + Duration::from_secs(120);
            access.executor.execute(Lane::Action, &Command { program, stdin: b"", open_until: None, deadline })
        };
        let refused = |part: &str| match run() {
            Err(ExecuteError::HostKey { reason, .. }) => assert!(reason.contains(part), "{reason}"),
            other => panic!("not refused: {other:?}"),
        };
        refused(if announced { "has not told this one's yet" } else { "nothing is known of it" });
        listed(Some(another.public()));
        refused("the driver program says ssh-ed25519 SHA256:");
        // The same executor, which began when nothing was known.
        listed(Some(&host.host_key_openssh()));
        assert!(run().expect("trusted").succeeded());
        access.executor.close();
    }
}
