//! Probes: does a member reach anybody? ICMP, ARP and ND, transitive, and BFD.
