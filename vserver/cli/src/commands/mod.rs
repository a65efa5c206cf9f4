//! One module per command: its options and what it does.

pub mod access;
pub mod apply;
pub mod audit;
pub mod bonds;
pub mod check;
pub mod completions;
pub mod daemon;
pub mod dhcp;
pub mod dhcp_config;
pub mod events;
pub mod export;
pub mod interface;
pub mod interfaces;
pub mod list;
pub mod neighbours;
pub mod paths;
pub mod ping;
pub mod policy;
pub mod qos;
pub mod register;
pub mod resolve;
pub mod routes;
pub mod run;
pub mod runtime;
pub mod sockets;
pub mod stat;
