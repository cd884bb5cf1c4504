//! How hierarchies are found, and what is written where. (That a kernel heeds it is tested with a real one.)

use super::*;

const V1: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw
";
const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

fn path(text: &str) -> PathBuf {
    text.into()
}

#[test]
fn hierarchies_are_found() {
    let same = |text: &str| (path(text), path(text));
    let v1 = |places| Some(Hierarchies { version: Version::V1, places });
    let v2 =
        |own: &str, parent: &str| Some(Hierarchies { version: Version::V2, places: vec![(path(own), path(parent))] });
    let docker = "30 1 0:32 /docker/ab /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
    let memory = "/sys/fs/cgroup/memory";
    for (mounts, own, memory_in_v2, expected) in [
        (
            V1,
            "4:memory:/a\n2:cpu,cpuacct:/b\n1:name=systemd:/c\n0::/d\n",
            false,
            v1(vec![same("/sys/fs/cgroup/memory/a"), same("/sys/fs/cgroup/cpu,cpuacct/b")]),
        ),
        (V1, "4:memory:/a\n", false, v1(vec![same("/sys/fs/cgroup/memory/a")])),
        (V1, "4:memory:/\n0::/d\n", true, v2("/sys/fs/cgroup/unified/d", "/sys/fs/cgroup/unified/muster")),
        (V2, "0::/user.slice/s.scope\n", true, v2("/sys/fs/cgroup/user.slice/s.scope", "/sys/fs/cgroup/muster")),
        (V2, "0::/\n", true, v2("/sys/fs/cgroup", "/sys/fs/cgroup/muster")),
        (V2, "0::/../../x\n", true, v2("/sys/fs/cgroup", "/sys/fs/cgroup/muster")),
        (V2, "0::/\n", false, None),
        (docker, "9:memory:/docker/ab/c\n", false, v1(vec![same(&format!("{memory}/c"))])),
        (docker, "9:memory:/elsewhere\n", false, v1(vec![same(memory)])),
        ("", "", true, None),
        ("nonsense - cgroup2\n1 2 3\n - cgroup cgroup\n", "0::/\n", true, None),
    ] {
        let found = Hierarchies::of(mounts, own, |_| memory_in_v2);
        assert_eq!(found, expected, "{mounts}{own}");
    }
}

/// A directory tree in the place of a v2 hierarchy: what is written where.
#[test]
fn limits_of_the_second_version() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    let parent = root.join("muster");
    fs::create_dir_all(&parent).unwrap();
    // Of a process that is gone, of one that lives, and of nobody we know.
    let left = [format!("muster-x-1-{}", i32::MAX), format!("muster-x-1-{}", std::process::id()), "other-1".to_owned()];
    left.iter().for_each(|name| fs::create_dir(parent.join(name)).unwrap());
    let found = Hierarchies { version: Version::V2, places: vec![(root.to_owned(), parent.clone())] };
    for (file, text) in [("cgroup.subtree_control", "cpuset memory\n"), ("muster/cgroup.subtree_control", "")] {
        fs::write(root.join(file), text).unwrap();
    }
    let read = |file: &str| fs::read_to_string(root.join(file)).unwrap();
    // A kernel would have put files there: without them the controller is not ours to use.
    assert_eq!(found.make("m").unwrap_err().kind(), ErrorKind::Unsupported);
    assert!(!parent.join("m").exists());
    assert_eq!([0, 1, 2].map(|n| parent.join(&left[n]).exists()), [false, true, true]);
    let group = Group { version: Version::V2, dirs: vec![parent.join("m")], homes: vec![root.to_owned()] };
    fs::create_dir(parent.join("m")).unwrap();
    for (file, text) in [
        ("memory.max", "max\n"),
        ("memory.swap.max", "max\n"),
        ("cpu.max", "max 100000\n"),
        ("memory.stat", "anon 4096\nfile 99\nshmem 8192\nanon_thp 7\n"),
        ("memory.events", "low 0\noom 3\noom_kill 2\n"),
        ("cpu.stat", "usage_usec 1500000\nuser_usec 1\n"),
    ] {
        fs::write(parent.join("m").join(file), text).unwrap();
    }
    assert_eq!((read("cgroup.subtree_control"), read("muster/cgroup.subtree_control")), ("+cpu".into(), "+cpu".into()));
    group.limit(0, 0).unwrap();
    assert_eq!((read("muster/m/memory.max"), read("muster/m/cpu.max")), ("max\n".into(), "max 100000\n".into()));
    group.limit(3, 1 << 30).unwrap();
    assert_eq!((read("muster/m/memory.max"), read("muster/m/cpu.max")), ("1073741824".into(), "300000 100000".into()));
    assert_eq!(read("muster/m/memory.swap.max"), "0");
    group.limit(1, 1).unwrap();
    assert_eq!(read("muster/m/memory.max"), RAM_MIN.to_string());
    let oom = OutOfMemory { own_limit: true, killed: true };
    let expected = Usage { memory: Some(12288), cpu_seconds: Some(1.5), oom };
    assert_eq!(group.usage(), expected);
}

#[test]
fn figures_that_are_missing() {
    assert_eq!(sum("total_rss 5\ntotal_rss_huge 7\ntotal_shmem x\n", &["total_rss", "total_shmem"]), Some(5));
    assert_eq!(sum("", &["a"]), None);
    assert_eq!(sum("a 18446744073709551615\nb 1\n", &["a", "b"]), Some(u64::MAX));
}
