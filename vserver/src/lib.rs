//! The host: many virtual servers on shared devices, and the faces applications use.
//!
//! A [`Host`] is made from a [`config::HostConfig`]; it opens the devices, starts the worker and
//! gives a [`Vserver`] handle per virtual server. Sockets of a vserver are made through the types
//! of [`net`], which look like the standard library's.

pub mod config;
mod demux;
mod host;
pub mod interface;
pub mod net;
mod runtime;
pub mod service;
pub mod stats;
mod vserver;

pub use host::{Devices, Host, HostError};
pub use vserver::Vserver;
