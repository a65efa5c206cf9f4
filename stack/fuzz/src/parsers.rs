//! Targets of single parsers: headers behind right outer headers, and texts.

use std::path::Path;

use weft_stack::wire::tcp::Header;
use weft_vserver::control::{Answer, RefusalKind};
use weft_vserver::sockets::Filter;

use crate::build::{self, OUR_V6, PEER_V6};
use crate::target::Target;

/// The first byte is the kind of the first IPv6 extension header, the rest are the headers and what
/// follows.
pub fn extensions(data: &[u8]) {
    let Some((next, payload)) = data.split_first() else { return };
    let mut target = Target::new();
    let next = [0, 43, 44, 60, 51, 59, 135, 6][usize::from(next & 7)];
    let mut frame = build::ip6(PEER_V6, OUR_V6, next, 64, payload);
    target.frame(&frame);
    // Once more with the checksum of what the headers lead to.
    build::repair(&mut frame);
    target.frame(&frame);
    target.finish();
}

/// The first byte picks ICMPv4 or ICMPv6; the rest is the message. What it quotes is aimed at the
/// established connection if it looks like it.
pub fn icmp(data: &[u8]) {
    let Some((kind, message)) = data.split_first() else { return };
    let mut target = Target::new();
    let frame = match kind & 1 {
        0 => {
            let mut message = message.to_vec();
            target.aim_quote(&mut message);
            build::icmp4(&message)
        }
        _ => build::icmp6("fd00::2", "fd00::1", 64, message),
    };
    target.frame(&frame);
    target.finish();
}

/// The first byte picks family and port; the rest is a UDP header's tail and payload.
pub fn udp(data: &[u8]) {
    let Some((kind, payload)) = data.split_first() else { return };
    let mut target = Target::new();
    let to = if kind & 2 == 0 { 7 } else { 8 };
    for _ in 0..=kind >> 5 {
        target.frame(&match kind & 1 {
            0 => build::udp4(9000, to, payload),
            _ => build::udp6(9000, to, payload),
        });
    }
    target.finish();
}

/// A TCP header: what is read and written again reads the same.
pub fn tcp_header(data: &[u8]) {
    let Some((header, len)) = Header::parse(data) else { return };
    assert!(len <= data.len() && len >= 20, "{len}");
    // Options that were read may not all fit again: padding is written another way.
    if header.len() > 60 {
        return;
    }
    let mut out = vec![0; header.len()];
    header.emit(&mut out);
    let (again, _) = Header::parse(&out).unwrap_or_else(|| panic!("{header:?} does not read"));
    assert_eq!(format!("{header:?}"), format!("{again:?}"));
}

fn text(data: &[u8]) -> Option<&str> {
    std::str::from_utf8(data).ok()
}

/// A configuration file: it is taken, or every problem is told within the file and shortly.
pub fn config(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Err(errors) = weft_vserver::config::parse(text, Path::new("weft.toml")) {
        let told = errors.to_string();
        assert!(!told.is_empty(), "refused without a word");
    }
}

/// A line to the control socket: always an answer.
pub fn control(data: &[u8]) {
    let taken = |_: &_| Answer::refuse(RefusalKind::Busy, "taken");
    if let Answer::Error(refusal) = weft_vserver::control::reply(data, &taken) {
        assert!(!refusal.message.is_empty(), "refused without a word");
    }
}

/// A filter of sockets.
pub fn socket_filter(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Err(e) = Filter::parse(text) {
        assert!(e.column() <= text.chars().count() + 1, "{e}");
        assert!(!e.to_string().is_empty(), "refused without a word");
    }
}

/// A packetdrill script.
pub fn packetdrill(data: &[u8]) {
    let Some(text) = text(data) else { return };
    if let Err(e) = weft_packetdrill::parse("fuzz.pkt", text) {
        assert!(!e.to_string().is_empty(), "refused without a word");
    }
}
