//! The host: many virtual servers on shared devices, and the faces applications use.

pub mod config;
