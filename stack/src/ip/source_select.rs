//! Source address selection (RFC 6724 section 5), for both families.

use core::cmp::Reverse;
use core::net::{IpAddr, Ipv6Addr};

use super::address::{Address, AddressState};

/// Scope of an address, as the numbers of multicast scopes (RFC 6724 3.1, 3.2).
fn scope(addr: IpAddr) -> u8 {
    match addr {
        IpAddr::V4(a) if a.is_loopback() || a.is_link_local() => 2,
        IpAddr::V4(_) => 14,
        IpAddr::V6(a) if a.is_multicast() => a.octets()[1] & 15,
        IpAddr::V6(a) if a.is_loopback() || a.is_unicast_link_local() => 2,
        IpAddr::V6(a) if a.segments()[0] & 0xffc0 == 0xfec0 => 5,
        IpAddr::V6(_) => 14,
    }
}

/// Label of an address by the default policy table (RFC 6724 2.1).
fn label(addr: IpAddr) -> u8 {
    let IpAddr::V6(a) = addr else { return 4 };
    let s = a.segments();
    match s {
        _ if a == Ipv6Addr::LOCALHOST => 0,
        [0, 0, 0, 0, 0, 0xffff, ..] => 4,
        [0, 0, 0, 0, 0, 0, ..] => 3,
        [0x2002, ..] => 2,
        [0x2001, 0, ..] => 5,
        [0x3ffe, ..] => 12,
        _ if s[0] & 0xfe00 == 0xfc00 => 13,
        _ if s[0] & 0xffc0 == 0xfec0 => 11,
        _ => 1,
    }
}

/// Leading bits that two addresses share.
fn common_prefix(a: IpAddr, b: IpAddr) -> u32 {
    match (a, b) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (u32::from(a) ^ u32::from(b)).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (u128::from(a) ^ u128::from(b)).leading_zeros(),
        _ => 0,
    }
}

/// The best source for `dst` among the addresses of the outgoing alias. Among equals the address
/// configured first wins. Rules 4 (home addresses) and 7 (temporary addresses) have no object here;
/// rule 5 holds because only the outgoing alias's addresses are asked.
pub(crate) fn select(candidates: &[Address], dst: IpAddr, next_hop: IpAddr) -> Option<IpAddr> {
    let wanted = scope(dst);
    let usable =
        candidates.iter().filter(|a| a.state.usable() && a.cidr.addr.is_ipv4() == dst.is_ipv4());
    let best = usable.min_by_key(|a| {
        let addr = a.cidr.addr;
        let scope = scope(addr);
        // Rule 2: the smallest scope that still reaches; else the widest below it.
        let reach = if scope >= wanted { (false, scope) } else { (true, u8::MAX - scope) };
        (
            addr != dst,
            reach,
            a.state == AddressState::Deprecated,
            // Rule 5.5: the network of the next hop.
            !a.cidr.contains(next_hop),
            label(addr) != label(dst),
            Reverse(common_prefix(addr, dst).min(u32::from(a.cidr.prefix_len))),
        )
    });
    best.map(|a| a.cidr.addr)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ip::address::Origin;

    fn pick(candidates: &[&str], dst: &str, next_hop: &str) -> String {
        let candidates: Vec<Address> = candidates
            .iter()
            .map(|text| {
                let (text, state) = match text.strip_suffix(" deprecated") {
                    Some(text) => (text, AddressState::Deprecated),
                    None => (*text, AddressState::Preferred),
                };
                Address { cidr: text.parse().unwrap(), state, origin: Origin::Static }
            })
            .collect();
        select(&candidates, dst.parse().unwrap(), next_hop.parse().unwrap())
            .map_or_else(|| "none".to_owned(), |a| a.to_string())
    }

    #[test]
    fn the_table_of_rfc_6724_10_1() {
        let table: &[(&[&str], &str, &str)] = &[
            // Prefer appropriate scope.
            (&["2001:db8:3::1/64", "fe80::1/64"], "2001:db8:1::1", "2001:db8:3::1"),
            (&["2001:db8:3::1/64", "fe80::1/64"], "ff05::1", "2001:db8:3::1"),
            (&["2001:db8:3::1/64", "fe80::1/64"], "fe80::9", "fe80::1"),
            (&["fe80::1/64", "2001:db8:3::1/64"], "ff02::1", "fe80::1"),
            // Prefer same address.
            (&["2001:db8:1::1 deprecated", "2001:db8:3::1/64"], "2001:db8:1::1", "2001:db8:1::1"),
            // Avoid deprecated.
            (
                &["2001:db8:1::1/64 deprecated", "2001:db8:2::1/64"],
                "2001:db8:1::9",
                "2001:db8:2::1",
            ),
            // Longest matching prefix.
            (&["2001:db8:1::1/64", "2001:db8:3::1/64"], "2001:db8:1::9", "2001:db8:1::1"),
            (&["2001:db8:3::1/64", "2001:db8:1::1/64"], "2001:db8:1::9", "2001:db8:1::1"),
            // Prefer matching label.
            (
                &["2002:c633:6401::1/64", "2001:db8:1::1/64"],
                "2002:c633:6401::9",
                "2002:c633:6401::1",
            ),
            (&["fd00::1/64", "2001:db8:1::1/64"], "2606::9", "2001:db8:1::1"),
            (&["2001:db8:1::1/64", "fd00::1/64"], "fd22::9", "fd00::1"),
            // IPv4.
            (&["10.0.0.1/24", "10.0.1.1/24"], "10.0.1.9", "10.0.1.1"),
            (&["169.254.3.4/16", "192.0.2.1/24"], "198.51.100.1", "192.0.2.1"),
            (&["10.0.0.1/24", "10.0.0.2/24"], "10.0.0.9", "10.0.0.1"),
            (&["fd00::1/64"], "10.0.0.9", "none"),
        ];
        for (candidates, dst, expect) in table {
            let expect = (*expect).to_owned();
            assert_eq!(pick(candidates, dst, dst), expect, "from {candidates:?} to {dst}");
        }
    }

    #[test]
    fn the_network_of_the_next_hop_is_preferred() {
        let candidates = ["2001:db8:1::1/64", "2001:db8:ff::1/64"];
        assert_eq!(pick(&candidates, "2001:db8:1:1::9", "2001:db8:ff::fe"), "2001:db8:ff::1");
    }
}
