use super::{SERVICE_LISTS_MAX, Service};
use core::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{RouteTable, Rule, RuleAction, TableId};
use crate::Stack;
use crate::admission::{First, Rules, Verdict, Watch};
use crate::drop::DropReason;
use crate::frame::{Frame, FramePool};
use crate::ip::address::{AliasConfig, AliasId, AliasMedium};
use crate::ip::route::Route;
use crate::socket::SocketId;
use crate::socket::tcp::TcpOption;
use crate::socket::udp::{UdpOption, UdpSend, UdpSendError};
use crate::stack::{Change, ChangeError, StackConfig, TxBurst};
use crate::time::Instant;
use crate::wire::header::IpHeader;

const NOW: Instant = Instant::from_millis(5);
const ONE: AliasId = AliasId(1);
const TWO: AliasId = AliasId(2);
const TABLE: TableId = TableId(70_000);

fn addr(s: &str) -> IpAddr {
    s.parse().unwrap()
}

fn route(to: &str, alias: AliasId) -> Route {
    Route { prefix: to.parse().unwrap(), via: None, alias, src: None, metric: 0, mtu: None }
}

fn table(routes: &[(&str, AliasId)]) -> Arc<RouteTable> {
    Arc::new(RouteTable::new(routes.iter().map(|(to, alias)| route(to, *alias))))
}

#[expect(clippy::unnecessary_wraps, reason = "as a change takes it")]
fn some(routes: &[(&str, AliasId)]) -> Option<Arc<RouteTable>> {
    Some(table(routes))
}

struct Bench {
    stack: Stack,
    udp: SocketId,
}

/// A stack on two links without neighbours; its default routes lead out of the first.
fn bench() -> Bench {
    let config = StackConfig { forwarding: true, ..StackConfig::default() };
    let mut stack = Stack::new(config, FramePool::heap(64, 2048), NOW);
    for (id, nets) in [(ONE, ["10.0.0.1/24", "fd00::1/64"]), (TWO, ["10.1.0.1/24", "fd01::1/64"])] {
        let alias = AliasConfig::up_without_offload(id, AliasMedium::Ip);
        stack.handle_config(NOW, Change::AliasAdd(alias)).unwrap();
        for cidr in nets {
            let cidr = cidr.parse().unwrap();
            stack.handle_config(NOW, Change::AddressAdd { alias: id, cidr }).unwrap();
        }
    }
    let udp = stack.udp_bind(NOW, "[::]:9".parse().unwrap()).unwrap();
    let mut bench = Bench { stack, udp };
    for to in ["0.0.0.0/0", "::/0"] {
        bench.change(Change::RouteAdd(route(to, ONE)));
    }
    // Duplicate address detection.
    bench.stack.handle_timeout(NOW + crate::time::Duration::from_secs(3));
    bench.sent();
    bench
}

impl Bench {
    fn change(&mut self, change: Change) {
        self.stack.handle_config(NOW, change).unwrap();
    }

    fn rule(&mut self, rule: Rule) {
        self.change(Change::RuleAdd(rule));
    }

    fn sent(&mut self) -> Vec<(AliasId, Vec<u8>)> {
        let mut burst = TxBurst::new(64);
        self.stack.poll_transmit(NOW, &mut burst);
        burst.frames.drain(..).map(|(alias, f)| (alias, f.data().to_vec())).collect()
    }

    /// By which alias a datagram leaves.
    fn leaves(&mut self, how: UdpSend) -> Result<AliasId, UdpSendError> {
        self.stack.udp_send_with(NOW, self.udp, b"x", &how)?;
        Ok(self.sent().pop().expect("a packet").0)
    }

    fn to(&mut self, dst: &str) -> Result<AliasId, UdpSendError> {
        let to = Some(SocketAddr::new(addr(dst), 53));
        self.leaves(UdpSend { to, ..UdpSend::default() })
    }

    fn between(&mut self, src: &str, dst: &str) -> Result<AliasId, UdpSendError> {
        let (from, to) = (Some(addr(src)), Some(SocketAddr::new(addr(dst), 53)));
        self.leaves(UdpSend { to, from, ..UdpSend::default() })
    }

    /// A packet for somebody else comes in; what leaves.
    fn forwards(&mut self, src: &str, dst: &str, mark: u32) -> Vec<(AliasId, Vec<u8>)> {
        let mut frame = Frame::from_heap(128, &[0, 7, 0, 7, 0, 8, 0, 0]);
        IpHeader::new(addr(src), addr(dst), 17, 64).push(&mut frame);
        frame.meta.mark = mark;
        self.stack.handle_frame(NOW, TWO, frame);
        self.sent()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.stack.mib().drops.get(reason)
    }
}

