//! DHCPv6 messages (RFC 8415 8, 21; RFC 3646; RFC 5908).

use std::net::{IpAddr, Ipv6Addr};

use super::lease::{FOREVER_S, Lease, hex, names, plain};
use super::message4::Malformed;

/// Option codes.
pub(super) mod code {
    pub(crate) const CLIENT: u16 = 1;
    pub(crate) const SERVER: u16 = 2;
    pub(crate) const IA_NA: u16 = 3;
    pub(crate) const IA_ADDR: u16 = 5;
    pub(crate) const REQUEST: u16 = 6;
    pub(crate) const PREFERENCE: u16 = 7;
    pub(crate) const ELAPSED: u16 = 8;
    pub(crate) const STATUS: u16 = 13;
    pub(crate) const RAPID_COMMIT: u16 = 14;
    pub(crate) const CLASS: u16 = 16;
    pub(crate) const VENDOR: u16 = 17;
    pub(crate) const DNS: u16 = 23;
    pub(crate) const SEARCH: u16 = 24;
    pub(crate) const NTP: u16 = 56;
    pub(crate) const SOL_MAX_RT: u16 = 82;
}

/// Option 6.
const REQUESTED: [u16; 5] = [code::VENDOR, code::DNS, code::SEARCH, code::NTP, code::SOL_MAX_RT];

/// The longest DUID (RFC 8415 11.1), with its type.
const DUID_BYTES_MAX: usize = 130;

/// Types of messages (RFC 8415 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Solicit = 1,
    Advertise = 2,
    Request = 3,
    Confirm = 4,
    Renew = 5,
    Rebind = 6,
    Reply = 7,
    Release = 8,
    Decline = 9,
}

/// Status codes (RFC 8415 21.13).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Success,
    NoAddrsAvail,
    NoBinding,
    NotOnLink,
    /// Any other.
    Failure(u16),
}

impl Status {
    fn new(code: u16) -> Status {
        match code {
            0 => Status::Success,
            2 => Status::NoAddrsAvail,
            3 => Status::NoBinding,
            4 => Status::NotOnLink,
            other => Status::Failure(other),
        }
    }
}

/// A message to servers.
#[derive(Clone, Debug)]
pub(super) struct Ask<'a> {
    pub(super) kind: Kind,
    pub(super) xid: [u8; 3],
    /// Hundredths of a second since the exchange began.
    pub(super) elapsed: u16,
    /// Our DUID.
    pub(super) client: &'a [u8],
    pub(super) server: Option<&'a [u8]>,
    pub(super) iaid: u32,
    pub(super) address: Option<Ipv6Addr>,
    pub(super) enterprise: u32,
    pub(super) class: &'a str,
    pub(super) rapid_commit: bool,
}

impl Ask<'_> {
    pub(super) fn emit(&self) -> Vec<u8> {
        let mut out = vec![self.kind as u8];
        out.extend(self.xid);
        option(&mut out, code::CLIENT, self.client);
        if let Some(server) = self.server {
            option(&mut out, code::SERVER, server);
        }
        option(&mut out, code::ELAPSED, &self.elapsed.to_be_bytes());
        let mut ia = self.iaid.to_be_bytes().to_vec();
        // T1 and T2 are the server's to choose.
        ia.extend([0; 8]);
        if let Some(address) = self.address {
            let mut body = address.octets().to_vec();
            body.extend([0; 8]);
            option(&mut ia, code::IA_ADDR, &body);
        }
        option(&mut out, code::IA_NA, &ia);
        let leaves = matches!(self.kind, Kind::Release | Kind::Decline);
        if !leaves {
            let mut class = self.enterprise.to_be_bytes().to_vec();
            class.extend((self.class.len() as u16).to_be_bytes());
            class.extend(self.class.as_bytes());
            option(&mut out, code::CLASS, &class);
            if self.kind != Kind::Confirm {
                option(&mut out, code::REQUEST, &REQUESTED.map(u16::to_be_bytes).concat());
            }
        }
        if self.rapid_commit && self.kind == Kind::Solicit {
            option(&mut out, code::RAPID_COMMIT, &[]);
        }
        out
    }
}

