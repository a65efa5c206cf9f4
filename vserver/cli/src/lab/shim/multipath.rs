//! The kernel beside it: MPTCP between two kernels at the ends of the same two providers.

use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use weft_drivers::device::DeviceError;

use super::super::report::Report;
use super::super::scenario::interrupted;
use super::super::topology::nic;
use super::super::traffic::spread;
use super::super::{LabError, mptcp};
use super::MPTCP;
use super::bench::CALM;
use super::flows::ms;
use super::network::{Fault, Network, PREFIXES, PROVIDERS, SIDES, gateways, locators};

const PORT: u16 = 5001;
/// How long a fault lasts: MPTCP takes its time.
const LONG: Duration = Duration::from_millis(1500);
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

/// The same faults, `times` each.
pub(super) fn run(
    faults: &[(&str, Fault)],
    times: usize,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    if faults.is_empty() {
        return Ok(());
    }
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
    let listener = left.netns.enter(|| mptcp::listen_at(at))?;
    let listener = listener.map_err(LabError::io("listen with MPTCP"))?;
    for (name, fault) in faults {
        let (mut gaps, mut differ, mut bytes) = (Vec::new(), 0, 0);
        let before = left.link_stats(nic(1))?.tx_bytes;
        for _ in 0..times {
            interrupted(stop)?;
            let fail = || network.fail(*fault, 0).map_err(LabError::from);
            let mend = || network.mend(*fault, 0).map_err(LabError::from);
            let trial = mptcp::stream(right, (&listener, at), (CALM, LONG), fail, mend)?;
            differ += usize::from(trial.sent != trial.got);
            bytes += trial.got.bytes;
            gaps.push(ms(trial.gap));
            std::thread::sleep(REST);
        }
        let second = left.link_stats(nic(1))?.tx_bytes - before;
        let seen = format!(
            "{bytes} bytes in {times} streams, {differ} differ; {second} left by the second provider"
        );
        // The second subflow was there, and was used: otherwise the first one's timeout is measured.
        let both = differ == 0 && second > 0;
        report.check(format!("{MPTCP}{name}: every byte came, by both providers"), both, seen);
        report.number(
            &format!("{MPTCP}{name}: stream"),
            spread(&gaps),
            "longest silence in ms: median / 99 % / most; kernel to kernel",
        );
    }
    Ok(())
}