#[test]
fn rules_are_asked_in_order_and_a_table_without_a_route_hands_on() {
    let mut b = bench();
    assert_eq!(b.to("8.8.8.8"), Ok(ONE));
    // Not there yet: the rule finds nothing.
    b.rule(Rule { to: "8.0.0.0/8".parse().ok(), ..Rule::new(100, RuleAction::Table(TABLE)) });
    assert_eq!(b.to("8.8.8.8"), Ok(ONE));
    b.change(Change::TableSet { id: TABLE, table: some(&[("8.8.0.0/16", TWO)]) });
    assert_eq!([b.to("8.8.8.8"), b.to("8.9.9.9"), b.to("9.9.9.9")], [Ok(TWO), Ok(ONE), Ok(ONE)]);
    // An earlier rule decides before, and a changed table counts at once.
    let earlier = Rule { to: "8.8.0.0/16".parse().ok(), ..Rule::new(50, RuleAction::Unreachable) };
    b.rule(earlier.clone());
    assert_eq!(b.to("8.8.8.8"), Err(UdpSendError::Unreachable));
    b.change(Change::RuleRemove(earlier.clone()));
    assert_eq!(b.to("8.8.8.8"), Ok(TWO));
    b.change(Change::TableSet { id: TABLE, table: None });
    assert_eq!(b.to("8.8.8.8"), Ok(ONE));
    assert_eq!(
        b.stack.handle_config(NOW, Change::RuleRemove(earlier)),
        Err(ChangeError::NoRule(50))
    );
}

#[test]
fn rules_look_at_source_mark_and_class() {
    let mut b = bench();
    b.change(Change::TableSet { id: TABLE, table: some(&[("0.0.0.0/0", TWO), ("::/0", TWO)]) });
    let by = |priority| Rule::new(priority, RuleAction::Table(TABLE));
    b.rule(Rule { from: "10.1.0.0/16".parse().ok(), ..by(1) });
    assert_eq!(b.between("10.0.0.1", "8.8.8.8"), Ok(ONE));
    assert_eq!(b.between("10.1.0.1", "8.8.8.8"), Ok(TWO));
    b.rule(Rule { mark: Some((0x10, 0xf0)), ..by(2) });
    let marked = |b: &mut Bench, mark| {
        b.stack.udp_set_option(b.udp, UdpOption::Mark(mark));
        (b.to("8.8.8.8"), b.to("fd09::1"))
    };
    assert_eq!(marked(&mut b, 0x1f), (Ok(TWO), Ok(TWO)));
    assert_eq!(marked(&mut b, 0x2f), (Ok(ONE), Ok(ONE)));
    b.rule(Rule { dscp: Some(46), ..by(3) });
    let class = |b: &mut Bench, class| {
        let to = "8.8.4.4:53".parse().ok();
        b.leaves(UdpSend { to, traffic_class: Some(class), ..UdpSend::default() })
    };
    // The two bits of ECN are no class.
    assert_eq!([class(&mut b, 46 << 2 | 2), class(&mut b, 45 << 2)], [Ok(TWO), Ok(ONE)]);
    let listener = b.stack.tcp_listen(NOW, "10.0.0.1:80".parse().unwrap(), 4).unwrap();
    b.stack.tcp_set_option(NOW, listener, TcpOption::Mark(0x10));
    let mut syn = vec![0x9c, 0x40, 0, 80, 0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0];
    let sum = crate::wire::checksum::pseudo(addr("10.0.0.9"), addr("10.0.0.1"), 6, 20);
    let sum = crate::wire::checksum::combine(sum, crate::wire::checksum::sum(&syn));
    syn[16..18].copy_from_slice(&crate::wire::checksum::finish(sum).to_be_bytes());
    let mut frame = Frame::from_heap(128, &syn);
    IpHeader::new(addr("10.0.0.9"), addr("10.0.0.1"), 6, 64).push(&mut frame);
    b.stack.handle_frame(NOW, ONE, frame);
    assert_eq!(b.sent().pop().expect("SYN-ACK").0, TWO, "by the listener's mark");
}

