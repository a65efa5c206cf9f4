//! Aggregates: several ports that act as one (IEEE 802.1AX).
