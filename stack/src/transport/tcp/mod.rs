//! TCP (RFC 9293), split by direction.
