//! DHCPv4 messages (RFC 2131 2, RFC 2132, RFC 3396).
//!
//! Our own reader, for it looks at bytes that anybody on the link may send: the crates that there
//! are give a whole message up for one bad text, leave out what is overloaded into `sname` and
//! `file`, and do not say what was wrong.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use super::lease::{FOREVER_S, Lease, LeaseRoute, hex, names, plain};

/// RFC 2131 2.
const HEADER_BYTES: usize = 236;
const COOKIE: [u8; 4] = [99, 130, 83, 99];
/// Servers and relays may drop less (RFC 1542 2.1).
const BYTES_MIN: usize = 300;
const BROADCAST_FLAG: u16 = 0x8000;

/// Option codes.
pub(super) mod code {
    pub(crate) const MASK: u8 = 1;
    pub(crate) const ROUTER: u8 = 3;
    pub(crate) const DNS: u8 = 6;
    pub(crate) const HOST_NAME: u8 = 12;
    pub(crate) const DOMAIN: u8 = 15;
    pub(crate) const MTU: u8 = 26;
    pub(crate) const NTP: u8 = 42;
    pub(crate) const VENDOR: u8 = 43;
    pub(crate) const REQUESTED: u8 = 50;
    pub(crate) const LEASE: u8 = 51;
    pub(crate) const OVERLOAD: u8 = 52;
    pub(crate) const TYPE: u8 = 53;
    pub(crate) const SERVER: u8 = 54;
    pub(crate) const PARAMETERS: u8 = 55;
    pub(crate) const TEXT: u8 = 56;
    pub(crate) const SIZE_MAX: u8 = 57;
    pub(crate) const T1: u8 = 58;
    pub(crate) const T2: u8 = 59;
    pub(crate) const CLASS: u8 = 60;
    pub(crate) const CLIENT: u8 = 61;
    pub(crate) const SEARCH: u8 = 119;
    pub(crate) const ROUTES: u8 = 121;
}

/// What is asked for (option 55). 121 stands before 3, as RFC 3442 wants.
const PARAMETERS: [u8; 12] = [
    code::MASK,
    code::ROUTES,
    code::ROUTER,
    code::DNS,
    code::HOST_NAME,
    code::DOMAIN,
    code::MTU,
    code::NTP,
    code::VENDOR,
    code::T1,
    code::T2,
    code::SEARCH,
];

/// Types of messages (RFC 2132 9.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Discover = 1,
    Offer = 2,
    Request = 3,
    Decline = 4,
    Ack = 5,
    Nak = 6,
    Release = 7,
}

/// Why a message is none, or not for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Malformed {
    /// Shorter than its header, or an option longer than what is left.
    Truncated,
    /// Not a reply of DHCP: another operation, no magic cookie, no type.
    NotDhcp,
    /// An option that the lease needs is missing or has a wrong length.
    Option,
    /// An address that no host can have.
    Address,
}

/// A message to a server.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) kind: Kind,
    pub(super) xid: u32,
    pub(super) secs: u16,
    pub(super) mac: [u8; 6],
    /// Data of option 61.
    pub(super) client: &'a [u8],
    pub(super) class: &'a str,
    /// Our address, if it is in use.
    pub(super) ciaddr: Option<Ipv4Addr>,
    pub(super) requested: Option<Ipv4Addr>,
    pub(super) server: Option<Ipv4Addr>,
    pub(super) text: &'a str,
}

