//! A vserver asks a name server that is another vserver of the same host.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicU8;
use std::sync::mpsc::{Receiver, channel};

use simple_dns::rdata::{A, AAAA, CNAME, PTR, RData, SOA};
use simple_dns::{CLASS, Name, Packet, PacketFlag, QTYPE, RCODE, ResourceRecord, TYPE};

use super::*;
use crate::net::{TcpListener, UdpSocket};
use crate::{Host, config};

fn host(dns: &str) -> Host {
    let text = format!(
        "[nic.eth0]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n[alias.data0]\nover = \"eth0\"\n\
         [vserver.ns]\naddresses = [\"data0 10.0.0.1/24\", \"data0 10.0.0.2/24\"]\n\
         [vserver.client]\naddresses = [\"data0 10.0.0.9/24\"]\ndns = {dns}\n"
    );
    Host::start(config::parse(&text, "t.toml".as_ref()).unwrap()).unwrap()
}

/// What the server does with a question.
#[derive(Clone, Copy, PartialEq)]
enum Manner {
    Honest,
    /// Says nothing over UDP.
    Silent,
    /// Answers over UDP that it is too long.
    Truncating,
    /// Writes the question in lower case.
    Lower,
    /// Sends answers with other numbers before the right one.
    Forging,
    Refusing,
}

fn soa<'a>() -> ResourceRecord<'a> {
    let name = Name::new("example").unwrap();
    let (mname, rname) = (name.clone(), name.clone());
    let soa = SOA { mname, rname, serial: 1, refresh: 1, retry: 1, expire: 1, minimum: 30 };
    ResourceRecord::new(name, CLASS::IN, 30, RData::SOA(soa))
}

/// The zone: `www.example`, `long.example`, an alias, an alias alone, a reverse name.
fn answer(query: &[u8], manner: Manner, udp: bool) -> Vec<u8> {
    let query = Packet::parse(query).unwrap();
    let question = query.questions[0].clone();
    let name = question.qname.to_string().to_ascii_lowercase();
    let mut reply = query.into_reply();
    let four = |last| RData::A(A { address: u32::from(Ipv4Addr::new(192, 0, 2, last)) });
    let to = |name| RData::CNAME(CNAME(Name::new(name).unwrap()));
    let records: Vec<RData> = match (&name[..], question.qtype) {
        ("www.example", QTYPE::TYPE(TYPE::A)) => vec![four(1), four(2)],
        ("www.example", QTYPE::TYPE(TYPE::AAAA)) => vec![RData::AAAA(AAAA { address: 7 })],
        ("long.example" | "host.lan.example" | "target.example", QTYPE::TYPE(TYPE::A)) => {
            vec![four(3)]
        }
        ("moving.example" | "gateway.example", QTYPE::TYPE(TYPE::A)) => {
            let last =
                MOVING.load(Ordering::SeqCst) + if name == "gateway.example" { 100 } else { 0 };
            let address = u32::from(Ipv4Addr::new(10, 0, 0, last));
            vec![RData::A(A { address })]
        }
        ("clients.example", QTYPE::TYPE(TYPE::A)) => {
            let bits = CLIENTS.load(Ordering::SeqCst);
            (0..8u8)
                .filter(|n| bits >> n & 1 != 0)
                .map(|n| RData::A(A { address: u32::from(Ipv4Addr::new(10, 0, 0, 30 + n)) }))
                .collect()
        }
        ("alias.example", _) => vec![to("target.example")],
        ("loop.example", _) => vec![to("loop2.example")],
        ("loop2.example", _) => vec![to("loop.example")],
        ("1.2.0.192.in-addr.arpa", QTYPE::TYPE(TYPE::PTR)) => {
            vec![RData::PTR(PTR(Name::new("www.example").unwrap()))]
        }
        _ => vec![],
    };
    let ttl = if ["moving.example", "gateway.example", "clients.example"].contains(&&name[..]) {
        0
    } else {
        60
    };
    let known = ["www", "gateway", "moving", "clients", "long", "target", "host.lan"]
        .map(|n| format!("{n}.example"));
    if records.is_empty() {
        reply.name_servers.push(soa());
        if !known.contains(&name) {
            *reply.rcode_mut() = RCODE::NameError;
        }
    }
    if manner == Manner::Refusing {
        *reply.rcode_mut() = RCODE::Refused;
    }
    if manner == Manner::Truncating && udp {
        reply.set_flags(PacketFlag::TRUNCATION);
    }
    let owner = question.qname.clone();
    reply.answers = records
        .into_iter()
        .map(|r| ResourceRecord::new(owner.clone(), CLASS::IN, ttl, r))
        .collect();
    if manner == Manner::Lower {
        reply.questions[0].qname = Name::new(&name).unwrap().into_owned();
    }
    reply.set_flags(PacketFlag::RESPONSE);
    reply.build_bytes_vec().unwrap()
}

