//! The shaper of a worker with a plan of a configuration.

use std::path::Path;

use weft_stack::frame::Frame;
use weft_stack::ip::address::AliasId;
use weft_stack::time::Instant;

use super::{Shaper, Verdict, plan};
use crate::config::parse;
use crate::demux::Target;
use crate::facts::Facts;

/// A datagram from 10.0.0.9 to port `port` of 10.0.0.1.
fn datagram(port: u8) -> Frame {
    let mut p = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 9, 10, 0, 0, 1];
    p.extend([0x12, 0x34, 0, port, 0, 8, 0, 0]);
    Frame::from_heap(0, &p)
}

#[test]
fn a_class_gives_what_is_received_the_mark_that_policy_routing_looks_at() {
    let text = "[nic.eth0]\ndevice = \"veth0\"\n[alias.data0]\nover = \"eth0\"\n\
                [vserver.router]\naddresses = [\"data0 10.0.0.1/24\"]\n\
                [vserver.router.qos]\nclass = [{ name = \"dns\", services = [\"udp 53\"], route_mark = 7 }]\n";
    let config = parse(text, Path::new("weft.toml")).unwrap();
    let mut shaper = Shaper::default();
    let now = Instant::from_millis(1);
    shaper.update(now, &plan(&config, None), vec![0], 0);
    let to = Target { alias: AliasId(0), vserver: 0 };
    assert!(shaper.polices(to) && !shaper.shapes(0));
    for (port, mark) in [(53, 7), (54, 0)] {
        let frame = datagram(port);
        let facts = Facts::of(&frame, false, to).unwrap();
        let Verdict::Pass(frame) = shaper.police(now, &facts, frame) else { panic!("no limit") };
        assert_eq!(frame.meta.mark, mark);
    }
}
