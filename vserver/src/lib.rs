//! The host: many virtual servers on shared devices, and the faces applications use.
//!
//! A [`Host`] is made from a [`config::HostConfig`]; it opens the devices, starts the worker and
//! gives a [`Vserver`] handle per virtual server. Sockets of a vserver are made through the types
//! of [`net`], which look like the standard library's.
//!
//! A host in a program of twenty lines. The memory driver needs no privilege; with
//! `driver = "af-xdp"` and a NIC's name the same program serves a network.
//!
//! ```
//! use std::io::{Read, Write};
//! use weft_vserver::net::{TcpListener, TcpStream};
//! use weft_vserver::{Host, config};
//!
//! let text = r#"
//!     [nic.eth0]
//!     device = "mem0"
//!     driver = "mem"
//!     [alias.data0]
//!     over = "eth0"
//!     [vserver.web]
//!     addresses = ["data0 10.0.0.1/24"]
//!     [vserver.client]
//!     addresses = ["data0 10.0.0.2/24"]
//! "#;
//! let host = Host::start(config::parse(text, "example.toml".as_ref())?)?;
//! let (web, client) = (host.vserver("web").unwrap(), host.vserver("client").unwrap());
//!
//! let listener = TcpListener::bind(&web, "10.0.0.1:80".parse()?)?;
//! let server = std::thread::spawn(move || {
//!     let (mut stream, _) = listener.accept()?;
//!     stream.write_all(b"hello")
//! });
//! let mut stream = TcpStream::connect(&client, "10.0.0.1:80".parse()?)?;
//! let mut greeting = String::new();
//! stream.read_to_string(&mut greeting)?;
//! assert_eq!(greeting, "hello");
//! server.join().unwrap()?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub mod access;
pub mod app;
mod arrival;
pub mod capture;
pub mod change;
pub mod config;
mod connect;
pub mod control;
mod demux;
pub mod dhcp;
mod facts;
mod host;
pub mod interface;
pub mod mdns;
pub mod naming;
pub mod net;
pub mod nodes;
pub mod ping;
pub mod privilege;
pub mod qos;
pub mod register;
pub mod resolver;
mod runtime;
pub mod server_config;
pub mod service;
pub mod sockets;
pub mod stats;
mod vserver;

pub use arrival::{Arrival, VserverId};
pub use host::{
    AccessError, Devices, Host, HostError, NeighbourLine, NeighbourReport, PROBE_WAIT, QosChange,
    SharedNeighbourTable, ShimContext, ShimError, ShimEvent, ShimEventPages, ShimLocatorLine,
    ShimPath, ShimReport, ShimWish, VserverShim,
};
pub use vserver::Vserver;

/// The README's program is compiled and run too.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
