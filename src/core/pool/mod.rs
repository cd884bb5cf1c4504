//! The pool.
pub mod view;
