use super::*;

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::path::Path;
use std::time::{Duration as StdDuration, Instant as StdInstant};

use crate::net::{TcpListener, TcpStream};
use crate::{Devices, Host, config};

/// Longer than anything here takes.
const PATIENCE: StdDuration = StdDuration::from_secs(20);

fn text(mac: u8, poll: &str, vservers: &[(String, String)]) -> String {
    let mut text = format!(
        "[nic.eth0]\ndevice = \"m\"\ndriver = \"mem\"\npoll = \"{poll}\"\n\
         mac = \"02:00:00:00:00:{mac:02x}\"\n[alias.data0]\nover = \"eth0\"\n"
    );
    for (name, address) in vservers {
        let _ = write!(text, "[vserver.{name}]\naddresses = [\"data0 {address}/16\"]\n");
    }
    text
}

fn parse(text: &str) -> config::HostConfig {
    config::parse(text, Path::new("test.toml")).unwrap()
}

/// Two hosts joined by memory: `a` at 10.0.0.1 and `b` at 10.0.0.2.
fn pair(poll: &str) -> (Host, Host) {
    let one = |name: &str, address: &str| [(name.to_owned(), address.to_owned())];
    let a = Host::start(parse(&text(1, poll, &one("a", "10.0.0.1")))).unwrap();
    let peer = a.take_mem_peer("eth0").unwrap();
    let devices = Devices::from([(String::from("eth0"), vec![peer])]);
    let b = parse(&text(2, poll, &one("b", "10.0.0.2")));
    (a, Host::start_with_devices(b, devices).unwrap())
}

fn account(host: &Host) -> Account {
    host.vservers()[0].worker(0).lock().poll.account
}

fn until(mut done: impl FnMut() -> bool) {
    let end = StdInstant::now() + PATIENCE;
    while !done() {
        assert!(StdInstant::now() < end, "it does not come");
        std::thread::yield_now();
    }
}

/// A connection from `b` to `a`, the accepted end first.
fn connection(a: &Host, b: &Host) -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind(&a.vservers()[0], "10.0.0.1:7".parse().unwrap()).unwrap();
    let (to, b) = ("10.0.0.1:7".parse().unwrap(), b.vservers().remove(0));
    let connect = std::thread::spawn(move || TcpStream::connect_timeout(&b, to, PATIENCE));
    let (accepted, _) = listener.accept().unwrap();
    let connected = connect.join().unwrap().unwrap();
    for stream in [&accepted, &connected] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
    }
    (accepted, connected)
}

fn ping_pong(one: &TcpStream, other: &TcpStream, rounds: u32) {
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut other = other;
            for _ in 0..rounds {
                let mut byte = [0; 1];
                other.read_exact(&mut byte).unwrap();
                other.write_all(&byte).unwrap();
            }
        });
        let mut one = one;
        for _ in 0..rounds {
            one.write_all(b"x").unwrap();
            one.read_exact(&mut [0; 1]).unwrap();
        }
    });
}

#[test]
fn an_idle_host_of_a_hundred_vservers_makes_no_turns() {
    for poll in ["interrupt", "adaptive"] {
        let all: Vec<_> =
            (0..100).map(|n| (format!("v{n}"), format!("10.0.1.{}", n + 1))).collect();
        let host = Host::start(parse(&text(1, poll, &all))).unwrap();
        // Announcements of addresses take a moment.
        let mut last = account(&host);
        let mut quiet = 0;
        until(|| {
            std::thread::sleep(StdDuration::from_millis(50));
            let now = account(&host);
            quiet = if now == last { quiet + 1 } else { 0 };
            last = now;
            quiet == 10
        });
        assert!(last.turns > 0 && last.sleeps > 0, "{last:?}");
    }
}

