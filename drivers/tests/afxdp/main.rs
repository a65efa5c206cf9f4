//! AF_XDP over veth pairs in namespaces of their own, against the kernel and against itself.
#![allow(unreachable_pub)]

mod lab;
mod round_trip;
