//! The kernel beside it: MPTCP over two paths, one of which dies.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::super::scenario::{interrupted, pause};
use super::super::topology::{Machine, nic};
use super::super::{LabError, mptcp};
use super::network::{Fault, Network};
use super::{CALM, EFFECT, Gaps};

const PORT: u16 = 5001;

/// Host `n` of path `at`.
fn address(at: u8, n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 78, at, n)
}

/// Where the server listens.
fn server_at() -> SocketAddr {
    SocketAddr::from((address(0, 1), PORT))
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
        machine.ip(&["mptcp", "limits", "set", "subflows", "2", "add_addr_accepted", "2"])?;
    }
    let second = address(1, 2).to_string();
    client.ip(&["mptcp", "endpoint", "add", &second, "dev", nic(1), "subflow"])?;
    let listener = server
        .netns
        .enter(|| mptcp::listen_at(server_at()))?
        .map_err(LabError::io("listen with MPTCP"))?;
    let mut gaps = Gaps::default();
    for _ in 0..times {
        interrupted(stop)?;
        once((&network, &client, &listener), fault, &mut gaps, stop)?;
    }
    Ok(gaps)
}

fn once(
    (network, client, listener): (&Network, &Machine, &TcpListener),
    fault: Fault,
    gaps: &mut Gaps,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let from = (listener, server_at());
    let (fail, mend) = (|| network.fail(fault, 0), || network.mend(fault, 0));
    let trial = mptcp::stream(client, from, (CALM, LONG, stop), fail, mend)?;
    gaps.compare(&trial.sent.unwrap_or_default(), &trial.got);
    gaps.bytes += trial.got.bytes;
    gaps.bulk.push(trial.gap.as_secs_f64() * 1e3);
    // Carrier, and the neighbours of the path.
    pause(EFFECT, stop)
}

/// MPTCP takes its time.
const LONG: Duration = Duration::from_secs(3);
