//! A handle on one virtual server.

/// A virtual server of a running host: what sockets are made on. Cheap to clone; it does not keep
/// the host running.
#[derive(Clone, Debug)]
pub struct Vserver {
    name: std::sync::Arc<str>,
}

impl Vserver {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Number of the alias of that name (`data0`), for multicast joins.
    pub fn alias(&self, name: &str) -> Option<weft_stack::ip::address::AliasId> {
        let _ = name;
        todo!()
    }

    /// Addresses in use now (configured ones that passed duplicate detection, and learned ones).
    pub fn addresses(&self) -> Vec<std::net::IpAddr> {
        todo!()
    }
}
