//! Echo and discard over UDP (RFC 862, 863): where they listen and whom they answer.

use std::net::{IpAddr, SocketAddr};

use crate::config::ServiceKind;

/// Ports of services that answer anything: an answer to them could be answered for ever.
const ANSWERING_PORTS: [u16; 6] = [7, 13, 17, 19, 37, 53];

/// Whether the service has a UDP side.
pub(super) fn speaks_udp(kind: &ServiceKind) -> bool {
    matches!(kind, ServiceKind::Echo | ServiceKind::Discard)
}

/// Where the UDP sockets of a service are bound: one per address, so that an answer comes from the
/// address that was asked; the unspecified address where addresses come and go.
pub(super) fn local_addresses(
    listen: SocketAddr,
    configured: impl Iterator<Item = IpAddr>,
    learns: bool,
) -> Vec<SocketAddr> {
    if learns || !listen.ip().is_unspecified() {
        return vec![listen];
    }
    let mut all: Vec<_> = configured
        .filter(|a| listen.is_ipv6() || a.is_ipv4())
        .map(|a| SocketAddr::new(a, listen.port()))
        .collect();
    // The same address may stand on two aliases.
    all.sort();
    all.dedup();
    all
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

    #[test]
    fn sockets_stand_on_each_address() {
        let addrs: Vec<IpAddr> =
            ["10.0.0.1", "fd00::1", "10.0.0.1"].iter().map(|a| a.parse().unwrap()).collect();
        let on = |listen: &str, learns| {
            local_addresses(listen.parse().unwrap(), addrs.iter().copied(), learns)
        };
        let text = |list: Vec<SocketAddr>| list.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(text(on("[::]:7", false)), ["10.0.0.1:7", "[fd00::1]:7"]);
        assert_eq!(text(on("0.0.0.0:7", false)), ["10.0.0.1:7"]);
        assert_eq!(text(on("[::]:7", true)), ["[::]:7"]);
        assert_eq!(text(on("10.0.0.1:7", false)), ["10.0.0.1:7"]);
    }
}