/// Serves until the host stops; tells each name asked for, and whether over UDP.
fn serve(host: &Host, address: &str, manner: Manner) -> Receiver<(String, bool)> {
    let ns = host.vserver("ns").unwrap();
    let at: SocketAddr = format!("{address}:53").parse().unwrap();
    let (told, seen) = channel();
    let (udp, tcp) = (UdpSocket::bind(&ns, at).unwrap(), TcpListener::bind(&ns, at).unwrap());
    let told_udp = told.clone();
    let name = |query: &[u8]| Packet::parse(query).unwrap().questions[0].qname.to_string();
    std::thread::spawn(move || {
        while let Ok(query) = udp.recv_datagram() {
            let _ = told_udp.send((name(&query.payload), true));
            let reply = answer(&query.payload, manner, true);
            if manner == Manner::Silent {
                continue;
            }
            if manner == Manner::Forging {
                for n in 1..5 {
                    let mut forged = reply.clone();
                    forged[1] ^= n;
                    let _ = udp.send_to(&forged, query.from);
                    let _ = udp.send_to(&forged[..7], query.from);
                }
            }
            let _ = udp.send_to(&reply, query.from);
        }
    });
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = tcp.accept() {
            let mut length = [0; 2];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut query = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut query).unwrap();
            let _ = told.send((name(&query), false));
            let reply = answer(&query, manner, false);
            // in pieces, as a slow network has it
            let whole = [&(reply.len() as u16).to_be_bytes()[..], &reply].concat();
            let (a, b) = whole.split_at(whole.len() / 2);
            stream.write_all(a).unwrap();
            stream.write_all(b).unwrap();
        }
    });
    seen
}

/// Which of 10.0.0.30 to 10.0.0.37 `clients.example` is, by bits; it holds for no time.
static CLIENTS: AtomicU8 = AtomicU8::new(0b11);
/// Last byte of the address of `moving.example`, which holds for no time.
static MOVING: AtomicU8 = AtomicU8::new(20);

const ONE: &str = "{ servers = [\"10.0.0.1\"], search = [\"lan.example\", \"example\"] }";

fn count(client: &Vserver, name: &str) -> u64 {
    client.dns_counters()[name]
}

#[test]
fn names_become_addresses_and_back_and_are_kept() {
    let host = host(ONE);
    let seen = serve(&host, "10.0.0.1", Manner::Honest);
    let client = host.vserver("client").unwrap();
    let www = client.resolve("WWW.example").unwrap();
    let addresses: Vec<String> = www.addresses.iter().map(ToString::to_string).collect();
    assert_eq!((www.name.as_str(), www.ttl), ("www.example", Duration::from_mins(1)));
    assert_eq!(addresses, ["192.0.2.1", "192.0.2.2", "::7"]);
    let asked: Vec<_> = seen.try_iter().collect();
    assert_eq!(asked.len(), 2, "A and AAAA: {asked:?}");
    assert_eq!(client.resolve("www.example.").unwrap().addresses, www.addresses);
    assert_eq!((seen.try_iter().count(), count(&client, "DnsCached")), (0, 2));
    let back = client.resolve_address("192.0.2.1".parse().unwrap()).unwrap();
    assert_eq!(back.names, ["www.example"]);
    let literal = client.resolve("fd00::1").unwrap();
    assert_eq!((literal.addresses.len(), literal.ttl), (1, Duration::MAX));
    assert_eq!(client.resolve("alias.example").unwrap().addresses.len(), 1);
}

