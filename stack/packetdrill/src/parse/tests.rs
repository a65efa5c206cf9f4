use super::*;
use crate::script::{Body, EcnSpec, Expr, OptionSpec, Quoted, flag};

fn one(text: &str) -> Event {
    parse("t.pkt", text).unwrap().events.remove(0)
}

fn fails(text: &str) -> String {
    parse("t.pkt", text).unwrap_err().to_string()
}

fn tcp(text: &str) -> crate::script::TcpSpec {
    let Action::Packet(p) = one(text).action else { panic!("{text}") };
    let Body::Tcp(tcp) = p.body else { panic!("{text}") };
    tcp
}

#[test]
fn times_of_every_kind_are_read() {
    let all = [
        ("0 socket() = 3", When::At(0)),
        ("+.1 socket() = 3", When::Plus(100_000)),
        ("* > . 1:1(0) ack 1", When::Any),
        (".1~0.2 > . 1:1(0) ack 1", When::Between(100_000, 200_000)),
        ("+.21~+.215 > . 1:1(0) ack 1", When::PlusBetween(210_000, 215_000)),
    ];
    for (text, when) in all {
        assert_eq!(one(text).time, when, "{text}");
    }
    assert!(fails("* socket() = 3").contains("only for outbound"));
    assert!(fails("+.2~+.1 > . 1:1(0) ack 1").contains("ends before it begins"));
}

#[test]
fn a_segment_is_read_with_all_its_fields() {
    let spec =
        tcp("0 < SEWA 0:10(10) win 65535 urg 3 <mss 1460,sackOK,TS val 1 ecr 2,nop,wscale 7>");
    assert_eq!(spec.flags, flag::SYN | flag::ECE | flag::CWR | flag::AE);
    assert_eq!((spec.seq, spec.len, spec.window, spec.urgent), (0, 10, Some(65535), 3));
    let options = spec.options.unwrap();
    assert_eq!(options[2], OptionSpec::Timestamp(1, 2));
    assert_eq!(options.len(), 5);
    assert_eq!(tcp("0 > P.5 1:1(0) ack 1").flags, flag::PSH | flag::ACK | flag::AE | flag::ECE);
    assert_eq!(tcp("0 > .5 1:1(0) ack 1").flags, flag::ACK | flag::AE | flag::ECE);
    assert_eq!(tcp("0 > - 1:1(0)").flags, 0);
    assert_eq!(tcp("0 > . 1:1(0) ack 1 <...>").options, None);
    let sack = tcp("0 < . 1:1(0) ack 1 <sack 1:2 5:6,nop,nop,FO 12ab,FO,ECN e1b 1 ceb 2>");
    let options = sack.options.unwrap();
    assert_eq!(options[0], OptionSpec::Sack(vec![(1, 2), (5, 6)]));
    assert_eq!(options[3], OptionSpec::FastOpen { cookie: vec![0x12, 0xab], experimental: false });
    assert_eq!(options[5], OptionSpec::AccEcn { e1_first: true, counters: vec![1, 2] });
    assert_eq!(tcp("0 < . 4294967290:4(10) ack 1").seq, 4_294_967_290);
}

#[test]
fn datagrams_icmp_and_marks_are_read() {
    let Action::Packet(p) = one("0 > [ect01, flowlabel 0x5] udp 1000>2000 (100)").action else {
        panic!()
    };
    assert_eq!((p.ip.ecn, p.ip.flow_label), (Some(EcnSpec::AnyEct), Some(5)));
    assert_eq!((p.ports, p.body), (Some((1000, 2000)), Body::Udp(100)));
    let Action::Packet(p) = one("0 < icmp unreachable frag_needed mtu 800 [1:1461(1460)]").action
    else {
        panic!()
    };
    let Body::Icmp(icmp) = p.body else { panic!() };
    assert_eq!((icmp.code.as_deref(), icmp.mtu), (Some("frag_needed"), Some(800)));
    assert_eq!(icmp.quoted, Quoted::Tcp(1, 1460));
}

#[test]
fn calls_have_arguments_results_and_notes() {
    let text = "0...0.3 sendmsg(4, {msg_name(...)=..., msg_iov(1)=[{..., 40}], msg_flags=0},
        MSG_MORE|MSG_DONTWAIT) = -1 EAGAIN (Resource temporarily unavailable)\n+0 close(4) = 0";
    let Action::Call(call) = one(text).action else { panic!() };
    assert_eq!((call.end, call.errno.as_deref()), (Some(300_000), Some("EAGAIN")));
    let Expr::Record(fields) = &call.args[1] else { panic!("{:?}", call.args) };
    assert_eq!(fields[1].0, "msg_iov");
    assert_eq!(call.args[1].to_string(), "{msg_name=..., msg_iov=[{..., 40}], msg_flags=0}");
    let Action::Call(call) =
        one("0 connect(3, {sa_family = AF_INET, sin_port = htons(8080), sin_addr = inet_addr(\"1.2.3.4\")}, 16) = 0").action
    else {
        panic!()
    };
    assert_eq!(call.args.len(), 3);
}

#[test]
fn options_and_definitions_come_first() {
    let s = parse("t", "--tolerance_usecs=10000\n--define=N=\"x\"\n`init`\n0 f(N) = 0\n`cleanup`")
        .unwrap();
    assert_eq!(s.options[0].value, "10000");
    assert_eq!(s.init.unwrap().1, "init");
    let Action::Call(call) = &s.events[0].action else { panic!() };
    assert_eq!(call.args[0], Expr::Text("x".into()));
}

#[test]
fn errors_name_file_line_column_and_what_was_expected() {
    for (text, message) in [
        ("0 < Z 1:1(0)", "t.pkt:1:5: found `Z`, expected flags: some of F S R P . E W A U, or `-`"),
        ("0 < S 0:1(0)", "t.pkt:1:7: 0:1 is not 0 bytes long"),
        ("0 socket(1 = 3", "t.pkt:1:12: found `=`, expected `)` or `,` after an expression"),
        (
            "0 < S 0:0(0)\n  <bad>",
            "t.pkt:2:4: found `bad`, expected an option: mss, wscale, sackOK, sack, TS, FO, FOEXP, md5, ECN, opt, nop or eol",
        ),
        ("0 < . 1:1(0) ack 1 win 70000", "t.pkt:1:24: a window 70000 is not within 0 and 65535"),
        ("", "t.pkt:1:1: a script needs an event, such as `0 socket(...) = 3`"),
        ("0 < [ect01] . 1:1(0)", "t.pkt:1:5: `ect01` is only for outbound packets"),
        ("0 < ipv4 x", "t.pkt:1:5: found `ipv4`, expected a packet that is in no tunnel"),
    ] {
        assert_eq!(fails(text), message);
    }
}

#[test]
fn no_text_makes_the_parser_panic() {
    let script = include_str!("../../scripts/rfc6675/recovery.pkt");
    for end in (0..script.len()).step_by(3).filter(|i| script.is_char_boundary(*i)) {
        let _ = parse("t", &script[..end]);
        for strange in ["\"", "`", "%{", "/*", "...", "99999999999999999999", "é", "::", "<", "~"]
        {
            let text = format!("{}{strange}{}", &script[..end], &script[end..]);
            let _ = parse("t", &text);
        }
    }
}