fn option(out: &mut Vec<u8>, code: u16, data: &[u8]) {
    out.extend(code.to_be_bytes());
    out.extend((data.len() as u16).to_be_bytes());
    out.extend(data);
}

/// A message from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) kind: Kind,
    pub(super) xid: [u8; 3],
    pub(super) client: Vec<u8>,
    pub(super) server: Vec<u8>,
    pub(super) preference: u8,
    pub(super) rapid_commit: bool,
    /// Of the message, or of our IA if that has another.
    pub(super) status: Status,
    pub(super) text: String,
    /// Option 82: the longest wait between solicitations, seconds.
    pub(super) sol_max_rt: Option<u32>,
    options: Vec<(u16, Vec<u8>)>,
}

/// A lease with the number of options left out, or the status that stands for it.
pub(super) type Granted = Result<(Lease, u64), (Status, String)>;

/// Transaction and client of a datagram's payload, which decide whose it is.
pub(super) fn whose(data: &[u8]) -> Option<([u8; 3], Vec<u8>)> {
    let xid = data.get(1..4)?.try_into().ok()?;
    let options = read_options(data.get(4..)?).ok()?;
    let (_, client) = options.into_iter().find(|(code, _)| *code == code::CLIENT)?;
    matches!(data[0], 2 | 7).then_some((xid, client))
}

fn read_options(mut data: &[u8]) -> Result<Vec<(u16, Vec<u8>)>, Malformed> {
    let mut options = Vec::new();
    while !data.is_empty() {
        let header: &[u8; 4] = data.first_chunk().ok_or(Malformed::Truncated)?;
        let code = u16::from_be_bytes([header[0], header[1]]);
        let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
        let body = data.get(4..4 + len).ok_or(Malformed::Truncated)?;
        options.push((code, body.to_vec()));
        data = &data[4 + len..];
    }
    Ok(options)
}

fn u32_at(data: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(data.get(at..at + 4)?.try_into().ok()?))
}

fn addr_at(data: &[u8], at: usize) -> Option<Ipv6Addr> {
    Some(Ipv6Addr::from(<[u8; 16]>::try_from(data.get(at..at + 16)?).ok()?))
}

fn status_of(options: &[(u16, Vec<u8>)]) -> Option<(Status, String)> {
    let (_, data) = options.iter().find(|(c, _)| *c == code::STATUS)?;
    let code = u16::from_be_bytes(data.get(..2)?.try_into().ok()?);
    Some((Status::new(code), plain(&data[2..])))
}

impl Answer {
    pub(super) fn parse(data: &[u8]) -> Result<Answer, Malformed> {
        let header: &[u8; 4] = data.first_chunk().ok_or(Malformed::Truncated)?;
        let kind = match header[0] {
            2 => Kind::Advertise,
            7 => Kind::Reply,
            _ => return Err(Malformed::NotDhcp),
        };
        let options = read_options(&data[4..])?;
        // RFC 8415 16.3, 16.10: both must be there.
        let id = |code| -> Result<Vec<u8>, Malformed> {
            let found = options.iter().find(|(c, _)| *c == code).map(|(_, data)| data.clone());
            found.filter(|d| (3..=DUID_BYTES_MAX).contains(&d.len())).ok_or(Malformed::Option)
        };
        let (status, text) = status_of(&options).unwrap_or((Status::Success, String::new()));
        let one = |code| options.iter().find(|(c, _)| *c == code).map(|(_, d)| d.as_slice());
        Ok(Answer {
            kind,
            xid: [header[1], header[2], header[3]],
            client: id(code::CLIENT)?,
            server: id(code::SERVER)?,
            preference: one(code::PREFERENCE).and_then(|d| d.first().copied()).unwrap_or(0),
            rapid_commit: one(code::RAPID_COMMIT).is_some(),
            status,
            text,
            // RFC 8415 21.24: others are ignored.
            sol_max_rt: one(code::SOL_MAX_RT)
                .and_then(|d| u32_at(d, 0))
                .filter(|s| (60..=86_400).contains(s)),
            options,
        })
    }

