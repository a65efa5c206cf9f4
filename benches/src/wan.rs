//! A long path with loss between two namespaces, in real time: the lab's wire with the simulator's
//! faults.

use std::time::Duration;

use weft_cli::lab::relay;
use weft_drivers::device::{Device, DeviceError};
use weft_drivers::netns::Netns;
use weft_sim::{LinkSpec, Relay};

/// What the path is, for names of scenes.
pub(crate) const PATH: &str = "100 Mbit/s, 20 ms, 1 % loss";

const RATE: u64 = 100_000_000;
const ONE_WAY: Duration = Duration::from_millis(10);
const LOSS: f64 = 0.01;
/// The volume of the path.
const QUEUE_BYTES: usize = 250_000;

/// Makes `device` in both namespaces and joins the two until the wire is dropped.
pub(crate) fn between(
    ends: [&Netns; 2],
    device: &str,
    mtu: usize,
) -> Result<relay::Wire, DeviceError> {
    let [a, b] = ends.map(|netns| relay::port(netns, device, mtu));
    let ports: [Box<dyn Device>; 2] = [Box::new(a?), Box::new(b?)];
    let spec = LinkSpec {
        latency: ONE_WAY,
        loss: LOSS,
        rate: Some(RATE),
        queue_bytes: QUEUE_BYTES,
        ..LinkSpec::default()
    };
    // the seed differs from run to run: the spread is that of the losses too
    let faults = Relay::new([spec; 2], u64::from(std::process::id()) ^ unix_ns());
    relay::Wire::start(ports, faults).map_err(|e| DeviceError::new("start", "thread of a wire", e))
}

fn unix_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |d| d.as_nanos() as u64)
}
