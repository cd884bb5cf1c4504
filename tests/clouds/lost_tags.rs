//! Instances that a program lists without the tags that they were created with, behind the wrapper that drops what is not ours (spec 40 §4).

use std::sync::Arc;

use muster::cloud::InstanceSet;
use muster::cloud::boot::Boot;
use muster::cloud::filtering::Filtering;
use muster::core::effect::Tags;
use serde_json::{Value, json};

use crate::exec::{Site, id};
use crate::support::{SET, instance_type, log, new_secret, order};

/// A program that makes instances and tells of them what the test says, as the dispatcher sees it.
struct Cloud {
    site: Site,
    driver: Box<dyn InstanceSet>,
    /// Unique in the log.
    mark: String,
}

impl Cloud {
    fn new() -> Self {
        let site = Site::new();
        let mark = new_secret().reveal().to_owned();
        let program = site.open("cat \"$here/$1\"");
        site.write("set-tags", "{}");
        Self { site, driver: Box::new(Filtering::around(Arc::new(program))), mark }
    }

    fn name(&self, short: &str) -> String {
        format!("{short}-{}", self.mark)
    }

    /// Its create returns nothing but the id. These are its tags.
    fn create(&self, short: &str) -> Tags {
        self.site.write("create", &json!({"instance": {"id": self.name(short)}}).to_string());
        let new = order(&Boot::default(), &instance_type("small"), &new_secret());
        self.driver.create(&new).expect("made");
        new.tags
    }

    /// What a list with these tags is made into: ids without the mark, and tags.
    fn list(&self, asked: &Tags, program: &[(&str, Value)]) -> Vec<(String, Tags)> {
        let told: Vec<Value> =
            program.iter().map(|(short, tags)| json!({"id": self.name(short), "tags": tags})).collect();
        self.site.write("list", &json!({ "instances": told }).to_string());
        let listed = self.driver.list(asked).expect("answered");
        let short = |long: &str| long.split('-').next().unwrap_or_default().to_owned();
        listed.into_iter().map(|one| (short(one.id.as_str()), one.tags)).collect()
    }

    fn warnings(&self) -> Vec<String> {
        let all = log();
        all.lines().filter(|line| line.contains("level=warn") && line.contains(&self.mark)).map(str::to_owned).collect()
    }
}

fn one(name: &str, value: &str) -> Tags {
    Tags::from_iter([(name.to_owned(), value.to_owned())])
}

/// Otherwise it would cost money until somebody finds it: nobody else knows of it.
#[test]
fn what_this_process_created_is_kept_and_told_of_once() {
    let cloud = Cloud::new();
    let tags = cloud.create("ours");
    let (name, value) = ("ArvadosInstanceSetID", SET);
    let asked = one(name, value);
    for told in [json!(null), json!({}), json!({"other": "tag"})] {
        let listed = cloud.list(&asked, &[("ours", told.clone()), ("foreign", json!(null))]);
        assert_eq!(listed.len(), 1, "{told}: {listed:?}");
        assert_eq!(listed[0].0, "ours");
        assert!(tags.iter().all(|(name, value)| listed[0].1.get(name) == Some(value)), "{listed:?}");
    }
    let warnings = cloud.warnings();
    assert!(
        matches!(&warnings[..], [line] if line.contains(&cloud.name("ours")) && line.contains("kept") && line.contains("by hand")),
        "{warnings:?}"
    );
    // With the tags that it has now, so that nobody saves them for ever.
    let mut newer = tags.clone();
    newer.insert("more".to_owned(), "1".to_owned());
    cloud.driver.set_tags(&id(&cloud.name("ours")), &newer).expect("answered");
    let kept = [("ours".to_owned(), newer)];
    assert_eq!(cloud.list(&asked, &[("ours", json!(null))]), kept);
    // One list or two may lack it, again and again.
    for _ in 0..2 {
        for _ in 0..2 {
            assert!(cloud.list(&asked, &[]).is_empty());
        }
        assert_eq!(cloud.list(&asked, &[("ours", json!(null))]), kept);
    }
    // When it is gone it is forgotten: nobody else's gets its tags.
    for _ in 0..3 {
        assert!(cloud.list(&asked, &[]).is_empty());
    }
    assert!(cloud.list(&asked, &[("ours", json!(null))]).is_empty());
    assert_eq!(cloud.warnings().len(), 1);
    // An id that comes again is what was created last.
    let again = cloud.create("ours");
    assert_eq!(cloud.list(&asked, &[("ours", json!(null))]), [("ours".to_owned(), again)]);
    assert_eq!(cloud.warnings().len(), 2);
}

/// Its tags came late, and were taken away then: what was told of it is not true any more.
#[test]
fn what_is_not_kept_any_more_is_told_of_again() {
    let cloud = Cloud::new();
    cloud.create("late");
    let (name, value) = ("ArvadosInstanceSetID", SET);
    let asked = one(name, value);
    for (tags, is_kept) in
        [(json!(null), true), (json!({ name: value }), true), (json!(null), false), (json!(null), false)]
    {
        assert_eq!(cloud.list(&asked, &[("late", tags.clone())]).len(), usize::from(is_kept), "{tags}");
    }
    let warnings = cloud.warnings();
    assert!(
        matches!(&warnings[..], [first, last] if first.contains("it is kept") && last.contains("not ours any more")),
        "{warnings:?}"
    );
}

/// Tags that were there and are not any more, or that say another owner: somebody wants it for himself.
#[test]
fn what_somebody_took_is_told_of_and_left_alone() {
    let cloud = Cloud::new();
    cloud.create("lost");
    let (name, value) = ("ArvadosInstanceSetID", SET);
    let asked = one(name, value);
    assert_eq!(cloud.list(&asked, &[("lost", json!({ name: value }))]).len(), 1);
    cloud.create("theirs");
    for _ in 0..2 {
        let told = [("lost", json!(null)), ("theirs", json!({ name: "another" }))];
        assert!(cloud.list(&asked, &told).is_empty());
    }
    let warnings = cloud.warnings();
    assert!(warnings.len() == 2 && warnings.iter().all(|line| line.contains("not ours any more")), "{warnings:?}");
    // A list that asks for no tags shows all, as it is.
    let shown = cloud.list(&Tags::new(), &[("lost", json!(null)), ("foreign", json!({}))]);
    assert_eq!(shown, [("lost".to_owned(), Tags::new()), ("foreign".to_owned(), Tags::new())]);
}
