//! Dumps of sockets: pages, filters, numbers.
#![allow(missing_docs, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;

use common::{addr, connect, echo, echo_server, nic, pair, pattern, start, until, vs};
use weft_vserver::net::{UdpBind, UdpSocket};
use weft_vserver::sockets::{QueryError, Show, SocketLine, SocketQuery};

#[test]
fn many_sockets_come_in_pages_each_once() {
    const MANY: usize = 10_000;
    let text = nic("eth0", 1)
        + "[alias.data0]\nover = \"eth0\"\n[vserver.a]\naddresses = [\"data0 10.0.0.1/16\"]\n"
        + "[vserver.a.limits]\nudp_sockets = 20000\n"
        + "[vserver.b]\naddresses = [\"data0 10.0.0.2/16\"]\n";
    let (host, _peers) = start(&text);
    let (a, b) = (vs(&host, "a"), vs(&host, "b"));
    let bind = |port: usize| UdpSocket::bind(&a, addr(&format!("0.0.0.0:{}", 1000 + port)));
    let _held: Vec<_> = (0..MANY).map(|i| bind(i).unwrap()).collect();
    let shared = UdpBind { reuse_port: true, ..UdpBind::default() };
    let _b = UdpSocket::bind_with(&b, addr("0.0.0.0:53"), shared).unwrap();

    let mut query = SocketQuery::default();
    let (mut pages, mut seen) = (0, BTreeSet::new());
    loop {
        let page = host.socket_page(&query).unwrap();
        assert!(page.sockets.len() < 6000, "{} in one page", page.sockets.len());
        for s in page.sockets {
            assert!(seen.insert((s.vserver, s.local)), "none comes twice");
        }
        pages += 1;
        query.after = page.next;
        if query.after.is_none() {
            break;
        }
    }
    assert_eq!(seen.len(), MANY + 1);
    assert!(pages > 2, "{pages} pages");
    assert_eq!(host.sockets("a").unwrap().len(), MANY);
    let summary = host.socket_summary(&SocketQuery::default()).unwrap();
    assert_eq!(summary.protocols["udp"].ipv4, MANY as u64 + 1);

    // Who asks for few gets few, wherever they are; a place out of range is the end.
    let one = SocketQuery { filter: String::from("sport 10999"), ..SocketQuery::default() };
    assert_eq!(host.socket_page(&one).unwrap().sockets.len(), 1);
    let place = serde_json::from_str("{\"vserver\":9,\"table\":200,\"slot\":4000000000}").unwrap();
    let beyond = SocketQuery { after: Some(place), ..SocketQuery::default() };
    assert_eq!(host.socket_page(&beyond).unwrap().sockets, []);
    let place = serde_json::from_str("{\"vserver\":0,\"table\":255,\"slot\":4000000000}").unwrap();
    let beyond = SocketQuery { after: Some(place), ..SocketQuery::default() };
    assert_eq!(host.socket_page(&beyond).unwrap().sockets.len(), 1, "the next vserver's");
}

#[test]
fn the_inner_state_is_told_to_those_who_ask() {
    let (server, client) = pair();
    let (web, c) = (vs(&server, "web"), vs(&client, "c"));
    echo_server(&web, addr("0.0.0.0:7"));
    let stream = connect(&c, addr("10.0.0.1:7"));
    echo(&stream, &pattern(100_000));
    let ask = |show, filter: &str, tcp_info| {
        let filter = filter.to_owned();
        let protocols = vec![String::from("tcp")];
        let query = SocketQuery { show, filter, tcp_info, protocols, ..SocketQuery::default() };
        server.socket_page(&query).unwrap().sockets
    };
    let states =
        |found: Vec<SocketLine>| -> Vec<String> { found.into_iter().map(|s| s.state).collect() };
    assert_eq!(states(ask(Show::All, "", false)), ["LISTEN", "ESTAB"]);
    assert_eq!(states(ask(Show::Listening, "", false)), ["LISTEN"]);
    assert_eq!(states(ask(Show::Connected, "dev data0", false)), ["ESTAB"]);
    assert_eq!(states(ask(Show::Connected, "state listening", false)), ["LISTEN"]);
    assert!(ask(Show::All, "dst 10.0.0.3", false).is_empty());
    assert!(ask(Show::All, "", false).iter().all(|s| s.tcp.is_none()));
    // The last acknowledgement is a delayed one.
    let acked = || ask(Show::Connected, "", true)[0].tcp.as_ref().unwrap().bytes_acked == 100_000;
    until("the last acknowledgement", acked);
    let found = ask(Show::Connected, "dst 10.0.0.2", true);
    let tcp = found[0].tcp.as_ref().expect("it was asked for");
    assert_eq!(tcp.bytes_received, 100_000);
    assert!(tcp.mss_bytes > 1000 && tcp.cwnd_bytes >= tcp.mss_bytes);
    let json = serde_json::to_string(&found).unwrap();
    assert_eq!(serde_json::from_str::<Vec<SocketLine>>(&json).unwrap(), found);

    let wrong = SocketQuery { filter: String::from("sport x"), ..SocketQuery::default() };
    assert!(matches!(server.socket_page(&wrong), Err(QueryError::Filter(_))));
    let wrong = SocketQuery { protocols: vec![String::from("sctp")], ..SocketQuery::default() };
    assert!(matches!(server.socket_page(&wrong), Err(QueryError::NoSuchProtocol(_))));
    let wrong = SocketQuery { vserver: Some(String::from("x")), ..SocketQuery::default() };
    assert!(matches!(server.socket_summary(&wrong), Err(QueryError::NoSuchVserver(_))));
}
