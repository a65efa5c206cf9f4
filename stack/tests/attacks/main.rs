//! Attacks, each by the RFC that names it: what an outsider or a hostile peer sends, that it has no
//! effect or a bounded one, and that it is counted.
#![allow(missing_docs, unreachable_pub, dead_code, clippy::unwrap_used, clippy::missing_panics_doc)]

#[path = "../net/mod.rs"]
mod net;

mod below;
mod fixture;
mod flood;
mod injection;
mod memory;
mod spoofed_icmp;
