//! What single stages of the stack cost, in time and in instructions, without any device.
//!
//! [`pair`] joins two stacks; [`peer`] makes the frames of a peer that is none, so that one stack
//! alone is measured; [`receive`] and [`send`] do that for bulk, beside smoltcp in [`rival`];
//! [`shim`] has two stacks above multipath shims; [`scenario`] lists what `weft-count` counts.

pub mod pair;
pub mod peer;
pub mod receive;
pub mod rival;
pub mod scenario;
pub mod send;
pub mod shim;
