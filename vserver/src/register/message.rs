//! Updates and their signatures on the wire (RFC 2136, 8945). Sans-IO.

use std::net::IpAddr;

use hmac::{Hmac, Mac};
use sha2::Sha256;

use super::key::Key;

const TYPE_A: u16 = 1;
const TYPE_SOA: u16 = 6;
const TYPE_PTR: u16 = 12;
const TYPE_AAAA: u16 = 28;
const TYPE_TSIG: u16 = 250;
const CLASS_IN: u16 = 1;
const CLASS_NONE: u16 = 254;
const CLASS_ANY: u16 = 255;
const OPCODE_UPDATE: u16 = 5 << 11;
const RESPONSE: u16 = 1 << 15;
const ALGORITHM: &str = "hmac-sha256";
/// How far clocks may differ (RFC 8945 10).
const FUDGE_S: u16 = 300;
const HEADER_BYTES: usize = 12;
const MAC_BYTES: usize = 32;

/// What a record says.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Data {
    Address(IpAddr),
    /// Of a reverse name.
    Name(String),
}

/// One change of a zone (RFC 2136 2.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Edit {
    /// All records of a name and of the type that `like` has go.
    Clear {
        name: String,
        like: Data,
    },
    Add {
        name: String,
        ttl_s: u32,
        data: Data,
    },
    Remove {
        name: String,
        data: Data,
    },
}

fn kind(data: &Data) -> u16 {
    match data {
        Data::Address(IpAddr::V4(_)) => TYPE_A,
        Data::Address(IpAddr::V6(_)) => TYPE_AAAA,
        Data::Name(_) => TYPE_PTR,
    }
}

/// A name in wire form, in lower case: names of keys are compared so (RFC 8945 4.3.3).
fn put_name(out: &mut Vec<u8>, name: &str) {
    for label in name.split('.').filter(|l| !l.is_empty()) {
        out.push(label.len() as u8);
        out.extend(label.bytes().map(|b| b.to_ascii_lowercase()));
    }
    out.push(0);
}

fn put(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

fn put_record(out: &mut Vec<u8>, name: &str, kind: u16, class: u16, ttl: u32, data: &[u8]) {
    put_name(out, name);
    put(out, kind);
    put(out, class);
    out.extend_from_slice(&ttl.to_be_bytes());
    put(out, data.len() as u16);
    out.extend_from_slice(data);
}

fn bytes(data: &Data) -> Vec<u8> {
    match data {
        Data::Address(IpAddr::V4(a)) => a.octets().to_vec(),
        Data::Address(IpAddr::V6(a)) => a.octets().to_vec(),
        Data::Name(name) => {
            let mut out = Vec::new();
            put_name(&mut out, name);
            out
        }
    }
}

/// An update of one zone, unsigned.
pub(super) fn update(id: u16, zone: &str, edits: &[Edit]) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    for word in [id, OPCODE_UPDATE, 1, 0, edits.len() as u16, 0] {
        put(&mut out, word);
    }
    put_name(&mut out, zone);
    put(&mut out, TYPE_SOA);
    put(&mut out, CLASS_IN);
    for edit in edits {
        match edit {
            Edit::Clear { name, like } => {
                put_record(&mut out, name, kind(like), CLASS_ANY, 0, &[]);
            }
            Edit::Add { name, ttl_s, data } => {
                put_record(&mut out, name, kind(data), CLASS_IN, *ttl_s, &bytes(data));
            }
            Edit::Remove { name, data } => {
                put_record(&mut out, name, kind(data), CLASS_NONE, 0, &bytes(data));
            }
        }
    }
    out
}

/// What a signature covers besides the message (RFC 8945 4.3.3).
fn variables(key: &Key, time_s: u64, error: u16, other: &[u8], fudge: u16) -> Vec<u8> {
    let mut out = Vec::new();
    put_name(&mut out, &key.name);
    put(&mut out, CLASS_ANY);
    out.extend_from_slice(&0_u32.to_be_bytes());
    put_name(&mut out, ALGORITHM);
    out.extend_from_slice(&time_s.to_be_bytes()[2..]);
    put(&mut out, fudge);
    put(&mut out, error);
    put(&mut out, other.len() as u16);
    out.extend_from_slice(other);
    out
}