#[test]
fn what_is_forwarded_is_ruled_by_its_input_and_mark_and_senders_are_told() {
    let mut b = bench();
    let (src, far) = ("10.1.0.9", "8.8.8.8");
    assert_eq!(b.forwards(src, far, 0)[0].0, ONE);
    b.change(Change::TableSet { id: TABLE, table: some(&[("0.0.0.0/0", TWO)]) });
    b.rule(Rule { mark: Some((7, u32::MAX)), ..Rule::new(5, RuleAction::Table(TABLE)) });
    assert_eq!([b.forwards(src, far, 0)[0].0, b.forwards(src, far, 7)[0].0], [ONE, TWO]);
    // Type and code of the answer, as Linux has them.
    for (action, told, reason) in [
        (RuleAction::Prohibit, Some([3, 13]), DropReason::RuleProhibit),
        (RuleAction::Unreachable, Some([3, 1]), DropReason::RuleUnreachable),
        (RuleAction::Blackhole, None, DropReason::RuleBlackhole),
    ] {
        let rule = Rule { input: Some(TWO), ..Rule::new(6, action) };
        b.rule(rule.clone());
        let answer = b.forwards(src, far, 0).pop().map(|(_, p)| [p[20], p[21]]);
        assert_eq!((answer, b.dropped(reason)), (told, 1), "{action:?}");
        // Our own have no input.
        assert_eq!(b.to(far), Ok(ONE));
        b.change(Change::RuleRemove(rule));
    }
    let v6 = Rule { input: Some(TWO), ..Rule::new(6, RuleAction::Prohibit) };
    b.rule(v6);
    let answer = b.forwards("fd01::9", "fd09::9", 0).pop().map(|(_, p)| [p[40], p[41]]);
    assert_eq!(answer, Some([1, 1]));
}

#[test]
fn the_longest_prefix_of_own_routes_and_shared_tables_wins_and_own_ones_go_before() {
    let mut b = bench();
    let shared = table(&[("8.8.0.0/16", TWO), ("0.0.0.0/0", TWO)]);
    b.change(Change::TableSet { id: TABLE, table: Some(Arc::clone(&shared)) });
    assert_eq!(b.to("8.8.8.8"), Ok(ONE), "a table is used where it is named");
    b.change(Change::TablesUse(vec![TABLE]));
    assert_eq!([b.to("8.8.8.8"), b.to("9.9.9.9")], [Ok(TWO), Ok(ONE)]);
    b.change(Change::RouteAdd(route("8.8.8.0/24", ONE)));
    assert_eq!(b.to("8.8.8.8"), Ok(ONE));
    // Two stacks, one table.
    let mut other = bench();
    other.change(Change::TableSet { id: TABLE, table: Some(Arc::clone(&shared)) });
    assert_eq!(Arc::strong_count(&shared), 3);
    // Alone it is enough, and it goes as it came.
    b.change(Change::TableSet { id: TABLE, table: None });
    assert_eq!(b.to("8.8.1.1"), Ok(ONE));
    assert!(b.stack.rules().tables.is_empty());
}

#[test]
fn a_thousand_tables_are_no_limit() {
    let mut b = bench();
    for n in 1..=1000u32 {
        let net = format!("172.{}.{}.0/24", 16 + n / 256, n % 256);
        let out = if n % 2 == 0 { ONE } else { TWO };
        b.change(Change::TableSet { id: TableId(n), table: some(&[(&net, out)]) });
        let rule = Rule::new(n, RuleAction::Table(TableId(n)));
        b.rule(Rule { to: net.parse().ok(), ..rule });
    }
    assert_eq!([b.to("172.19.231.9"), b.to("172.19.232.9")], [Ok(TWO), Ok(ONE)]);
    let more = Rule::new(2000, RuleAction::Prohibit);
    for n in 0..24 {
        b.rule(Rule { priority: 2000 + n, to: "1.2.3.4/32".parse().ok(), ..more.clone() });
    }
    let full = b.stack.handle_config(NOW, Change::RuleAdd(more));
    assert_eq!(full, Err(ChangeError::Limit("rules")));
}

/// Whoever comes from 10.0.0.0/24 gets a mark.
#[derive(Debug)]
struct Marking(Arc<Watch>);

impl Rules for Marking {
    fn watch(&self) -> &Arc<Watch> {
        &self.0
    }
    fn judge(&self, _: Instant, _: &First, _: u64) -> Verdict {
        Verdict::Allow
    }
    fn allows(&self, _: &First) -> bool {
        true
    }
    fn mark(&self, first: &First) -> u32 {
        let from = "10.0.0.0/24".parse::<crate::ip::address::Cidr>().unwrap().contains(first.src);
        // By where the client comes in, not by where the answer leaves.
        if from && first.alias == ONE { 0x10 } else { 0 }
    }
}

