//! The kernel beside it: MPTCP over two paths, one of which dies.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::net::{
    AddressFamily, Protocol, SocketFlags, SocketType, bind, connect, listen, socket_with,
};

use super::super::LabError;
use super::super::scenario::interrupted;
use super::super::topology::{Machine, nic};
use super::network::{Fault, Network, ip};
use super::{CALM, EFFECT, Gaps, join, traffic};

/// `IPPROTO_MPTCP` of linux/in.h.
const MPTCP: u32 = 262;
const PORT: u16 = 5001;

/// Host `n` of path `at`.
fn address(at: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, at, n)
}

/// Streams over two paths, one dies in each.
pub(super) fn run(fault: Fault, times: usize, stop: &AtomicBool) -> Result<Gaps, LabError> {
    let (server, client) = (Machine::new("server")?, Machine::new("client")?);
    let network = Network::new(false)?;
    network.cables(&server)?;
    for (at, port) in [(0, "port2"), (1, "port3")] {
        network.cable(&client, nic(at), port, at)?;
    }
    for (machine, n) in [(&server, 1), (&client, 2)] {
        for at in 0..2u8 {
            let own = IpAddr::V4(address(at, n));
            machine.netlink(|netlink| netlink.add_address(nic(at.into()), own, 24))?;
        }
        ip(machine, &["mptcp", "limits", "set", "subflows", "2", "add_addr_accepted", "2"])?;
    }
    let second = address(1, 2).to_string();
    ip(&client, &["mptcp", "endpoint", "add", &second, "dev", nic(1), "subflow"])?;
    let listener = server.netns.enter(listener)?.map_err(LabError::io("listen with MPTCP"))?;
    let mut gaps = Gaps::default();
    for _ in 0..times {
        interrupted(stop)?;
        once(&network, &client, &listener, fault, &mut gaps)?;
    }
    Ok(gaps)
}

fn socket() -> io::Result<OwnedFd> {
    let protocol = std::num::NonZeroU32::new(MPTCP).map(Protocol::from_raw);
    Ok(socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, protocol)?)
}

fn listener() -> io::Result<TcpListener> {
    let socket = socket()?;
    rustix::net::sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &SocketAddr::from((address(0, 1), PORT)))?;
    listen(&socket, 1)?;
    Ok(TcpListener::from(socket))
}

fn connected() -> io::Result<TcpStream> {
    let socket = socket()?;
    connect(&socket, &SocketAddr::from((address(0, 1), PORT)))?;
    Ok(TcpStream::from(socket))
}

fn once(
    network: &Network,
    client: &Machine,
    listener: &TcpListener,
    fault: Fault,
    gaps: &mut Gaps,
) -> Result<(), LabError> {
    let ended = AtomicBool::new(false);
    let stream = client.netns.enter(connected)?.map_err(LabError::io("connect with MPTCP"))?;
    let (served, _) = listener.accept().map_err(LabError::io("accept"))?;
    std::thread::scope(|scope| {
        let produced = scope.spawn(|| traffic::produce(served, &ended));
        let consumed = scope.spawn(|| traffic::consume(&stream));
        std::thread::sleep(CALM);
        let broken = Instant::now();
        let done = network.fail(fault, 0).map(|()| std::thread::sleep(LONG));
        // The stream ends on what is left; the dead path comes back for the next.
        ended.store(true, Ordering::Release);
        let sent = join(produced)?.map_err(LabError::io("send with MPTCP"))?;
        let mended = network.mend(fault, 0);
        let (got, times) = join(consumed)?.map_err(LabError::io("receive with MPTCP"))?;
        done.and(mended)?;
        gaps.compare(&sent, &got);
        gaps.bytes += got.bytes;
        let gap = traffic::gap(&times, broken, broken + LONG);
        gaps.bulk.push(gap.as_secs_f64() * 1e3);
        Ok::<(), LabError>(())
    })?;
    // Carrier, and the neighbours of the path.
    std::thread::sleep(EFFECT);
    Ok(())
}

/// MPTCP takes its time.
const LONG: Duration = Duration::from_secs(3);
