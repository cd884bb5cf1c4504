//! `bench fleet [N]`: one daemon and N hosts over SSH (500 unless said otherwise), and how many containers of no length it moves.
//!
//! How it is measured: the hosts are this program in another process (russh, a worker in memory, real key exchange and commands), the
//! daemon is the program `muster` with the driver `static` and the default configuration except for what is named. Times count
//! from the daemon's start to the line in its log that the last host is in service, looked at every 20 ms. Memory is RssAnon, processor
//! time comes from /proc; both are the daemon's alone. On a machine with few processors hosts and daemon share them.

mod figures;
pub(crate) mod hosts;
mod site;

use std::time::{Duration, Instant};

use figures::{Figures, threads};
use hosts::Hosts;
use site::Site;

use crate::daemon::Failure;

/// How long idle daemons are watched.
const IDLE: Duration = Duration::from_secs(60);
/// Connections for actions close after 30 s without use, at the next tick (10 s).
const SETTLE: Duration = Duration::from_secs(45);
const JOBS_PER_HOST_MIN: usize = 20;
const JOBS_MIN: usize = 2000;

pub(crate) fn run(count: usize) -> Result<(), Failure> {
    println!("{count} hosts over SSH, one daemon");
    in_service(count, "default MaxConcurrentInstanceCreateOps (10)", "")?;
    in_service(count, "MaxConcurrentInstanceCreateOps: 64", "    MaxConcurrentInstanceCreateOps: 64\n")?;
    for hosts in [20, 100] {
        throughput(hosts)?;
    }
    Ok(())
}

/// From nothing to all hosts in service; the same after a restart; then what idle hosts cost.
fn in_service(count: usize, what: &str, more: &str) -> Result<(), Failure> {
    let mut site = Site::new(more)?;
    let hosts = Hosts::start(count, &site.public_key(), None)?;
    site.configure(&hosts)?;
    let began = Instant::now();
    site.start()?;
    let empty = Figures::of(site.pid())?;
    let array = format!("1-{count}");
    site.muster(&["submit", "--array", &array, "--vcpus", "2", "--", "true"])?;
    site.wait_in_service(count)?;
    show_start(&format!("from nothing, {what}"), began, &site, &hosts)?;
    site.wait_running(count)?;
    println!("    until all containers run         {:.1} s", began.elapsed().as_secs_f64());
    println!("    threads                          {}", threads(site.pid())?);

    site.stop()?;
    let spent = Figures::of(hosts.pid())?.processor;
    let began = Instant::now();
    site.start()?;
    site.wait_in_service(count)?;
    show_start("restart, all hosts taken and running", began, &site, &hosts)?;
    println!("    of that, hosts' processor        {:.1} s", Figures::of(hosts.pid())?.processor - spent);
    if more.is_empty() {
        idle(&site, count, empty)?;
    }
    site.stop()
}

fn show_start(what: &str, began: Instant, site: &Site, hosts: &Hosts) -> Result<(), Failure> {
    let took = began.elapsed().as_secs_f64();
    let (daemon, others) = (Figures::of(site.pid())?, Figures::of(hosts.pid())?);
    println!("  {what}");
    println!("    until all are in service         {took:.1} s");
    println!("    processor time                   {:.2} s (hosts so far {:.2} s)", daemon.processor, others.processor);
    println!("    threads, descriptors             {}, {}", daemon.threads, daemon.descriptors);
    Ok(())
}

fn idle(site: &Site, count: usize, empty: Figures) -> Result<(), Failure> {
    let workers = f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    std::thread::park_timeout(SETTLE);
    let before = Figures::of(site.pid())?;
    std::thread::park_timeout(IDLE);
    let after = Figures::of(site.pid())?;
    #[expect(clippy::cast_precision_loss, reason = "sizes of processes are far below 2^52")]
    let per = |more: u64| more as f64 / workers;
    println!("  {count} connected hosts with nothing to do, default intervals");
    println!("    threads                          {}", threads(site.pid())?);
    let descriptors = after.descriptors.saturating_sub(empty.descriptors) as u64;
    println!("    descriptors per worker           {:.2}", per(descriptors));
    println!("    memory per worker                {:.0} KiB", per(after.memory.saturating_sub(empty.memory)));
    println!("    memory in all                    {} KiB (with no worker {} KiB)", after.memory, empty.memory);
    println!("    processor time per minute        {:.2} s", after.processor - before.processor);
    Ok(())
}

/// Containers of no length, more than there is room for.
fn throughput(count: usize) -> Result<(), Failure> {
    let mut site = Site::new("    MaxConcurrentInstanceCreateOps: 64\n")?;
    let hosts = Hosts::start(count, &site.public_key(), Some(0))?;
    site.configure(&hosts)?;
    site.start()?;
    let jobs = JOBS_MIN.max(count * JOBS_PER_HOST_MIN);
    // All hosts are taken before the clock runs.
    site.muster(&["submit", "--array", &format!("1-{count}"), "--vcpus", "2", "--", "true"])?;
    site.wait_finished(count)?;
    let (before, hosts_before) = (Figures::of(site.pid())?, Figures::of(hosts.pid())?);
    let began = Instant::now();
    site.muster(&["submit", "--array", &format!("1-{jobs}"), "--vcpus", "2", "--", "true"])?;
    site.wait_finished(count + jobs)?;
    let took = began.elapsed().as_secs_f64();
    let (after, hosts_after) = (Figures::of(site.pid())?, Figures::of(hosts.pid())?);
    let many = f64::from(u32::try_from(jobs).unwrap_or(u32::MAX));
    println!("  {jobs} containers of no length, at most {count} hosts");
    println!("    per second                       {:.0}", many / took);
    let spent = (after.processor - before.processor) * 1000.0 / many;
    let others = (hosts_after.processor - hosts_before.processor) * 1000.0 / many;
    println!("    processor time per container     {spent:.2} ms (hosts {others:.2} ms)");
    println!("    threads                          {}", threads(site.pid())?);
    site.stop()
}
