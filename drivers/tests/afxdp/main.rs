//! AF_XDP over veth pairs in namespaces of their own, against the kernel and against itself.
#![allow(unreachable_pub, clippy::unwrap_used)]

mod gather;
mod groups;
mod lab;
mod life;
mod object;
mod round_trip;
mod steering;
