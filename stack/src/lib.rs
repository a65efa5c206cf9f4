//! A sans-IO TCP/IP stack. One [`Stack`] is one logical stack of a virtual server (or one worker's
//! shard of it): frames and time go in, frames, deadlines and events come out. It has no clock, no
//! thread, no socket and no global; see [`stack`] for the contract.
//!
//! The modules stand in the order of a received packet: [`link`], [`ip`], [`path`], [`transport`],
//! [`socket`]. Imports run the other way only through the argument types of the next module.
#![deny(unsafe_code)]

pub mod admission;
pub mod any;
mod ctx;
pub mod drop;
pub mod frame;
mod hash;
pub mod ip;
pub mod link;
mod lower;
pub mod path;
pub mod rng;
pub mod seq;
pub mod shard;
mod small_map;
pub mod socket;
pub mod stack;
pub mod stats;
pub mod time;
pub mod timer_wheel;
pub mod transport;
pub mod wire;

pub use stack::Stack;