#[test]
fn answers_to_a_client_leave_by_the_mark_of_the_access_rule_that_lets_it_in() {
    let mut b = bench();
    b.change(Change::TableSet { id: TABLE, table: some(&[("0.0.0.0/0", TWO)]) });
    b.rule(Rule { mark: Some((0x10, 0xf0)), ..Rule::new(1, RuleAction::Table(TABLE)) });
    let mut watch = Watch::default();
    watch.marks = true;
    watch.add(6, 80, 80);
    watch.add(17, 9, 9);
    b.stack.set_access(Some(Arc::new(Marking(Arc::new(watch)))));
    assert_eq!(b.between("10.0.0.1", "10.0.0.9"), Ok(TWO));
    assert_eq!(b.between("10.0.0.1", "10.3.0.9"), Ok(ONE));
    let other = b.stack.udp_bind(NOW, "10.0.0.1:10".parse().unwrap()).unwrap();
    let udp = std::mem::replace(&mut b.udp, other);
    assert_eq!(b.between("10.0.0.1", "10.0.0.9"), Ok(ONE), "another port");
    b.udp = udp;
    b.stack.udp_set_option(b.udp, UdpOption::Mark(0x20));
    assert_eq!(b.between("10.0.0.1", "10.0.0.9"), Ok(ONE), "the socket's own mark stays");

    let listener = b.stack.tcp_listen(NOW, "10.0.0.1:80".parse().unwrap(), 4).unwrap();
    let mut segment = |flags: u8, seq: u32, ack: u32| {
        let mut seg = vec![0x9c, 0x40, 0, 80];
        seg.extend(seq.to_be_bytes());
        seg.extend(ack.to_be_bytes());
        seg.extend([0x50, flags, 0xff, 0xff, 0, 0, 0, 0]);
        let sum = crate::wire::checksum::pseudo(addr("10.0.0.9"), addr("10.0.0.1"), 6, seg.len());
        let sum = crate::wire::checksum::combine(sum, crate::wire::checksum::sum(&seg));
        seg[16..18].copy_from_slice(&crate::wire::checksum::finish(sum).to_be_bytes());
        let mut frame = Frame::from_heap(128, &seg);
        IpHeader::new(addr("10.0.0.9"), addr("10.0.0.1"), 6, 64).push(&mut frame);
        b.stack.handle_frame(NOW, ONE, frame);
        b.sent()
    };
    let (alias, syn_ack) = segment(2, 1, 0).pop().expect("SYN-ACK");
    assert_eq!(alias, TWO);
    let iss = u32::from_be_bytes(syn_ack[24..28].try_into().unwrap());
    segment(16, 2, iss + 1);
    let id = b.stack.tcp_accept(listener).expect("a connection").id;
    assert_eq!(b.stack.tcp_options(id).expect("options").mark, 0x10);
    b.stack.tcp_send(NOW, id, b"data").unwrap();
    assert_eq!(b.sent().pop().expect("data").0, TWO);
}

#[test]
fn a_service_list_means_our_port_or_the_peer_s_of_what_we_send() {
    let mut b = bench();
    b.change(Change::TableSet { id: TABLE, table: some(&[("0.0.0.0/0", TWO), ("::/0", TWO)]) });
    let of = |protocol, first, last| -> Option<Arc<[Service]>> {
        Some([Service { protocol, first, last }].into())
    };
    let by =
        |priority, services| Rule { services, ..Rule::new(priority, RuleAction::Table(TABLE)) };
    // Sent from port 9 to port 53.
    b.rule(by(1, of(6, 9, 53)));
    assert_eq!(b.to("8.8.8.8"), Ok(ONE), "another protocol");
    b.rule(by(2, of(17, 50, 60)));
    assert_eq!([b.to("8.8.8.8"), b.to("fd09::1")], [Ok(TWO), Ok(TWO)], "the peer's port");
    let mut port = |to: &str| {
        let to = to.parse().ok();
        b.leaves(UdpSend { to, ..UdpSend::default() })
    };
    assert_eq!([port("8.8.8.8:49"), port("8.8.8.8:60")], [Ok(ONE), Ok(TWO)], "one way each");
    b.change(Change::RuleRemove(by(2, of(17, 50, 60))));
    assert_eq!(b.to("8.8.8.8"), Ok(ONE));
    b.rule(by(3, of(0, 9, 9)));
    assert_eq!(b.to("8.8.8.8"), Ok(TWO), "our port");
    let forwarded = b.forwards("10.3.0.9", "8.8.8.8", 0);
    assert!(forwarded.is_empty() || forwarded[0].0 == ONE, "not of ours");
    // A connection, from its first segment on.
    let connect = |b: &mut Bench, to: &str| {
        let made = b.stack.tcp_connect(NOW, None, to.parse().unwrap());
        made.map(|_| b.sent().pop().expect("a SYN").0)
    };
    assert_eq!(connect(&mut b, "8.8.8.8:30").unwrap(), TWO, "rule 1");
    assert_eq!(connect(&mut b, "8.8.8.8:80").unwrap(), ONE);
    for n in 0..SERVICE_LISTS_MAX as u16 - 2 {
        b.rule(by(10, of(6, 1000 + n, 1000 + n)));
    }
    let full = b.stack.handle_config(NOW, Change::RuleAdd(by(10, of(6, 2000, 2000))));
    assert_eq!(full, Err(ChangeError::Limit("service lists of rules")));
}
