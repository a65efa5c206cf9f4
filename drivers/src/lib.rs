//! Devices that carry frames between weft and the world, one [`device::Device`] per queue.
//!
//! The way in starts here: a NIC ring, a TUN descriptor or the other end of a memory pair.
//! All of the project's `unsafe` except the frame module of the stack lives in this crate.
pub mod afxdp;
pub mod capture;
pub mod device;
pub mod ethtool;
pub mod fault;
mod intake;
pub mod mem;
pub mod netlink;
pub mod netns;
pub mod nic;
pub mod packet;
pub mod pcapng;
pub mod peer;
pub mod segment;
mod sockopt;
pub mod ticks;
pub mod tuntap;
mod vnet;