fn hmac(key: &Key) -> Option<Hmac<Sha256>> {
    // HMAC takes keys of every length.
    Hmac::new_from_slice(&key.secret).ok()
}

/// Signs a message; returns the signature, which that of the answer covers.
pub(super) fn sign(message: &mut Vec<u8>, key: &Key, time_s: u64) -> Vec<u8> {
    let Some(mut mac) = hmac(key) else { return Vec::new() };
    mac.update(message);
    mac.update(&variables(key, time_s, 0, &[], FUDGE_S));
    let signature = mac.finalize().into_bytes().to_vec();
    let mut data = Vec::new();
    put_name(&mut data, ALGORITHM);
    data.extend_from_slice(&time_s.to_be_bytes()[2..]);
    put(&mut data, FUDGE_S);
    put(&mut data, signature.len() as u16);
    data.extend_from_slice(&signature);
    data.extend_from_slice(&message[..2]);
    put(&mut data, 0);
    put(&mut data, 0);
    put_record(message, &key.name, TYPE_TSIG, CLASS_ANY, 0, &data);
    let records = u16::from_be_bytes([message[10], message[11]]) + 1;
    message[10..12].copy_from_slice(&records.to_be_bytes());
    signature
}

/// What a server said to an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Done, and the answer is signed as the update was.
    Done,
    /// Refused; why, in words.
    Refused(String),
    /// Not an answer to this update, or not by the server: as if it had not come.
    Foreign,
}

/// A signature as it stands in a message.
struct Signature<'m> {
    /// Where its record begins.
    at: usize,
    name: String,
    time_s: u64,
    fudge: u16,
    mac: &'m [u8],
    original_id: u16,
    error: u16,
    other: &'m [u8],
}

/// Reads the answer to an update with number `id`; `signed` is the key and the update's signature.
pub(super) fn verdict(
    message: &[u8],
    id: u16,
    signed: Option<(&Key, &[u8])>,
    now_s: u64,
) -> Verdict {
    let word = |at: usize| message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let (Some(own), Some(flags)) = (word(0), word(2)) else { return Verdict::Foreign };
    if own != id || flags & RESPONSE == 0 || flags & (15 << 11) != OPCODE_UPDATE {
        return Verdict::Foreign;
    }
    let code = flags & 15;
    let signature = find_signature(message);
    if let Some((key, request_mac)) = signed {
        match &signature {
            Some(s) if verify(message, s, key, request_mac, now_s) => {}
            // Who cannot check our signature cannot sign either (RFC 8945 5.2): believed only to
            // say no.
            Some(s) if s.mac.is_empty() && s.error != 0 => {
                return Verdict::Refused(tsig_error(s.error, &key.name));
            }
            _ if code == 5 || code == 9 => {}
            _ => return Verdict::Foreign,
        }
        if let Some(s) = signature.filter(|s| s.error != 0) {
            return Verdict::Refused(tsig_error(s.error, &key.name));
        }
    }
    if code == 0 { Verdict::Done } else { Verdict::Refused(rcode(code, signed.is_some())) }
}

fn rcode(code: u16, signed: bool) -> String {
    String::from(match code {
        1 => "the server cannot read it (FORMERR)",
        2 => "the server failed (SERVFAIL)",
        3 => "no such name (NXDOMAIN)",
        4 => "the server takes no updates (NOTIMP)",
        5 if signed => "the key may not change this (REFUSED)",
        5 => "refused; the update was not signed, add a 'key' (REFUSED)",
        9 if signed => "the server is not the zone's, or does not take the key (NOTAUTH)",
        9 => "the server is not the zone's (NOTAUTH)",
        10 => "a name is not in the zone (NOTZONE)",
        other => return format!("the server answered code {other}"),
    })
}

fn tsig_error(code: u16, key: &str) -> String {
    match code {
        16 => format!("the server has another secret for key '{key}' (BADSIG)"),
        17 => format!("the server does not know key '{key}' (BADKEY)"),
        18 => String::from("the clocks of server and host differ too much (BADTIME)"),
        other => format!("the server answered signature error {other}"),
    }
}

