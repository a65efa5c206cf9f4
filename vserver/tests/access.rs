//! Access rules of a running host: changed live, for new connections and for those that are there.
#![allow(missing_docs, clippy::unwrap_used)]

use std::io::{ErrorKind, Read, Write};
use std::net::SocketAddr;

use weft_vserver::access::{AccessQuery, Action};
use weft_vserver::net::{TcpListener, TcpStream};
use weft_vserver::{AccessError, Host, config};

fn parse(access: &str) -> config::HostConfig {
    let text = format!(
        r#"
[nic.eth0]
device = "mem0"
driver = "mem"
[alias.data0]
over = "eth0"
{access}
[vserver.web]
addresses = ["data0 10.0.0.1/24"]
[vserver.client]
addresses = ["data0 10.0.0.2/24"]
"#
    );
    config::parse(&text, "test.toml".as_ref()).unwrap()
}

#[test]
fn a_rule_withdrawn_live_refuses_the_next_connection_and_ends_the_others_only_if_asked() {
    let host = Host::start(parse("")).unwrap();
    let (web, client) = (host.vserver("web").unwrap(), host.vserver("client").unwrap());
    let at: SocketAddr = "10.0.0.1:8080".parse().unwrap();
    let listener = TcpListener::bind(&web, at).unwrap();
    let mut near = TcpStream::connect(&client, at).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    let mut buf = [0; 4];

    let closed = "rules = [{ reject = \"tcp/8080\", of = \"web\", on = \"data\" }]";
    assert_eq!(host.update_access(&parse(&format!("[access]\n{closed}"))), 0);
    let refused = TcpStream::connect(&client, at).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    near.write_all(b"stay").unwrap();
    far.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"stay");

    let report = host.access(Some("web")).unwrap();
    let rule = &report.vservers[0].rules[0];
    assert_eq!((rule.action, rule.hits), (Action::Reject, 1));
    assert_eq!(rule.last_client, Some([10, 0, 0, 2].into()));
    assert_eq!(report.vservers[0].rejected, 1);
    let other = host.access(Some("client")).unwrap();
    assert_eq!(other.vservers[0].rules.len(), 1, "only the built-in one");

    let query = |to: &str| AccessQuery {
        vserver: String::from("web"),
        service: String::from("tcp/8080"),
        from: [10, 0, 0, 2].into(),
        to: Some(to.to_owned()),
    };
    for to in ["data0", "10.0.0.1"] {
        let decided = host.test_access(&query(to)).unwrap();
        assert_eq!((decided[0].action, decided[0].rule), (Action::Reject, Some(1)));
    }
    let nowhere = host.test_access(&query("10.0.0.2")).unwrap_err();
    assert!(matches!(nowhere, AccessError::NoSuchPlace { .. }), "{nowhere}");

    let ends = "rules = [{ drop = \"tcp/8080\", on = \"data\" }]\nestablished = \"end\"";
    assert_eq!(host.update_access(&parse(&format!("[access]\n{ends}"))), 1);
    assert!(far.read(&mut buf).is_err(), "ended here");
    assert_eq!(near.read(&mut buf).unwrap_err().kind(), ErrorKind::ConnectionReset);

    host.update_access(&parse(""));
    let mut again = TcpStream::connect(&client, at).unwrap();
    let (mut far, _) = listener.accept().unwrap();
    again.write_all(b"open").unwrap();
    far.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"open");
}

#[test]
fn with_two_workers_a_denied_port_is_denied_to_every_flow_and_counted_once_each() {
    let of = |workers: usize, mac: u8, vserver: &str| {
        let text = format!(
            "[workers]\ncount = {workers}\n\
             [nic.eth0]\ndriver = \"mem\"\nqueues = 2\nmac = \"02:00:00:00:00:{mac:02x}\"\n\
             [alias.data0]\nover = \"eth0\"\n{vserver}"
        );
        config::parse(&text, "test.toml".as_ref()).unwrap()
    };
    let server = Host::start(of(
        2,
        1,
        "[vserver.web]\naddresses = [\"data0 10.0.0.1/24\"]\n\
         access = [{ reject = \"tcp/81\", log = true }]\n",
    ))
    .unwrap();
    let far = server.take_mem_peers("eth0").unwrap();
    let devices = weft_vserver::Devices::from([(String::from("eth0"), far)]);
    let there = of(1, 2, "[vserver.c]\naddresses = [\"data0 10.0.0.2/24\"]\n");
    let there = Host::start_with_devices(there, devices).unwrap();
    let (web, client) = (server.vserver("web").unwrap(), there.vserver("c").unwrap());
    let (open, _closed) = (
        TcpListener::bind(&web, "10.0.0.1:80".parse().unwrap()).unwrap(),
        TcpListener::bind(&web, "10.0.0.1:81".parse().unwrap()).unwrap(),
    );
    for _ in 0..64 {
        let refused = TcpStream::connect(&client, "10.0.0.1:81".parse().unwrap()).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        let _stream = TcpStream::connect(&client, "10.0.0.1:80".parse().unwrap()).unwrap();
        open.accept().unwrap();
    }
    let report = server.access(Some("web")).unwrap().vservers.remove(0);
    assert_eq!((report.rules[0].hits, report.rejected, report.denied), (64, 64, 0));
    assert_eq!(server.snapshot().vservers[0].drops["AccessRejected"], 64);
}
