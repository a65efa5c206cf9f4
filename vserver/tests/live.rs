//! Vservers come and go under traffic: nothing of them stays, others do not notice.
#![allow(missing_docs)]

use std::io::{ErrorKind, Read, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use weft_drivers::device::Device;
use weft_vserver::Host;
use weft_vserver::change::{Changes, Options};
use weft_vserver::net::{TcpListener, TcpStream};

mod common;

use common::{addr, config, echo_server};

const ROUNDS: usize = 1000;

fn text(workers: usize, guest: bool) -> String {
    let guest = if guest { "[vserver.guest]\naddresses = [\"data0 10.0.0.9/24\"]\n" } else { "" };
    format!(
        "[workers]\ncount = {workers}\nframes = 1024\n\
         [nic.eth0]\ndevice = \"mem\"\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n\
         [alias.data0]\nover = \"eth0\"\n\
         [vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n\
         [vserver.b]\naddresses = [\"data0 10.0.0.2/24\"]\n{guest}"
    )
}

#[test]
fn a_thousand_vservers_come_and_go_beside_a_conversation() {
    for workers in [1, 3] {
        let host = Arc::new(Host::start(config(&text(workers, false))).unwrap());
        let mut far = host.take_mem_peer("eth0").unwrap();
        let mut announcements = Vec::new();
        let changes = Changes::new(Arc::clone(&host), None, Vec::new(), |_, _| {});
        let (a, b) = (host.vserver("a").unwrap(), host.vserver("b").unwrap());
        let _echo = echo_server(&a, addr("10.0.0.1:7"));
        let stop = Arc::new(AtomicBool::new(false));
        let talk = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || {
                let mut stream = TcpStream::connect(&b, addr("10.0.0.1:7")).unwrap();
                let mut exchanged = 0u64;
                let mut back = [0; 1000];
                while !stop.load(Ordering::Relaxed) {
                    stream.write_all(&[7; 1000]).unwrap();
                    stream.read_exact(&mut back).unwrap();
                    exchanged += 1;
                }
                exchanged
            }
        });
        let (with, without) = (config(&text(workers, true)), config(&text(workers, false)));
        for round in 0..ROUNDS {
            changes.apply(with.clone(), &Options::default()).unwrap();
            let guest = host.vserver("guest").unwrap();
            let listener = TcpListener::bind(&guest, addr("10.0.0.9:80")).unwrap();
            // Waits when the vserver is removed.
            let waiter = std::thread::spawn(move || listener.accept().map(drop));
            let open = TcpStream::connect(&guest, addr("10.0.0.1:7")).unwrap();
            let applied = changes.apply(without.clone(), &Options::default()).unwrap();
            // What is announced on the wire lies in the daemon's frames until somebody takes it.
            announcements.clear();
            while far.receive(&mut announcements, 64).unwrap() > 0 {}
            assert_eq!(applied.removed.len(), 1, "round {round}");
            let ended = waiter.join().unwrap().unwrap_err();
            assert_eq!(ended.kind(), ErrorKind::NotConnected, "round {round}");
            assert_eq!(open.peer_addr().unwrap_err().kind(), ErrorKind::NotConnected);
            assert!(host.vserver("guest").is_none());
        }
        stop.store(true, Ordering::Relaxed);
        assert!(talk.join().unwrap() > 0);
        let snapshot = host.snapshot();
        assert_eq!(snapshot.generation, 1 + 2 * ROUNDS as u64);
        assert_eq!(snapshot.vservers.len(), 2);
        assert!(snapshot.problems.is_empty(), "{:?}", snapshot.problems);
    }
}
