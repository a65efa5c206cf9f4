//! Multipath shim below stable upper-layer identifiers.