impl Ask<'_> {
    pub(super) fn emit(&self) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        // BOOTREQUEST, Ethernet, six bytes
        out[..3].copy_from_slice(&[1, 1, 6]);
        out[4..8].copy_from_slice(&self.xid.to_be_bytes());
        out[8..10].copy_from_slice(&self.secs.to_be_bytes());
        // Frames to an address that we do not have yet would not reach us.
        if self.ciaddr.is_none() {
            out[10..12].copy_from_slice(&BROADCAST_FLAG.to_be_bytes());
        }
        out[12..16].copy_from_slice(&self.ciaddr.unwrap_or(Ipv4Addr::UNSPECIFIED).octets());
        out[28..34].copy_from_slice(&self.mac);
        out.extend(COOKIE);
        option(&mut out, code::TYPE, &[self.kind as u8]);
        option(&mut out, code::CLIENT, self.client);
        let asks = matches!(self.kind, Kind::Discover | Kind::Request);
        if let Some(addr) = self.requested {
            option(&mut out, code::REQUESTED, &addr.octets());
        }
        if let Some(addr) = self.server {
            option(&mut out, code::SERVER, &addr.octets());
        }
        if asks {
            option(&mut out, code::SIZE_MAX, &1472_u16.to_be_bytes());
            option(&mut out, code::CLASS, self.class.as_bytes());
            option(&mut out, code::PARAMETERS, &PARAMETERS);
        } else if !self.text.is_empty() {
            option(&mut out, code::TEXT, self.text.as_bytes());
        }
        out.push(255);
        out.resize(out.len().max(BYTES_MIN), 0);
        out
    }
}

/// Long ones go in pieces (RFC 3396); empty ones not at all.
fn option(out: &mut Vec<u8>, code: u8, data: &[u8]) {
    for piece in data.chunks(255) {
        out.extend([code, piece.len() as u8]);
        out.extend(piece);
    }
}

/// A message from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) kind: Kind,
    pub(super) xid: u32,
    pub(super) mac: [u8; 6],
    pub(super) yiaddr: Ipv4Addr,
    pub(super) server: Option<Ipv4Addr>,
    /// Option 61, which servers send back (RFC 6842).
    pub(super) client: Option<Vec<u8>>,
    pub(super) text: String,
    options: BTreeMap<u8, Vec<u8>>,
}

fn addr(bytes: &[u8]) -> Option<Ipv4Addr> {
    Some(Ipv4Addr::from(<[u8; 4]>::try_from(bytes).ok()?))
}

/// A prefix of a datagram's payload: transaction and client, which decide whose it is.
pub(super) fn whose(data: &[u8]) -> Option<(u32, [u8; 6])> {
    let xid = u32::from_be_bytes(data.get(4..8)?.try_into().ok()?);
    let reply = data[..3] == [2, 1, 6] && data.get(HEADER_BYTES..HEADER_BYTES + 4) == Some(&COOKIE);
    reply.then_some((xid, data.get(28..34)?.try_into().ok()?))
}

impl Reply {
    pub(super) fn parse(data: &[u8]) -> Result<Reply, Malformed> {
        if data.len() < HEADER_BYTES + 4 {
            return Err(Malformed::Truncated);
        }
        let (xid, mac) = whose(data).ok_or(Malformed::NotDhcp)?;
        let mut options = BTreeMap::new();
        read_options(&data[HEADER_BYTES + 4..], &mut options)?;
        // RFC 2131 4.1: file before sname.
        let overload = match options.get(&code::OVERLOAD).map(Vec::as_slice) {
            Some([which]) => *which,
            _ => 0,
        };
        if overload & 1 != 0 {
            read_options(&data[108..236], &mut options)?;
        }
        if overload & 2 != 0 {
            read_options(&data[44..108], &mut options)?;
        }
        let kind = match options.get(&code::TYPE).map(Vec::as_slice) {
            Some([2]) => Kind::Offer,
            Some([5]) => Kind::Ack,
            Some([6]) => Kind::Nak,
            _ => return Err(Malformed::NotDhcp),
        };
        let text = options.get(&code::TEXT).map(|t| plain(t)).unwrap_or_default();
        Ok(Reply {
            kind,
            xid,
            mac,
            yiaddr: addr(&data[16..20]).unwrap_or(Ipv4Addr::UNSPECIFIED),
            server: options.get(&code::SERVER).and_then(|d| addr(d)),
            client: options.get(&code::CLIENT).cloned(),
            text,
            options,
        })
    }