#[test]
fn short_names_go_through_the_search_list_and_what_is_not_there_is_kept_too() {
    let host = host(ONE);
    let seen = serve(&host, "10.0.0.1", Manner::Honest);
    let client = host.vserver("client").unwrap();
    assert_eq!(client.resolve("host").unwrap().name, "host.lan.example");
    assert_eq!(client.resolve("www").unwrap().name, "www.example");
    let nothing = client.resolve("nowhere").unwrap_err();
    assert!(
        matches!(nothing, ResolveError::Nothing { no_name: true, ttl: Some(_), .. }),
        "{nothing}"
    );
    assert_eq!(nothing.to_string(), "'nowhere' does not exist");
    let asked = seen.try_iter().count();
    assert_eq!(client.resolve("nowhere").unwrap_err().to_string(), nothing.to_string());
    assert_eq!(seen.try_iter().count(), 0, "after {asked} questions");
    assert!(count(&client, "DnsNegativeCached") > 0);
}

#[test]
fn what_is_too_long_comes_over_tcp() {
    let host = host(ONE);
    let seen = serve(&host, "10.0.0.1", Manner::Truncating);
    let client = host.vserver("client").unwrap();
    assert_eq!(client.resolve("long.example").unwrap().addresses.len(), 1);
    assert_eq!(seen.try_iter().filter(|(_, udp)| !udp).count(), 2);
    assert_eq!(count(&client, "DnsOverTcp"), 2);
}

#[test]
fn a_server_that_loses_the_case_is_asked_over_tcp_and_forged_answers_are_passed_over() {
    let forging = host(ONE);
    let client = forging.vserver("client").unwrap();
    let _seen = serve(&forging, "10.0.0.1", Manner::Forging);
    assert_eq!(client.resolve("www.example").unwrap().addresses.len(), 3);
    assert!(count(&client, "DnsForeign") >= 8);
    let lower = host(ONE);
    let client = lower.vserver("client").unwrap();
    let seen = serve(&lower, "10.0.0.1", Manner::Lower);
    // A name whose letters all stay small by chance is no proof; this has enough of them.
    let name = "www.example";
    for _ in 0..3 {
        assert_eq!(client.resolve(name).unwrap().addresses.len(), 3);
        client.set_dns(client.dns());
    }
    assert!(seen.try_iter().any(|(_, udp)| !udp));
}

#[test]
fn the_next_server_answers_for_one_that_does_not() {
    let two = "{ servers = [\"10.0.0.1\", \"10.0.0.2\"], timeout_ms = 50, attempts = 9 }";
    let host = host(two);
    let silent = serve(&host, "10.0.0.1", Manner::Silent);
    let _second = serve(&host, "10.0.0.2", Manner::Honest);
    let client = host.vserver("client").unwrap();
    assert_eq!(client.resolve("www.example").unwrap().addresses.len(), 3);
    // Usually one question each of A and AAAA. Where the second is late too, both are asked again.
    let retries = count(&client, "DnsRetries");
    let asked = silent.iter().take(retries as usize / 2 + 1).count() as u64;
    assert_eq!((retries >= 2, retries), (true, 2 * asked - 2));
    assert!(silent.try_recv().is_err());
    // nobody listens on this port: ICMP tells, and nobody waits
    let mut dns = client.dns();
    dns.servers[0].set_port(54);
    (dns.timeout_ms, dns.attempts) = (60_000, 1);
    client.set_dns(dns);
    assert_eq!(client.resolve("www.example").unwrap().addresses.len(), 3);
}

#[test]
fn who_gets_no_answer_is_told_what_the_servers_did() {
    let host = host("{ servers = [\"10.0.0.1\", \"10.0.0.2\"], timeout_ms = 20 }");
    let _refusing = serve(&host, "10.0.0.1", Manner::Refusing);
    let _silent = serve(&host, "10.0.0.2", Manner::Silent);
    let client = host.vserver("client").unwrap();
    let told = |name: &str| client.resolve(name).unwrap_err().to_string();
    assert_eq!(told("www.example"), "no DNS server answered about 'www.example': timed out");
    let refusing = vec!["10.0.0.1:53".parse().unwrap()];
    client.set_dns(Dns { servers: refusing, timeout_ms: 60_000, ..client.dns() });
    assert_eq!(told("www.example"), "no DNS server answered about 'www.example': answered Refused");
    assert_eq!(told("a..b"), "'a..b' is no name");
    let ns = host.vserver("ns").unwrap();
    assert_eq!(ns.resolve("www.example"), Err(ResolveError::NoServers));
    host.stop();
    assert_eq!(client.resolve("www.example"), Err(ResolveError::Stopped));
}