    /// Whether it carries vendor options of the enterprise.
    pub(super) fn has_vendor(&self, enterprise: u32) -> bool {
        self.all(code::VENDOR).any(|d| u32_at(d, 0) == Some(enterprise))
    }

    fn all(&self, code: u16) -> impl Iterator<Item = &[u8]> {
        self.options.iter().filter(move |(c, _)| *c == code).map(|(_, d)| d.as_slice())
    }

    /// What it says of our IA: the lease, and how many options were left out; or the status that
    /// stands for it.
    pub(super) fn lease(&self, iaid: u32, enterprise: u32) -> Result<Granted, Malformed> {
        if self.status != Status::Success {
            return Ok(Err((self.status, self.text.clone())));
        }
        let ours = self.all(code::IA_NA).find(|d| u32_at(d, 0) == Some(iaid));
        let Some(ia) = ours else { return Ok(Err((Status::NoAddrsAvail, String::new()))) };
        let (t1, t2) = (u32_at(ia, 4), u32_at(ia, 8));
        let (Some(t1), Some(t2)) = (t1, t2) else { return Err(Malformed::Option) };
        // RFC 8415 21.4
        if t1 > t2 && t2 > 0 {
            return Err(Malformed::Option);
        }
        let inner = read_options(&ia[12..])?;
        if let Some((status, text)) = status_of(&inner).filter(|s| s.0 != Status::Success) {
            return Ok(Err((status, text)));
        }
        let mut bad = 0;
        let Some((address, preferred_s, valid_s)) = address(&inner, &mut bad) else {
            return Ok(Err((Status::NoAddrsAvail, String::new())));
        };
        if address.is_multicast() || address.is_unspecified() || address.is_unicast_link_local() {
            return Err(Malformed::Address);
        }
        // RFC 8415 14.2, 21.4: 0.5 and 0.8 of the preferred lifetime where the server leaves it to us.
        let part = |tenths: u32| {
            if preferred_s == FOREVER_S { FOREVER_S } else { preferred_s / 10 * tenths }
        };
        let rebind_s = if t2 == 0 { part(8).max(t1) } else { t2 }.min(valid_s);
        let renew_s = if t1 == 0 { part(5) } else { t1 }.min(rebind_s);
        let lease = Lease {
            address: address.into(),
            prefix_len: 128,
            server: hex(&self.server),
            valid_s,
            preferred_s,
            renew_s,
            rebind_s,
            routes: Vec::new(),
            mtu: None,
            dns: self.dns(&mut bad),
            search: self.all(code::SEARCH).flat_map(names).collect(),
            ntp: self.ntp(&mut bad),
            host_name: None,
            vendor: self.vendor(enterprise, &mut bad),
        };
        Ok(Ok((lease, bad)))
    }

    fn dns(&self, bad: &mut u64) -> Vec<IpAddr> {
        let mut found = Vec::new();
        for data in self.all(code::DNS) {
            *bad += u64::from(!data.len().is_multiple_of(16));
            let each = data.chunks_exact(16).filter_map(|d| addr_at(d, 0));
            found.extend(each.filter(|a| !a.is_unspecified() && !a.is_multicast()).take(16));
        }
        found.into_iter().map(IpAddr::from).collect()
    }

    /// RFC 5908 4: addresses and names of servers.
    fn ntp(&self, bad: &mut u64) -> Vec<String> {
        let mut found = Vec::new();
        for data in self.all(code::NTP) {
            let Ok(inner) = read_options(data) else {
                *bad += 1;
                continue;
            };
            for (kind, body) in inner.into_iter().take(16) {
                match kind {
                    1 | 2 => found.extend(addr_at(&body, 0).map(|a| a.to_string())),
                    3 => found.extend(names(&body)),
                    _ => *bad += 1,
                }
            }
        }
        found
    }