fn verify(message: &[u8], s: &Signature, key: &Key, request_mac: &[u8], now_s: u64) -> bool {
    if s.name != key.name || s.mac.len() != MAC_BYTES {
        return false;
    }
    if now_s.abs_diff(s.time_s) > u64::from(s.fudge) && s.error == 0 {
        return false;
    }
    let Some(mut mac) = hmac(key) else { return false };
    // As it was before it was signed: the number as sent, a record less.
    let mut plain = message[..s.at].to_vec();
    plain[..2].copy_from_slice(&s.original_id.to_be_bytes());
    let records = u16::from_be_bytes([plain[10], plain[11]]).wrapping_sub(1);
    plain[10..12].copy_from_slice(&records.to_be_bytes());
    mac.update(&(request_mac.len() as u16).to_be_bytes());
    mac.update(request_mac);
    mac.update(&plain);
    mac.update(&variables(key, s.time_s, s.error, s.other, s.fudge));
    mac.verify_slice(s.mac).is_ok()
}

/// Skips a name, compressed or not.
fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            n if n & 0xc0 == 0xc0 => return Some(at + 2),
            n if n & 0xc0 != 0 => return None,
            n => at += 1 + usize::from(n),
        }
    }
}

/// A name that is not compressed, as those of signatures must not be (RFC 8945 4.2).
fn plain_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        match *message.get(at)? {
            0 => return Some((labels.join("."), at + 1)),
            n if n & 0xc0 != 0 => return None,
            n => {
                let label = message.get(at + 1..at + 1 + usize::from(n))?;
                labels.push(String::from_utf8_lossy(label).to_ascii_lowercase());
                at += 1 + usize::from(n);
            }
        }
    }
}

