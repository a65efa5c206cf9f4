//! Wire formats: `smoltcp::wire` behind our names, and what it lacks.
//!
//! Its parsers check lengths and do not panic; its emitters panic on short buffers, so every
//! emitter here sizes its buffer first. Its `TcpRepr` is not used (it loses ECE, CWR, URG and the
//! fourth SACK block).

pub mod checksum;
