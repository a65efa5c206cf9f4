//! smoltcp 0.14 on the same devices, in its own best configuration: buffers of 1 MiB for bulk,
//! CUBIC (without congestion control by `--extra congestion=none`), 32 holes when reassembling, one
//! thread that polls the interface and then serves the sockets that changed.
//!
//! `smoltcp-offload` adds what 0.14 brought: super-segments through the virtio-net header of TUN
//! and TAP, and no checksums in software.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use smoltcp::iface::{Config, Interface, PollResult, SocketSet};
use smoltcp::wire::{EthernetAddress, HardwareAddress, IpAddress, IpCidr};
use weft_drivers::device::{AnyDevice, Device};

use self::wire::Wire;
use super::{Engine, device};
use crate::side::Control;
use crate::spec::{Carrier, Role, Side, Workload};

mod tcp;
mod udp;
mod wire;

/// Longest wait: the measuring program wants to be heard.
const WAIT_MAX: Duration = Duration::from_millis(1);

/// The engine.
pub(super) struct Smoltcp {
    pub(super) offload: bool,
}

impl Engine for Smoltcp {
    fn name(&self) -> &'static str {
        if self.offload { "smoltcp-offload" } else { "smoltcp" }
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        let over_tun = matches!(side.carrier, Carrier::Tun | Carrier::Tap);
        if self.offload && !over_tun {
            return Err(super::unsupported(side));
        }
        let mut net = Net::open(side, self.offload)?;
        control.fact("mode", net.mode());
        match (side.workload, side.role) {
            (Workload::UdpEcho, Role::Server) => udp::serve(&mut net, side, control),
            (Workload::UdpEcho, Role::Client) => udp::drive(&mut net, side, control),
            (w, Role::Server) if tcp::does(w) => tcp::serve(&mut net, side, control),
            (w, Role::Client) if tcp::does(w) => tcp::drive(&mut net, side, control),
            _ => Err(super::unsupported(side)),
        }
    }
}

/// A stack on a device.
struct Net<D> {
    wire: Wire<D>,
    iface: Interface,
    sockets: SocketSet<'static>,
    epoch: Instant,
    busy: bool,
}

impl Net<AnyDevice> {
    fn open(side: &Side, offload: bool) -> io::Result<Net<AnyDevice>> {
        let device = device::open(side, side.local, offload)?;
        Ok(Net::over(device, side.local, offload, side.busy()))
    }

    /// Sleeps until frames come or a timer of the stack is due, unless polling.
    fn wait(&mut self) -> io::Result<()> {
        if self.busy {
            return Ok(());
        }
        let now = self.now();
        let due = self
            .iface
            .poll_delay(now, &self.sockets)
            .map(|d| Duration::from_micros(d.total_micros()));
        device::wait(self.wire.device(), due.unwrap_or(WAIT_MAX).min(WAIT_MAX))
    }

    fn mode(&self) -> String {
        self.wire.device().caps().mode.clone()
    }
}

impl<D: Device> Net<D> {
    fn over(device: D, local: IpAddr, offload: bool, busy: bool) -> Net<D> {
        let hardware = match device.link().mac {
            Some(mac) => HardwareAddress::Ethernet(EthernetAddress(mac)),
            None => HardwareAddress::Ip,
        };
        let mut wire = Wire::new(device, offload);
        let mut config = Config::new(hardware);
        config.random_seed = u64::from(std::process::id());
        let mut iface = Interface::new(config, &mut wire, smoltcp::time::Instant::ZERO);
        iface.update_ip_addrs(|addresses| {
            // room for one is what every build of the interface has
            let _ = addresses.push(IpCidr::new(IpAddress::from(local), 16));
        });
        let sockets = SocketSet::new(Vec::new());
        Net { wire, iface, sockets, epoch: Instant::now(), busy }
    }

    fn now(&self) -> smoltcp::time::Instant {
        smoltcp::time::Instant::from_micros(self.epoch.elapsed().as_micros() as i64)
    }

    /// Receives, runs timers, sends. Whether a socket may have changed.
    fn poll(&mut self) -> io::Result<bool> {
        let now = self.now();
        let result = self.iface.poll(now, &mut self.wire, &mut self.sockets);
        self.wire.flush()?;
        Ok(result == PollResult::SocketStateChanged)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use smoltcp::socket::tcp::{Socket, SocketBuffer};
    use weft_drivers::mem::{self, Mem, MemConfig};

    const TOTAL: usize = 3 << 20;

    fn pattern(at: usize) -> u8 {
        (at % 251) as u8
    }

    fn ends(offload: bool) -> [Net<Mem>; 2] {
        let (a, b) = mem::pair(&MemConfig { offload, ..MemConfig::default() }).unwrap();
        let net = |device, last| Net::over(device, IpAddr::from([10, 77, 0, last]), offload, true);
        [net(a, 1), net(b, 2)]
    }

    fn socket() -> Socket<'static> {
        let buffer = || SocketBuffer::new(vec![0; 256 << 10]);
        Socket::new(buffer(), buffer())
    }

    /// Sends [`TOTAL`] bytes from the second to the first.
    fn transfer(offload: bool) {
        let [mut server, mut client] = ends(offload);
        let mut listening = socket();
        listening.listen(80).unwrap();
        let to = server.sockets.add(listening);
        let from = client.sockets.add(socket());
        let peer = (IpAddress::v4(10, 77, 0, 1), 80);
        let connecting = client.sockets.get_mut::<Socket>(from);
        connecting.connect(client.iface.context(), peer, 5000).unwrap();
        let (mut sent, mut received) = (0, 0);
        for _ in 0..1_000_000 {
            client.poll().unwrap();
            server.poll().unwrap();
            let socket = client.sockets.get_mut::<Socket>(from);
            while socket.can_send() && sent < TOTAL {
                sent += socket
                    .send(|room| {
                        let n = room.len().min(TOTAL - sent);
                        room[..n].iter_mut().enumerate().for_each(|(i, b)| *b = pattern(sent + i));
                        (n, n)
                    })
                    .unwrap();
            }
            let socket = server.sockets.get_mut::<Socket>(to);
            while socket.can_recv() {
                received += socket
                    .recv(|data| {
                        let right = |(i, b): (usize, &u8)| *b == pattern(received + i);
                        assert!(data.iter().enumerate().all(right));
                        (data.len(), data.len())
                    })
                    .unwrap();
            }
            if received == TOTAL {
                return;
            }
        }
        panic!("{received} of {sent} bytes came");
    }

    #[test]
    fn bytes_cross_the_adapter_intact() {
        transfer(false);
    }

    #[test]
    fn bytes_cross_intact_in_super_segments_with_unfinished_checksums() {
        transfer(true);
    }
}