#[test]
fn a_circle_of_aliases_ends() {
    let host = host(ONE);
    let _seen = serve(&host, "10.0.0.1", Manner::Honest);
    let client = host.vserver("client").unwrap();
    let told = client.resolve("loop.example").unwrap_err().to_string();
    assert!(told.contains("too many aliases"), "{told}");
}

#[test]
fn many_wait_for_one_question_and_none_waits_for_ever() {
    let host = host("{ servers = [\"10.0.0.1\"], timeout_ms = 60000 }");
    let silent = serve(&host, "10.0.0.1", Manner::Silent);
    let client = host.vserver("client").unwrap();
    let (sender, receiver) = channel();
    for _ in 0..5 {
        let sender = sender.clone();
        client.resolve_with("www.example", move |found| sender.send(found).unwrap());
    }
    silent.recv().unwrap();
    host.stop();
    drop(sender);
    let outcomes: Vec<_> = receiver.iter().collect();
    assert_eq!(outcomes, vec![Err(ResolveError::Stopped); 5]);
    assert!(silent.try_iter().count() <= 1);
}

#[test]
fn routes_and_targets_by_name_follow_the_name() {
    let kernel = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = kernel.local_addr().unwrap().port();
    let text = format!(
        "[nic.eth0]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n[alias.data0]\nover = \"eth0\"\n\
         [vserver.ns]\naddresses = [\"data0 10.0.0.1/24\"]\n\
         [vserver.client]\naddresses = [\"data0 10.0.0.20/24\", \"data0 10.0.0.21/24\"]\n\
         dns = {{ servers = [\"10.0.0.1\"] }}\n\
         routes = [{{ to = \"default\", via = \"gateway.example\", alias = \"data0\" }}]\n\
         [[vserver.client.service]]\nkind = \"echo\"\nport = 7\naddress = \"moving.example\"\n\
         [[vserver.client.service]]\nkind = \"proxy\"\nport = 80\nto = \"moving.example:{port}\"\n"
    );
    let host = Host::start(config::parse(&text, "t.toml".as_ref()).unwrap()).unwrap();
    let _seen = serve(&host, "10.0.0.1", Manner::Honest);
    let services = crate::service::Services::start(&host).unwrap();
    let state = || {
        let mut snapshot = host.snapshot();
        services.fill(&mut snapshot);
        let client = snapshot.vservers.remove(1);
        let listen = client.services[0].clone();
        (client.routes.join("; "), listen, client.names)
    };
    let arrives = |last: u8| {
        let gateway = format!("0.0.0.0/0 via 10.0.0.{} ", last + 100);
        let at = format!("moving.example (10.0.0.{last}:7)");
        for _ in 0..1000 {
            let (routes, listen, names) = state();
            let of = |n: &crate::stats::NameSnapshot| match n.used_for.as_str() {
                "gateway" => format!("10.0.0.{}", last + 100),
                _ => format!("10.0.0.{last}"),
            };
            let names_agree = names.iter().all(|n| n.addresses == [of(n)]);
            if routes.contains(&gateway) && listen.listen == at && listen.listening && names_agree {
                assert_eq!(routes.matches("0.0.0.0/0 via").count(), 1, "{routes}");
                return names;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?}", state());
    };
    let names = arrives(20);
    let used: Vec<_> = names.iter().map(|n| n.used_for.as_str()).collect();
    assert_eq!(used, ["gateway", "address", "target"]);
    MOVING.store(21, Ordering::SeqCst);
    assert!(arrives(21).iter().all(|n| n.changes == 2));
    let ns = host.vserver("ns").unwrap();
    let mut echo = crate::net::TcpStream::connect(&ns, "10.0.0.21:7".parse().unwrap()).unwrap();
    echo.write_all(b"hello").unwrap();
    let mut back = [0; 5];
    echo.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello");
    let moved = crate::net::TcpStream::connect(&ns, "10.0.0.20:7".parse().unwrap());
    assert_eq!(moved.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused);
    // A name that cannot be resolved keeps what it stood for.
    let client = host.vserver("client").unwrap();
    client.set_dns(Dns { servers: Vec::new(), ..client.dns() });
    let told = || state().2[0].error.clone();
    while told().is_none() {
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(state().0.contains("0.0.0.0/0 via 10.0.0.121 "));
}

#[test]
fn clients_by_name_follow_the_name_and_connections_that_stay_allowed_stay() {
    let text = "[nic.eth0]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n[alias.data0]\nover = \"eth0\"\n\
         [access]\nestablished = \"end\"\n\
         [vserver.ns]\naddresses = [\"data0 10.0.0.1/24\"]\n\
         [vserver.a]\naddresses = [\"data0 10.0.0.30/24\"]\n\
         [vserver.b]\naddresses = [\"data0 10.0.0.31/24\"]\n\
         [vserver.web]\naddresses = [\"data0 10.0.0.9/24\"]\ndns = { servers = [\"10.0.0.1\"] }\n\
         access = [{ allow = \"tcp/80\", from = \"10.0.0.200, clients.example\" },\n\
                   { prohibit = \"tcp/81\", from = \"clients.example\" }, { reject = \"tcp/80\" }]\n\
         rules = [{ from = \"clients.example\", to = \"10.0.0.0/8\", priority = 50, action = \"prohibit\" }]\n\
         qos.class = [{ name = \"gold\", clients = [\"clients.example\"], send = { limit = \"1 Gbit/s\" } }]\n";
    let host = Host::start(config::parse(text, "t.toml".as_ref()).unwrap()).unwrap();
    let [web, a, b] = ["web", "a", "b"].map(|n| host.vserver(n).unwrap());
    let listeners = [80, 81]
        .map(|port| TcpListener::bind(&web, format!("10.0.0.9:{port}").parse().unwrap()).unwrap());
    let at = |port: u16| SocketAddr::from(([10, 0, 0, 9], port));
    // Unresolved, a name matches nothing: neither what allows nor what denies.
    assert!(crate::net::TcpStream::connect(&a, at(80)).is_err());
    let _early = crate::net::TcpStream::connect(&a, at(81)).unwrap();
    assert!(host.snapshot().vservers[3].rules.is_empty());
    let _seen = serve(&host, "10.0.0.1", Manner::Honest);
    let arrives = |bits: u8, last: &[u8]| {
        CLIENTS.store(bits, Ordering::SeqCst);
        let wanted: Vec<_> = last.iter().map(|n| std::net::IpAddr::from([10, 0, 0, *n])).collect();
        let state = || {
            let access = host.access(Some("web")).unwrap().vservers.remove(0).rules;
            let qos = host.qos(Some("web")).unwrap().names;
            let rules = host.snapshot().vservers.remove(3).rules;
            (access, qos, rules)
        };
        for _ in 0..1000 {
            let (access, qos, rules) = state();
            let rule = |n: u8| format!("50: from 10.0.0.{n}/32 to 10.0.0.0/8 prohibit");
            if access[0].names[0].addresses == wanted
                && access[1].names[0].addresses == wanted
                && qos[0].client.addresses == wanted
                && last.iter().all(|n| rules.contains(&rule(*n)))
                && rules.len() == last.len() + 1
            {
                return access;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("{:?}", state());
    };
    arrives(0b11, &[30, 31]);
    let mut streams = [&a, &b].map(|v| {
        let near = crate::net::TcpStream::connect(v, at(80)).unwrap();
        (near, listeners[0].accept().unwrap().0)
    });
    assert!(crate::net::TcpStream::connect(&b, at(81)).is_err());
    let rules = arrives(0b10, &[31]);
    assert_eq!(
        rules[0].from,
        ["10.0.0.200", "clients.example"]
            .map(String::from)
            .map(|n| { if n.starts_with('1') { format!("{n}/32") } else { n } })
    );
    assert_eq!(rules[0].hits, 2, "counts go on while the name changes");
    let mut byte = [0];
    assert!(streams[0].0.read(&mut byte).is_err(), "no longer allowed: ended");
    streams[1].0.write_all(b"x").unwrap();
    streams[1].1.read_exact(&mut byte).unwrap();
    assert!(crate::net::TcpStream::connect(&a, at(80)).is_err());
    assert!(crate::net::TcpStream::connect(&a, at(81)).is_ok(), "no longer denied");
    let names = host.snapshot().vservers.remove(3).names;
    assert_eq!((names.len(), names[0].used_for.as_str()), (1, "access, qos, rule"));
}