    /// Whether it carries vendor-encapsulated options.
    pub(super) fn has_vendor(&self) -> bool {
        self.options.contains_key(&code::VENDOR)
    }

    /// The lease of an offer or acknowledgement, and how many options of it were left out for a
    /// wrong length.
    pub(super) fn lease(&self) -> Result<(Lease, u64), Malformed> {
        let server = self.server.ok_or(Malformed::Option)?;
        let prefix_len = self.prefix_len()?;
        let host = |a: Ipv4Addr| {
            !(a.is_unspecified() || a.is_multicast() || a.is_loopback() || a.octets()[0] >= 240)
        };
        let cidr = weft_stack::ip::address::Cidr { addr: self.yiaddr.into(), prefix_len };
        let network = prefix_len < 31
            && (cidr.network().addr == cidr.addr || cidr.broadcast() == Some(cidr.addr));
        if !host(self.yiaddr) || self.yiaddr.octets()[0] == 0 || network || !host(server) {
            return Err(Malformed::Address);
        }
        let valid_s = self.seconds(code::LEASE)?.filter(|s| *s > 0).ok_or(Malformed::Option)?;
        let part =
            |eighths: u32| if valid_s == FOREVER_S { FOREVER_S } else { valid_s / 8 * eighths };
        // RFC 2131 4.4.5: 0.5 and 0.875 of the lease; what the server says must be in order.
        let rebind_s = self.seconds(code::T2)?.filter(|t| *t <= valid_s).unwrap_or(part(7));
        let renew_s = self.seconds(code::T1)?.filter(|t| *t <= rebind_s);
        let renew_s = renew_s.unwrap_or(part(4).min(rebind_s));
        let mut bad = 0;
        let lease = Lease {
            address: self.yiaddr.into(),
            prefix_len,
            server: hex(&server.octets()),
            valid_s,
            preferred_s: valid_s,
            renew_s,
            rebind_s,
            routes: self.routes(&mut bad),
            mtu: self.mtu(&mut bad),
            dns: self.addresses(code::DNS, &mut bad).map(IpAddr::from).collect(),
            search: self.search(),
            ntp: self.addresses(code::NTP, &mut bad).map(|a| a.to_string()).collect(),
            host_name: self.options.get(&code::HOST_NAME).map(|t| plain(t)),
            vendor: self.vendor(&mut bad),
        };
        Ok((lease, bad))
    }

    fn prefix_len(&self) -> Result<u8, Malformed> {
        let Some(mask) = self.options.get(&code::MASK) else {
            // Classful, as before there were masks.
            return Ok(match self.yiaddr.octets()[0] {
                0..=127 => 8,
                128..=191 => 16,
                _ => 24,
            });
        };
        let mask = u32::from(addr(mask).ok_or(Malformed::Option)?);
        let ones = mask.leading_ones();
        let whole = mask.checked_shl(ones).unwrap_or(0) == 0;
        if whole && ones > 0 { Ok(ones as u8) } else { Err(Malformed::Option) }
    }

    fn seconds(&self, code: u8) -> Result<Option<u32>, Malformed> {
        let Some(data) = self.options.get(&code) else { return Ok(None) };
        let bytes = data.as_slice().try_into().map_err(|_| Malformed::Option)?;
        Ok(Some(u32::from_be_bytes(bytes)))
    }

