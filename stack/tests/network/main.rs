//! Stacks on cables in virtual time, and packets made by hand.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used)]

mod access;
mod allocations;
mod fixture;
mod garbage;
mod ip;
mod path;
mod raw;
mod tcp;
mod udp;
