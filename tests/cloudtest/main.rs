//! `muster cloudtest` (spec 40 §7): its steps with a driver whose calls fail as the test says, and the command itself.

mod command;
mod running;
mod signals;
mod steps;
mod stub;