    fn addresses(&self, code: u8, bad: &mut u64) -> impl Iterator<Item = Ipv4Addr> + '_ {
        let data = self.options.get(&code).map_or(&[][..], Vec::as_slice);
        *bad += u64::from(!data.len().is_multiple_of(4));
        let usable = |a: &Ipv4Addr| !(a.is_unspecified() || a.is_multicast() || a.is_broadcast());
        data.chunks_exact(4).filter_map(addr).filter(usable).take(16)
    }

    fn mtu(&self, bad: &mut u64) -> Option<u16> {
        let data = self.options.get(&code::MTU)?;
        let mtu = <[u8; 2]>::try_from(data.as_slice()).ok().map(u16::from_be_bytes);
        // RFC 2132 5.1
        let mtu = mtu.filter(|m| *m >= 68);
        *bad += u64::from(mtu.is_none());
        mtu
    }

    fn search(&self) -> Vec<String> {
        let listed = self.options.get(&code::SEARCH).map(|d| names(d)).unwrap_or_default();
        if !listed.is_empty() {
            return listed;
        }
        let domain = self.options.get(&code::DOMAIN).map(|d| plain(d));
        domain.filter(|d| !d.is_empty()).into_iter().collect()
    }

    /// RFC 3442: option 121, which goes before option 3.
    fn routes(&self, bad: &mut u64) -> Vec<LeaseRoute> {
        if let Some(data) = self.options.get(&code::ROUTES) {
            if let Some(routes) = classless(data) {
                return routes;
            }
            *bad += 1;
        }
        let default = |via: Ipv4Addr| LeaseRoute {
            to: Ipv4Addr::UNSPECIFIED.into(),
            prefix_len: 0,
            via: Some(via.into()),
        };
        self.addresses(code::ROUTER, bad).take(1).map(default).collect()
    }

    /// RFC 2132 8.4: sub-options of code, length, bytes.
    fn vendor(&self, bad: &mut u64) -> Vec<(u16, String)> {
        let Some(data) = self.options.get(&code::VENDOR) else { return Vec::new() };
        let mut found = BTreeMap::new();
        *bad += u64::from(read_options(data, &mut found).is_err());
        found.into_iter().map(|(code, data)| (code.into(), hex(&data))).collect()
    }
}

/// Adds options to those read before; parts of one option are joined (RFC 3396).
fn read_options(mut data: &[u8], into: &mut BTreeMap<u8, Vec<u8>>) -> Result<(), Malformed> {
    while let Some((code, rest)) = data.split_first() {
        data = rest;
        match *code {
            0 => continue,
            255 => break,
            _ => {}
        }
        let (len, rest) = data.split_first().ok_or(Malformed::Truncated)?;
        let body = rest.get(..usize::from(*len)).ok_or(Malformed::Truncated)?;
        data = &rest[body.len()..];
        into.entry(*code).or_default().extend(body);
    }
    Ok(())
}

