//! The management API: HTTP listener, requests, JSON, metrics (spec 82, 80 §5).
//!
//! A request's way: `server` (accept) → `http` (bytes) → `handler` (layers, token) → `routes` and `operation` (parse) →
//! `act` → [`backend::Backend`], which the daemon implements.

pub mod backend;
pub mod server;

pub mod act;
pub mod handler;
pub mod http;
pub mod operation;
pub mod query;
pub mod routes;
pub mod token;

pub mod arvados;
pub mod records;

pub mod gauges;
pub mod metrics;
pub mod metrics_json;
