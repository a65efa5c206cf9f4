//! Echo and discard over UDP (RFC 862, 863): whom they answer, and from where.

use std::net::{IpAddr, SocketAddr};

use weft_stack::socket::udp::{Datagram, UdpSend};

use crate::config::ServiceKind;

/// Ports of services that answer anything: an answer to them could be answered for ever.
const ANSWERING_PORTS: [u16; 6] = [7, 13, 17, 19, 37, 53];

/// Whether the service has a UDP side.
pub(super) fn speaks_udp(kind: &ServiceKind) -> bool {
    matches!(kind, ServiceKind::Echo | ServiceKind::Discard)
}

/// To the sender, from the address that was asked: one socket serves all addresses of the vserver,
/// those that come later too.
pub(super) fn back(asked: &Datagram) -> UdpSend {
    let link_local = matches!(asked.to, IpAddr::V6(a) if a.is_unicast_link_local());
    UdpSend {
        to: Some(asked.from),
        from: Some(asked.to),
        alias: link_local.then_some(asked.alias),
        ..UdpSend::default()
    }
}

/// Whether an answer cannot start a loop between two services.
pub(super) fn may_answer(from: SocketAddr, own_port: u16) -> bool {
    from.port() != own_port && !ANSWERING_PORTS.contains(&from.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_answering_services_do_not_talk_to_each_other() {
        let from = |port| SocketAddr::from(([10, 0, 0, 1], port));
        assert!(may_answer(from(40_000), 7));
        assert!(!may_answer(from(7), 7007));
        assert!(!may_answer(from(19), 7));
        assert!(!may_answer(from(7007), 7007));
    }
}