/// Widths, the significant bytes of networks, gateways; 0.0.0.0 is the link. `None`: malformed.
fn classless(mut data: &[u8]) -> Option<Vec<LeaseRoute>> {
    let mut routes = Vec::new();
    while let Some((width, rest)) = data.split_first() {
        let bytes = usize::from(width.div_ceil(8));
        if *width > 32 || routes.len() == 64 {
            return None;
        }
        let mut to = [0; 4];
        to[..bytes].copy_from_slice(rest.get(..bytes)?);
        let via = addr(rest.get(bytes..bytes + 4)?)?;
        let to = weft_stack::ip::address::Cidr { addr: to.into(), prefix_len: *width }.network();
        routes.push(LeaseRoute {
            to: to.addr,
            prefix_len: *width,
            via: (!via.is_unspecified()).then_some(via.into()),
        });
        data = &rest[bytes + 4..];
    }
    Some(routes)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A reply of a server.
    pub(crate) fn reply(kind: Kind, xid: u32, yiaddr: [u8; 4], options: &[(u8, &[u8])]) -> Vec<u8> {
        let mut out = vec![0; HEADER_BYTES];
        out[..3].copy_from_slice(&[2, 1, 6]);
        out[4..8].copy_from_slice(&xid.to_be_bytes());
        out[16..20].copy_from_slice(&yiaddr);
        out[28..34].copy_from_slice(&[2, 0, 0, 0, 0, 1]);
        out.extend(COOKIE);
        option(&mut out, code::TYPE, &[kind as u8]);
        for (code, data) in options {
            option(&mut out, *code, data);
        }
        out.push(255);
        out
    }

    const GOOD: [(u8, &[u8]); 3] =
        [(54, &[10, 0, 0, 1]), (51, &[0, 0, 1, 0]), (1, &[255, 255, 255, 0])];

    fn lease(options: &[(u8, &[u8])]) -> Result<(Lease, u64), Malformed> {
        let all = [&GOOD[..], options].concat();
        Reply::parse(&reply(Kind::Ack, 7, [10, 0, 0, 5], &all))?.lease()
    }

    // RFC 2132 3, 4, 8, 9; RFC 3397; RFC 3442
    #[test]
    fn a_lease_has_what_its_options_say() {
        let (l, bad) = lease(&[
            (3, &[10, 0, 0, 254, 10, 0, 0, 253]),
            (6, &[10, 0, 0, 53, 10, 0, 0, 54]),
            (15, b"example.net"),
            (26, &[5, 0]),
            (42, &[10, 0, 0, 123]),
            (43, &[1, 2, 7, 8, 3, 0]),
            (58, &[0, 0, 0, 100]),
            (59, &[0, 0, 0, 200]),
            (12, b"files\x1b"),
        ])
        .unwrap();
        assert_eq!(l.cidr().to_string(), "10.0.0.5/24");
        assert_eq!((l.valid_s, l.renew_s, l.rebind_s, bad), (256, 100, 200, 0));
        assert_eq!((l.server_text(), l.mtu), ("10.0.0.1".into(), Some(1280)));
        let default: IpAddr = "0.0.0.0".parse().unwrap();
        assert_eq!((l.routes.len(), l.routes[0].to, l.routes[0].prefix_len), (1, default, 0));
        assert_eq!(l.dns.len(), 2);
        assert_eq!((l.search, l.ntp), (vec!["example.net".into()], vec!["10.0.0.123".to_owned()]));
        assert_eq!(l.host_name.as_deref(), Some("files"));
        assert_eq!(l.vendor, [(1, "0708".into()), (3, String::new())]);
    }

    // RFC 3442
    #[test]
    fn classless_routes_go_before_the_router() {
        let routes = [24, 192, 0, 2, 10, 0, 0, 9, 0, 10, 0, 0, 8, 25, 10, 9, 9, 128, 0, 0, 0, 0];
        let (l, _) = lease(&[(3, &[10, 0, 0, 254]), (121, &routes)]).unwrap();
        let text: Vec<_> = l
            .routes
            .iter()
            .map(|r| {
                format!(
                    "{}/{} {}",
                    r.to,
                    r.prefix_len,
                    r.via.map_or("link".into(), |v| v.to_string())
                )
            })
            .collect();
        assert_eq!(text, ["192.0.2.0/24 10.0.0.9", "0.0.0.0/0 10.0.0.8", "10.9.9.128/25 link"]);
        let (l, bad) = lease(&[(3, &[10, 0, 0, 254]), (121, &routes[..7])]).unwrap();
        assert_eq!((l.routes.len(), bad), (1, 1), "malformed: the router's");
    }

    // RFC 2131 4.4.5
    #[test]
    fn times_that_are_missing_or_out_of_order_are_parts_of_the_lease() {
        let (l, _) = lease(&[]).unwrap();
        assert_eq!((l.renew_s, l.rebind_s), (128, 224));
        let (l, _) = lease(&[(58, &[0, 0, 1, 0]), (59, &[0, 0, 0, 10])]).unwrap();
        assert_eq!((l.renew_s, l.rebind_s), (10, 10));
    }

    // RFC 2131 4.1, RFC 3396
    #[test]
    fn options_are_joined_and_read_from_sname_and_file() {
        let mut m = reply(Kind::Ack, 7, [10, 0, 0, 5], &GOOD);
        m.pop();
        m.extend([52, 1, 3, 6, 4, 10, 0, 0, 53, 255]);
        m[108..117].copy_from_slice(&[6, 4, 10, 0, 0, 54, 26, 2, 5]);
        m[117] = 0xdc;
        m[118] = 255;
        m[44..51].copy_from_slice(&[6, 4, 10, 0, 0, 55, 255]);
        let (l, _) = Reply::parse(&m).unwrap().lease().unwrap();
        let dns: Vec<_> = l.dns.iter().map(ToString::to_string).collect();
        assert_eq!(
            (dns, l.mtu),
            (vec!["10.0.0.53".into(), "10.0.0.54".into(), "10.0.0.55".to_owned()], Some(1500))
        );
    }

    #[test]
    fn what_is_malformed_has_its_reason() {
        let good = reply(Kind::Ack, 7, [10, 0, 0, 5], &GOOD);
        for len in 0..240 {
            assert_eq!(Reply::parse(&good[..len]), Err(Malformed::Truncated));
        }
        let with = |at: usize, value: u8| {
            let mut m = good.clone();
            m[at] = value;
            Reply::parse(&m).map(|r| r.lease().err())
        };
        assert_eq!(with(0, 1), Err(Malformed::NotDhcp), "a request");
        assert_eq!(with(236, 1), Err(Malformed::NotDhcp), "no cookie");
        assert_eq!(with(242, 9), Err(Malformed::NotDhcp), "no such type");
        assert_eq!(with(241, 200), Err(Malformed::Truncated), "an option beyond the end");
        assert_eq!(with(16, 224), Ok(Some(Malformed::Address)));
        assert_eq!(with(19, 255), Ok(Some(Malformed::Address)), "the broadcast address");
        for (code, data) in
            [(51, &[0, 0, 0][..]), (51, &[0; 4]), (1, &[255, 0, 255, 0]), (54, &[1])]
        {
            let options: Vec<_> =
                GOOD.iter().filter(|o| o.0 != code).copied().chain([(code, data)]).collect();
            let parsed = Reply::parse(&reply(Kind::Ack, 7, [10, 0, 0, 5], &options)).unwrap();
            assert_eq!(parsed.lease().err(), Some(Malformed::Option), "option {code}");
        }
        let (_, bad) = lease(&[(26, &[1]), (6, &[1, 2, 3]), (43, &[1, 9])]).unwrap();
        assert_eq!(bad, 3, "left out and counted");
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut rng = weft_stack::rng::Rng::from_u64(5);
        let good = reply(Kind::Ack, 7, [10, 0, 0, 5], &GOOD);
        for _ in 0..20_000 {
            let mut m = good.clone();
            for _ in 0..4 {
                let at = rng.below(m.len() as u64) as usize;
                m[at] = rng.next_u32() as u8;
            }
            m.truncate(rng.below(m.len() as u64 + 1) as usize);
            let _ = Reply::parse(&m).map(|r| r.lease());
        }
    }

    #[test]
    fn an_ask_names_the_client_by_its_text() {
        let ask = Ask {
            kind: Kind::Discover,
            xid: 0x0102_0304,
            secs: 9,
            mac: [2, 0, 0, 0, 0, 1],
            client: b"\0id",
            class: "weft",
            ciaddr: None,
            requested: None,
            server: None,
            text: "",
        };
        let m = ask.emit();
        assert!(m.len() >= BYTES_MIN);
        assert_eq!(
            (&m[..12], &m[28..34]),
            (&[1, 1, 6, 0, 1, 2, 3, 4, 0, 9, 0x80, 0][..], &ask.mac[..])
        );
        let mut options = BTreeMap::new();
        read_options(&m[240..], &mut options).unwrap();
        assert_eq!((&options[&61][..], &options[&60][..]), (&b"\0id"[..], &b"weft"[..]));
        let bound = Ask { ciaddr: Some([10, 0, 0, 5].into()), kind: Kind::Request, ..ask };
        let m = bound.emit();
        assert_eq!(
            (&m[10..12], &m[12..16]),
            (&[0, 0][..], &[10, 0, 0, 5][..]),
            "no broadcast flag"
        );
    }
}
