//! Stacks over a path layer that maps packets: two hosts, two providers each, in virtual time.
#![allow(missing_docs, unreachable_pub, clippy::unwrap_used, clippy::missing_panics_doc)]

mod addresses;
mod below;
mod errors;
mod layer;
mod short_way;
mod switches;
mod world;
