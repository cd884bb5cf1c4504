//! A provider that gives whatever it is asked for, and one that has none of a type: how fast the pool asks.
//!
//! How it is measured: the driver exec with a shell program that answers at once, all other settings by default (so at most 10 calls a
//! second, lists among them) but without a limit of instances. The program notes when each create began and ended. *Ramp*: 240 jobs that
//! need an instance each; nothing boots. *Next type*: twelve types that fit, of which the program refuses all with a lack of capacity but
//! the last: from the end of each refusal to the beginning of the next type's create.

use std::fmt::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::daemon::{Demo, Failure, pause};

const JOBS: usize = 240;
const TYPES: usize = 12;

/// Keeps instances as files; `DIR` is its folder. Times are in seconds.
const PROGRAM: &str = r#"#!/bin/sh
began=$(date +%s.%N)
input=$(cat)
case $1 in
    capabilities) echo '{"cheap_list":false,"quota_groups":{},"verify_host_key":false}' ;;
    create)
        type=$(printf %s "$input" | sed 's/.*"ProviderType":"\([^"]*\)".*/\1/')
        if [ -e "DIR/none-of-$type" ]; then
            echo '{"error":{"kind":"capacity","message":"none left","scope":"type"}}'
        else
            tags=$(printf %s "$input" | sed 's/.*"tags":\({[^}]*}\).*/\1/')
            one="{\"id\":\"i-$$-${began#*.}\",\"address\":\"\",\"remote_user\":\"root\",\"provider_type\":\"$type\",\"tags\":$tags}"
            printf '%s' "$one" >"DIR/instances/i-$$-${began#*.}"
            printf '{"instance":%s}' "$one"
        fi
        echo "$began $(date +%s.%N) $type" >>"DIR/creates" ;;
    list)
        printf '{"instances":['
        comma=
        for file in DIR/instances/*; do
            [ -e "$file" ] || continue
            printf '%s' "$comma"
            cat "$file"
            comma=,
        done
        printf ']}' ;;
    destroy)
        rm -f "DIR/instances/$(printf %s "$input" | sed 's/.*"instance":"\([^"]*\)".*/\1/')"
        echo '{}' ;;
    *) echo '{}' ;;
esac
"#;

/// When a create began and ended, and of what type.
struct Create {
    began: f64,
    ended: f64,
    type_name: String,
}

pub(crate) fn run() -> Result<(), Failure> {
    ramp()?;
    next_type()
}

fn ramp() -> Result<(), Failure> {
    let folder = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
    let types = "InstanceTypes:\n  t0: {VCPUs: 1, RAM: 1GiB, Price: 1}\n";
    let mut demo = start(folder.path(), types)?;
    demo.muster(&["submit", "--array", &format!("1-{JOBS}"), "--", "true"])?;
    let creates = wait_for_creates(folder.path(), JOBS)?;
    let first = creates.iter().map(|create| create.began).fold(f64::INFINITY, f64::min);
    let last = creates.iter().map(|create| create.began).fold(0.0, f64::max);
    let within = |seconds: f64| creates.iter().filter(|create| create.began < first + seconds).count();
    println!("a willing cloud, default settings, {JOBS} instances wanted");
    println!("  creates begun in the first second    {}", within(1.0));
    println!("  in the first 10 seconds              {}", within(10.0));
    println!(
        "  until the last was begun             {:.1} s ({:.0} a minute)",
        last - first,
        239.0 * 60.0 / (last - first)
    );
    demo.stop()
}

fn next_type() -> Result<(), Failure> {
    let folder = tempfile::Builder::new().prefix("muster-bench-").tempdir()?;
    let mut types = "InstanceTypes:\n".to_owned();
    for number in 0..TYPES {
        // A string takes what is written to it.
        let _ = writeln!(types, "  t{number}: {{VCPUs: 1, RAM: 1GiB, Price: 1.{number:02}}}");
    }
    let mut demo = start(folder.path(), &types)?;
    for number in 0..TYPES - 1 {
        std::fs::write(folder.path().join(format!("none-of-t{number}")), b"")?;
    }
    demo.submit(&["--", "true"])?;
    let mut creates = wait_for_creates(folder.path(), TYPES)?;
    creates.sort_by(|one, other| one.began.total_cmp(&other.began));
    let mut gaps: Vec<f64> = creates
        .windows(2)
        .filter(|pair| pair[0].type_name != pair[1].type_name)
        .map(|pair| (pair[1].began - pair[0].ended) * 1000.0)
        .collect();
    gaps.sort_by(f64::total_cmp);
    let [Some(median), Some(worst)] = [gaps.get(gaps.len() / 2), gaps.last()] else {
        return Err(Failure::Wrong("no type was refused".to_owned()));
    };
    println!("no capacity: from the refusal to the create of the next type, {} times", gaps.len());
    println!("  median, worst                        {median:.0}, {worst:.0} ms");
    demo.stop()
}

fn start(folder: &Path, types: &str) -> Result<Demo, Failure> {
    std::fs::create_dir(folder.join("instances"))?;
    let program = folder.join("cloud");
    std::fs::write(&program, PROGRAM.replace("DIR", &folder.to_string_lossy()))?;
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755))?;
    let cloud = format!(
        "Containers:\n  MaximumPriceFactor: 2\n  CloudVMs:\n    Driver: exec\n    MaxInstances: 0\n    DriverParameters: {{Program: {}}}\n{types}",
        program.display()
    );
    Demo::start(folder, &cloud)
}

fn wait_for_creates(folder: &Path, count: usize) -> Result<Vec<Create>, Failure> {
    let until = Instant::now() + Duration::from_secs(600);
    loop {
        let text = std::fs::read_to_string(folder.join("creates")).unwrap_or_default();
        let creates: Vec<Create> = text.lines().filter_map(parsed).collect();
        if creates.len() >= count {
            return Ok(creates);
        }
        if Instant::now() > until {
            return Err(Failure::Wrong(format!("{} of {count} creates in 10 minutes", creates.len())));
        }
        pause();
    }
}

fn parsed(line: &str) -> Option<Create> {
    let mut words = line.split(' ');
    let mut number = || words.next()?.parse().ok();
    let (began, ended) = (number()?, number()?);
    Some(Create { began, ended, type_name: words.next()?.to_owned() })
}