/// The last record, if it is a signature.
fn find_signature(message: &[u8]) -> Option<Signature<'_>> {
    let word = |at: usize| message.get(at..at + 2).map(|b| u16::from_be_bytes([b[0], b[1]]));
    let counts = [word(4)?, word(6)?, word(8)?, word(10)?];
    if counts[3] == 0 {
        return None;
    }
    let mut at = HEADER_BYTES;
    for _ in 0..counts[0] {
        at = skip_name(message, at)? + 4;
    }
    let records: u32 = counts[1..].iter().map(|c| u32::from(*c)).sum();
    for _ in 1..records {
        let fixed = skip_name(message, at)?;
        at = fixed + 10 + usize::from(word(fixed + 8)?);
    }
    let (name, fixed) = plain_name(message, at)?;
    if word(fixed)? != TYPE_TSIG || word(fixed + 2)? != CLASS_ANY {
        return None;
    }
    let (algorithm, data) = plain_name(message, fixed + 10)?;
    if algorithm != ALGORITHM {
        return None;
    }
    let time = message.get(data..data + 6)?;
    let time_s = time.iter().fold(0, |t, b| t << 8 | u64::from(*b));
    let mac_at = data + 10;
    let mac = message.get(mac_at..mac_at + usize::from(word(data + 8)?))?;
    let rest = mac_at + mac.len();
    let other = message.get(rest + 6..rest + 6 + usize::from(word(rest + 4)?))?;
    let (fudge, original_id, error) = (word(data + 6)?, word(rest)?, word(rest + 2)?);
    Some(Signature { at, name, time_s, fudge, mac, original_id, error, other })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOW: u64 = 1_700_000_000;

    fn key() -> Key {
        Key { name: String::from("update.key"), secret: b"0123456789abcdef".to_vec() }
    }

    fn sent() -> (Vec<u8>, Vec<u8>) {
        let data = Data::Address("192.0.2.1".parse().unwrap());
        let add = Edit::Add { name: String::from("files.example.net"), ttl_s: 300, data };
        let mut message = update(77, "example.net", &[add]);
        let mac = sign(&mut message, &key(), NOW);
        (message, mac)
    }

    /// What a server with `key` answers.
    fn answer(code: u16, key: &Key, request_mac: &[u8], time_s: u64) -> Vec<u8> {
        let mut out = Vec::new();
        for word in [77, RESPONSE | OPCODE_UPDATE | code, 1, 0, 0, 0] {
            put(&mut out, word);
        }
        put_name(&mut out, "example.net");
        put(&mut out, TYPE_SOA);
        put(&mut out, CLASS_IN);
        let mut mac = hmac(key).unwrap();
        mac.update(&(request_mac.len() as u16).to_be_bytes());
        mac.update(request_mac);
        mac.update(&out);
        mac.update(&variables(key, time_s, 0, &[], FUDGE_S));
        let signature = mac.finalize().into_bytes();
        put_signature(&mut out, key, time_s, &signature, 0);
        out
    }

    fn put_signature(out: &mut Vec<u8>, key: &Key, time_s: u64, mac: &[u8], error: u16) {
        let mut data = Vec::new();
        put_name(&mut data, ALGORITHM);
        data.extend_from_slice(&time_s.to_be_bytes()[2..]);
        put(&mut data, FUDGE_S);
        put(&mut data, mac.len() as u16);
        data.extend_from_slice(mac);
        put(&mut data, 77);
        put(&mut data, error);
        put(&mut data, 0);
        put_record(out, &key.name, TYPE_TSIG, CLASS_ANY, 0, &data);
        out[11] = 1;
    }

    // RFC 8945 5.3
    #[test]
    fn an_answer_counts_only_with_the_right_signature() {
        let (_, mac) = sent();
        let good = answer(0, &key(), &mac, NOW);
        let read = |m: &[u8]| verdict(m, 77, Some((&key(), &mac)), NOW);
        assert_eq!(read(&good), Verdict::Done);
        assert!(matches!(read(&answer(5, &key(), &mac, NOW)), Verdict::Refused(_)));
        let other = Key { secret: b"another".to_vec(), ..key() };
        assert_eq!(read(&answer(0, &other, &mac, NOW)), Verdict::Foreign);
        assert_eq!(read(&answer(0, &key(), &[0; 32], NOW)), Verdict::Foreign);
        assert_eq!(read(&answer(0, &key(), &mac, NOW + 301)), Verdict::Foreign);
        assert_eq!(verdict(&good, 78, Some((&key(), &mac)), NOW), Verdict::Foreign);
        let unsigned: Vec<u8> = [77, RESPONSE | OPCODE_UPDATE, 0, 0, 0, 0]
            .into_iter()
            .flat_map(u16::to_be_bytes)
            .collect();
        assert_eq!(read(&unsigned), Verdict::Foreign);
        assert_eq!(verdict(&unsigned, 77, None, NOW), Verdict::Done);
    }

    // RFC 8945 5.2
    #[test]
    fn a_server_that_does_not_take_the_key_is_understood() {
        let (_, mac) = sent();
        for (error, text) in [(16, "BADSIG"), (17, "BADKEY"), (18, "BADTIME")] {
            let mut out: Vec<u8> = [77, RESPONSE | OPCODE_UPDATE | 9, 0, 0, 0, 0]
                .into_iter()
                .flat_map(u16::to_be_bytes)
                .collect();
            put_signature(&mut out, &key(), NOW, &[], error);
            let told = verdict(&out, 77, Some((&key(), &mac)), NOW);
            assert!(matches!(&told, Verdict::Refused(t) if t.contains(text)), "{told:?}");
        }
    }

    // RFC 2136 2.5
    #[test]
    fn updates_have_the_classes_of_the_rfc() {
        let name = String::from("a.b");
        let data = Data::Name(String::from("c"));
        let edits = [
            Edit::Clear { name: name.clone(), like: data.clone() },
            Edit::Add { name: name.clone(), ttl_s: 7, data: data.clone() },
            Edit::Remove { name, data },
        ];
        let wire = update(1, "b", &edits);
        let hex = wire.iter().fold(String::new(), |hex, b| hex + &format!("{b:02x}"));
        let header = "00012800000100000003000001620000060001";
        let owner = "0161016200000c";
        assert_eq!(
            hex,
            format!(
                "{header}{owner}00ff000000000000{owner}0001000000070003016300{owner}00fe000000000003016300"
            )
        );
    }

    proptest! {
        #[test]
        fn no_message_panics(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            flips in proptest::collection::vec((any::<proptest::sample::Index>(), 1u8..), 1..6),
        ) {
            let (_, mac) = sent();
            let _ = verdict(&noise, 77, Some((&key(), &mac)), NOW);
            let mut message = answer(0, &key(), &mac, NOW);
            let before = message.clone();
            for (at, bits) in flips {
                let at = at.index(message.len());
                message[at] ^= bits;
            }
            let told = verdict(&message, 77, Some((&key(), &mac)), NOW);
            // Everything that the signature covers; its own record has bytes that say nothing.
            let covered = HEADER_BYTES + 13 + 4;
            prop_assert!(told != Verdict::Done || message[..covered] == before[..covered]);
        }
    }
}
