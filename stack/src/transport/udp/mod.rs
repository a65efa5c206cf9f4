//! UDP (RFC 768).

/// UDP of one stack.
#[derive(Debug, Default)]
pub(crate) struct Udp {}
