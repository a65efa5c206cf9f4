//! The kernel beside it: MPTCP between two kernels at the ends of the same two providers.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use weft_drivers::device::DeviceError;

use super::super::scenario::{interrupted, pause};
use super::super::topology::nic;
use super::super::{LabError, mptcp};
use super::bench::CALM;
use super::flows::ms;
use super::network::{Fault, Network, PREFIXES, PROVIDERS, SIDES, gateways, locators};

const PORT: u16 = 5001;
/// How long a fault lasts: MPTCP takes its time.
const LONG: Duration = Duration::from_secs(1);
/// For carrier and neighbours to come back.
const REST: Duration = Duration::from_millis(700);

fn address(provider: usize, side: usize) -> IpAddr {
    locators(provider, side)[1]
}

/// Both hosts' kernels have the IPv4 addresses of both providers, and the way to the peer's address of
/// a provider is that provider.
fn number(network: &Network) -> Result<(), DeviceError> {
    for side in SIDES {
        network.hosts[side].netlink(|netlink| {
            for provider in PROVIDERS {
                netlink.add_address(nic(provider), address(provider, side), PREFIXES[1])?;
                let via = Some(gateways(provider, side)[1]);
                netlink.add_route(address(provider, 1 - side), 32, via, None)?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// What the runs gave.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// The longest silences, ms.
    pub(super) gaps: Vec<f64>,
    /// Streams that did not come as they were sent.
    pub(super) differ: usize,
    /// Streams that stopped and were given up.
    pub(super) stuck: usize,
    pub(super) bytes: u64,
    /// That left by the second provider.
    pub(super) second: u64,
}

/// A fault, `times`.
pub(super) fn run(fault: Fault, times: usize, stop: &AtomicBool) -> Result<Seen, LabError> {
    let network = Network::new()?;
    number(&network)?;
    let [left, right] = &network.hosts;
    for machine in &network.hosts {
        machine.ip(&["mptcp", "limits", "set", "subflows", "2", "add_addr_accepted", "2"])?;
    }
    // The server tells its second address; whoever connects to it gets there by the second provider.
    let second = address(1, 0).to_string();
    left.ip(&["mptcp", "endpoint", "add", &second, "dev", nic(1), "signal"])?;
    let at = SocketAddr::new(address(0, 0), PORT);
    // At every address: who joins by the second one asks the listener there.
    let every = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
    let listener = left.netns.enter(|| mptcp::listen_at(every))?;
    let listener = listener.map_err(LabError::io("listen with MPTCP"))?;
    let mut seen = Seen::default();
    let before = left.link_stats(nic(1))?.tx_bytes;
    for _ in 0..times {
        interrupted(stop)?;
        let fail = || network.fail(fault, 0).map_err(LabError::from);
        let mend = || network.mend(fault, 0).map_err(LabError::from);
        let trial = mptcp::stream(right, (&listener, at), (CALM, LONG, stop), fail, mend)?;
        seen.stuck += usize::from(trial.sent.is_none());
        seen.differ += usize::from(trial.sent.is_some_and(|sent| sent != trial.got));
        seen.bytes += trial.got.bytes;
        seen.gaps.push(ms(trial.gap));
        pause(REST, stop)?;
    }
    seen.second = left.link_stats(nic(1))?.tx_bytes - before;
    Ok(seen)
}
