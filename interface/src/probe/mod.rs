//! Probes: does a member reach anybody? ICMP, ARP and ND, transitive, and BFD.

mod verdict;

pub use verdict::{ProbeState, ProbeVerdict};
