//! The driver `static` (spec 46 §1) with real commands, real runners and real files on hosts that are directories of this machine.

mod cleanup;
mod concurrency;
mod crashes;
mod fake;
mod leases;
mod lifecycle;
mod real;
mod site;
mod taking;
mod trust;
