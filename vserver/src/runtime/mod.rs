//! What runs a host: the worker, its lock, its deadlines, its sleep.
//!
//! One [`Worker`] owns the devices and a stack per vserver behind one lock. Its thread receives,
//! runs timers and transmits; application threads take the lock for each call and transmit what
//! the call produced themselves. `docs/host.md` has the whole picture.

mod above;
mod account;
mod addresses;
mod any;
mod captures;
mod core;
pub(crate) mod deadlines;
mod egress;
mod examining;
mod handover;
mod hooks;
mod idle;
mod ingress;
mod keeping;
mod links;
mod live;
mod mesh;
mod neighbours;
mod nic;
mod node;
mod notify;
pub(crate) mod open;
mod pins;
mod retree;
mod seat;
mod shares;
mod sleeper;
mod stages;
mod tx_queue;
mod worker;

pub(crate) use self::core::{AliasPlace, Core, Sleep};
pub(crate) use any::{Ring, Taker};
pub(crate) use examining::show_home;
pub(crate) use keeping::Keeping;
pub(crate) use links::Links;
pub(crate) use live::{NodeId, removed};
pub(crate) use mesh::{HandOverStats, Mesh};
pub(crate) use neighbours::NeighbourTables;
pub(crate) use nic::Nic;
pub(crate) use node::{Calls, Node};
pub(crate) use notify::{Notify, Queue};
pub(crate) use pins::Pins;
pub(crate) use retree::{LinksView, Retree, retree};
pub(crate) use stages::{Cost, Stages};
pub(crate) use worker::{Clock, Leave, Wait, Worker, worker_loop};

/// A stack as the host builds them.
pub(crate) type HostStack = weft_stack::Stack<weft_shim::layer::Layer>;