#[test]
fn a_thread_that_waits_polls_itself_and_the_worker_sleeps() {
    for poll in ["interrupt", "adaptive", "busy"] {
        let (a, b) = pair(poll);
        let (accepted, connected) = connection(&a, &b);
        ping_pong(&accepted, &connected, 200);
        for host in [&a, &b] {
            let seen = account(host);
            assert!(seen.seats_taken > 20, "{poll}: {seen:?}");
            assert!(seen.turns_of_waiters >= seen.seats_taken, "{poll}: {seen:?}");
        }
    }
}

#[test]
fn the_worker_takes_over_when_nobody_waits() {
    for poll in ["interrupt", "busy"] {
        let (a, b) = pair(poll);
        let (accepted, connected) = connection(&a, &b);
        ping_pong(&accepted, &connected, 50);
        // Nobody reads; the worker's thread alone takes what comes, and acknowledges it.
        let waiting = account(&a).turns_of_waiters;
        (&connected).write_all(&vec![7; 100_000]).unwrap();
        until(|| connected.info().unwrap().in_flight == 0);
        until(|| accepted.info().unwrap().unread == 100_000);
        assert_eq!(account(&a).turns_of_waiters, waiting);
    }
}

#[test]
fn the_way_of_waiting_is_changed_while_running() {
    let (a, b) = pair("interrupt");
    let (accepted, connected) = connection(&a, &b);
    for mode in [PollMode::Busy, PollMode::Interrupt, PollMode::Adaptive, PollMode::Busy] {
        a.set_poll_mode(None, mode).unwrap();
        b.set_poll_mode(Some(0), mode).unwrap();
        ping_pong(&accepted, &connected, 50);
        let before = account(&a).turns;
        if mode == PollMode::Busy {
            until(|| account(&a).turns > before + 10_000);
        }
    }
    assert!(account(&a).polling > Duration::ZERO);
    a.set_poll_mode(None, PollMode::Interrupt).unwrap();
    until(|| {
        let before = account(&a).turns;
        std::thread::sleep(StdDuration::from_millis(20));
        account(&a).turns == before
    });
    let kind = a.set_poll_mode(Some(1), PollMode::Busy).unwrap_err().kind();
    assert_eq!(kind, io::ErrorKind::NotFound);
}

#[test]
fn a_stop_ends_the_wait_of_whoever_polls() {
    for poll in ["interrupt", "adaptive", "busy"] {
        let (a, b) = pair(poll);
        let (accepted, connected) = connection(&a, &b);
        ping_pong(&accepted, &connected, 50);
        let taken = account(&a).seats_taken;
        let reader = std::thread::spawn(move || (&accepted).read(&mut [0; 1]).unwrap_err().kind());
        until(|| {
            account(&a).seats_taken > taken || a.vservers()[0].worker(0).lock().poll.waiters > 0
        });
        a.stop();
        assert_eq!(reader.join().unwrap(), io::ErrorKind::NotConnected);
    }
}

#[test]
fn who_does_not_sleep_asks_for_link_changes_by_time_however_long_turns_take() {
    for us_a_turn in [1, 300] {
        let mut poll = Polling::new(PollMode::Busy);
        let (mut looks, mut longest, mut last) = (0, 0, 0);
        for turn in 0..20_000 / us_a_turn {
            let now = turn * us_a_turn;
            if poll.is_look_due(Instant::from_nanos(now * 1000)) {
                poll.unlooked = None;
                looks += 1;
                longest = longest.max(now - last);
                last = now;
            }
        }
        assert!((10..=20).contains(&looks), "{looks} in 20 ms, a turn of {us_a_turn} us");
        assert!(longest <= 1000 + 2 * us_a_turn, "{longest} us");
    }
}

#[test]
fn a_sleep_is_a_look() {
    let mut poll = Polling::new(PollMode::Adaptive);
    assert!(!poll.is_look_due(Instant::from_millis(1)));
    // It slept for long.
    poll.unlooked = None;
    assert!(!poll.is_look_due(Instant::from_millis(900)));
    assert!(!poll.is_look_due(Instant::from_nanos(900_900_000)));
    assert!(poll.is_look_due(Instant::from_millis(901)));
}