    fn vendor(&self, enterprise: u32, bad: &mut u64) -> Vec<(u16, String)> {
        let mut found = Vec::new();
        for data in self.all(code::VENDOR).filter(|d| u32_at(d, 0) == Some(enterprise)) {
            match read_options(&data[4..]) {
                Ok(inner) => found.extend(inner.into_iter().map(|(c, d)| (c, hex(&d)))),
                Err(_) => *bad += 1,
            }
        }
        found
    }
}

/// The first address that is valid for a time, with its lifetimes.
fn address(options: &[(u16, Vec<u8>)], bad: &mut u64) -> Option<(Ipv6Addr, u32, u32)> {
    for (_, data) in options.iter().filter(|(c, _)| *c == code::IA_ADDR) {
        let parts = (addr_at(data, 0), u32_at(data, 16), u32_at(data, 20));
        let (Some(addr), Some(preferred), Some(valid)) = parts else {
            *bad += 1;
            continue;
        };
        let inner = read_options(data.get(24..).unwrap_or_default()).unwrap_or_default();
        let refused = status_of(&inner).is_some_and(|s| s.0 != Status::Success);
        // RFC 8415 21.6
        if preferred > valid {
            *bad += 1;
        } else if valid > 0 && !refused {
            return Some((addr, preferred, valid));
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(crate) const CLIENT: &[u8] = b"\0\x02\0\0\x7e\xd9id";
    pub(crate) const SERVER: &[u8] = b"\0\x03\0\x01server";
    const ADDR: &str = "fd00::5";

    /// Data of an IA_NA.
    pub(crate) fn ia(iaid: u32, t1: u32, t2: u32, addr: &str, times: (u32, u32)) -> Vec<u8> {
        let mut ia = [iaid, t1, t2].map(u32::to_be_bytes).concat();
        let mut body = addr.parse::<Ipv6Addr>().unwrap().octets().to_vec();
        body.extend([times.0, times.1].map(u32::to_be_bytes).concat());
        option(&mut ia, code::IA_ADDR, &body);
        ia
    }

    /// A message of a server.
    pub(crate) fn answer(kind: Kind, xid: [u8; 3], options: &[(u16, &[u8])]) -> Vec<u8> {
        let mut out = vec![kind as u8];
        out.extend(xid);
        option(&mut out, code::CLIENT, CLIENT);
        option(&mut out, code::SERVER, SERVER);
        for (code, data) in options {
            option(&mut out, *code, data);
        }
        out
    }

    fn lease(options: &[(u16, &[u8])]) -> Result<Granted, Malformed> {
        Answer::parse(&answer(Kind::Reply, [1, 2, 3], options))?.lease(9, 32_473)
    }

    // RFC 8415 21.4, 21.6, 21.17; RFC 3646 3, 4; RFC 5908 4
    #[test]
    fn a_lease_has_what_its_options_say() {
        let dns: Ipv6Addr = "fd00::53".parse().unwrap();
        let vendor = [&32_473_u32.to_be_bytes()[..], &[0, 1, 0, 2, 7, 8]].concat();
        let foreign = [&9_u32.to_be_bytes()[..], &[0, 1, 0, 1, 7]].concat();
        let ntp = [&[0, 1, 0, 16][..], &dns.octets(), &[0, 3, 0, 6], b"\x04time\0"].concat();
        let (l, bad) = lease(&[
            (3, &ia(9, 100, 200, ADDR, (300, 400))),
            (23, &dns.octets()),
            (24, b"\x07example\x03net\0"),
            (56, &ntp),
            (17, &vendor),
            (17, &foreign),
        ])
        .unwrap()
        .unwrap();
        assert_eq!(l.cidr().to_string(), "fd00::5/128");
        assert_eq!((l.renew_s, l.rebind_s, l.preferred_s, l.valid_s), (100, 200, 300, 400));
        assert_eq!((l.dns, l.search), (vec![dns.into()], vec!["example.net".to_owned()]));
        assert_eq!((l.ntp, bad), (vec!["fd00::53".to_owned(), "time".to_owned()], 0));
        assert_eq!(l.vendor, [(1, "0708".to_owned())]);
    }

    // RFC 8415 14.2, 21.4, 21.6
    #[test]
    fn times_are_checked_and_chosen_where_the_server_leaves_them() {
        let (l, _) = lease(&[(3, &ia(9, 0, 0, ADDR, (100, 200)))]).unwrap().unwrap();
        assert_eq!((l.renew_s, l.rebind_s), (50, 80));
        let forever = ia(9, 0, 0, ADDR, (FOREVER_S, FOREVER_S));
        let (l, _) = lease(&[(3, &forever)]).unwrap().unwrap();
        assert_eq!((l.renew_s, l.rebind_s), (FOREVER_S, FOREVER_S));
        assert_eq!(lease(&[(3, &ia(9, 9, 8, ADDR, (100, 200)))]), Err(Malformed::Option));
        let none = Ok(Err((Status::NoAddrsAvail, String::new())));
        assert_eq!(lease(&[(3, &ia(9, 0, 0, ADDR, (300, 200)))]), none, "preferred beyond valid");
        assert_eq!(lease(&[(3, &ia(9, 0, 0, ADDR, (0, 0)))]), none);
        assert_eq!(lease(&[(3, &ia(8, 0, 0, ADDR, (100, 200)))]), none, "another IA");
    }

    #[test]
    fn what_is_malformed_has_its_reason() {
        let good = answer(Kind::Reply, [1, 2, 3], &[(3, &ia(9, 0, 0, ADDR, (100, 200)))]);
        for len in 0..good.len() {
            let parsed = Answer::parse(&good[..len]).map(|a| a.lease(9, 1));
            assert!(!matches!(parsed, Ok(Ok(Ok(_)))), "{len} bytes");
        }
        assert_eq!(Answer::parse(&[1, 0, 0, 0]), Err(Malformed::NotDhcp));
        assert_eq!(Answer::parse(&[7, 0, 0, 0]), Err(Malformed::Option), "no identifiers");
        assert_eq!(Answer::parse(&[7, 0, 0, 0, 0, 1, 0, 9]), Err(Malformed::Truncated));
        let link_local = ia(9, 0, 0, "fe80::1", (100, 200));
        assert_eq!(lease(&[(3, &link_local)]), Err(Malformed::Address));
        let mut rng = weft_stack::rng::Rng::from_u64(6);
        for _ in 0..20_000 {
            let mut m = good.clone();
            for _ in 0..4 {
                let at = rng.below(m.len() as u64) as usize;
                m[at] = rng.next_u32() as u8;
            }
            let _ = Answer::parse(&m).map(|a| a.lease(9, 1));
            let _ = whose(&m);
        }
    }

    // RFC 8415 18.2.1, 21.2, 21.4, 21.16
    #[test]
    fn an_ask_names_client_class_and_address() {
        let ask = Ask {
            kind: Kind::Solicit,
            xid: [1, 2, 3],
            elapsed: 7,
            client: CLIENT,
            server: None,
            iaid: 9,
            address: Some(ADDR.parse().unwrap()),
            enterprise: 32_473,
            class: "weft",
            rapid_commit: true,
        };
        let m = ask.emit();
        let options = read_options(&m[4..]).unwrap();
        let codes: Vec<u16> = options.iter().map(|o| o.0).collect();
        assert_eq!((m[0], codes), (1, vec![1, 8, 3, 16, 6, 14]));
        assert_eq!(options[2].1[..4], 9_u32.to_be_bytes());
        assert_eq!(options[3].1, [&32_473_u32.to_be_bytes()[..], &[0, 4], b"weft"].concat());
    }
}
