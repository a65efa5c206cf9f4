//! The scenes of both forms. What the quick form leaves out are cells, not repetitions.

use super::{Scene, SideSpec, rivals};
use crate::outcome::Unit;
use crate::place::Wiring;
use crate::spec::{Carrier, Poll, Workload};
use crate::targets;

/// A veth pair of MTU 1500 with one queue.
const VETH: Wiring = Wiring {
    carrier: Carrier::Veth,
    mtu: 1500,
    queues: 1,
    offloads_off: false,
    threaded_napi: false,
};

fn side(engine: &str, poll: Poll) -> SideSpec {
    SideSpec::new(engine, poll)
}

fn how(poll: Poll) -> &'static str {
    match poll {
        Poll::Busy => "polling",
        Poll::Interrupt => "interrupt",
        Poll::Adaptive => "adaptive",
    }
}

/// Kernel on both ends, as shipped and without offloads.
fn kernels(scene: Scene, poll: Poll, wiring: Wiring) -> Scene {
    let kernel = || side("kernel", poll);
    let off = Wiring { offloads_off: true, ..wiring };
    scene.cell("kernel", kernel(), Some(kernel()), wiring).cell(
        "kernel, offloads off",
        kernel(),
        Some(kernel()),
        off,
    )
}

/// A side with weft's engine, the other ones around it.
fn wefts(scene: Scene, engine: &str, poll: Poll, wiring: Wiring) -> Scene {
    let (weft, kernel) = (|| side(engine, poll), || side("kernel", poll));
    scene
        .cell(engine, weft(), Some(weft()), wiring)
        .cell(&format!("{engine}, kernel client"), weft(), Some(kernel()), wiring)
        .cell(&format!("{engine} client, kernel"), kernel(), Some(weft()), wiring)
}

fn latency(poll: Poll, bytes: usize) -> Scene {
    let name = targets::latency_scene(bytes, how(poll));
    let scene = Scene::new("latency", &name, Workload::RequestResponse, Unit::Nanoseconds);
    let scene = scene.bytes(bytes);
    let kernel = || side("kernel", poll);
    let weft = || side("weft", poll);
    let sockets = || side("weft-sockets", poll);
    let scene = scene
        .cell("kernel", kernel(), Some(kernel()), VETH)
        .cell("weft", weft(), Some(weft()), VETH)
        .cell("weft-sockets", sockets(), Some(sockets()), VETH)
        .cell("weft, kernel client", weft(), Some(kernel()), VETH);
    adaptive(scene, poll)
}

/// Of the scenes in which sides sleep: who spins only as long as it pays.
fn adaptive(scene: Scene, poll: Poll) -> Scene {
    if poll != Poll::Interrupt {
        return scene;
    }
    let weft = || side("weft", Poll::Adaptive);
    scene.cell("weft, adaptive", weft(), Some(weft()), VETH)
}

/// What is in flight at once in a scene that takes long to settle.
const SLOW_BYTES: usize = 100 << 20;

fn transactions(bytes: usize, connections: usize, poll: Poll) -> Scene {
    let name = targets::transactions_scene(bytes, connections, how(poll));
    let scene = Scene::new("transactions", &name, Workload::RequestResponse, Unit::Operations);
    let mut scene = scene.bytes(bytes).connections(connections);
    // one request on each connection is longer under way than other scenes last
    scene.slow = bytes * connections > SLOW_BYTES;
    let (weft, kernel) = (|| side("weft", poll), || side("kernel", Poll::Interrupt));
    let scene = scene
        .cell("kernel", kernel(), Some(kernel()), VETH)
        .cell("weft", weft(), Some(weft()), VETH)
        .cell("weft, kernel client", weft(), Some(kernel()), VETH);
    adaptive(scene, poll)
}

fn connections(at_once: usize, poll: Poll) -> Scene {
    let name = targets::connections_scene(at_once, how(poll));
    let scene = Scene::new("connections", &name, Workload::ConnectClose, Unit::Operations);
    // a namespace's client has 64,000 ports, and each rests in TIME-WAIT
    let scene = scene.connections(at_once).operations_max(50_000);
    let (weft, kernel) = (|| side("weft", poll), || side("kernel", poll));
    scene
        .cell("kernel", kernel(), Some(kernel()), VETH)
        .cell("weft", weft(), Some(weft()), VETH)
        .cell("weft, kernel client", weft(), Some(kernel()), VETH)
}

fn datagrams(bytes: usize, poll: Poll) -> Scene {
    let name = targets::datagrams_scene(bytes, how(poll));
    let scene = Scene::new("datagrams", &name, Workload::UdpEcho, Unit::Operations);
    let scene = scene.bytes(bytes).connections(64);
    let (weft, kernel) = (|| side("weft", poll), || side("kernel", poll));
    let vectored = || side("kernel-mmsg", poll);
    scene
        .cell("kernel", kernel(), Some(kernel()), VETH)
        .cell("kernel, recvmmsg/sendmmsg", vectored(), Some(vectored()), VETH)
        .cell("weft", weft(), Some(weft()), VETH)
        .cell("weft, kernel client", weft(), Some(kernel()), VETH)
}

const WAYS: [(Workload, &str); 3] =
    [(Workload::BulkIn, "in"), (Workload::BulkOut, "out"), (Workload::BulkBoth, "both")];

/// Bulk over veth: beside AF_XDP receive work is in threads of the kernel, which doubles its rate.
fn bulk_veth(way: (Workload, &str), mtu: usize, poll: Poll) -> Scene {
    let name = targets::bulk_scene(way.1, "veth", mtu);
    let wiring = Wiring { mtu, ..VETH };
    let scene = kernels(Scene::new("bulk veth", &name, way.0, Unit::Bits), poll, wiring);
    let wiring = Wiring { threaded_napi: true, ..wiring };
    let scene = wefts(scene, "weft", poll, wiring);
    if way.0 != Workload::BulkIn || mtu != VETH.mtu {
        return scene;
    }
    let pool = SideSpec { extra: vec!["pool=yes".into()], ..side("weft", poll) };
    scene.cell("weft client from pool, kernel", side("kernel", poll), Some(pool), wiring)
}

/// Bulk over TUN and TAP against the kernel.
fn bulk_tunnel(way: (Workload, &str), carrier: Carrier, mtu: usize) -> Scene {
    let device = if carrier == Carrier::Tun { "TUN" } else { "TAP" };
    let name = targets::bulk_scene(way.1, device, mtu);
    let wiring = Wiring { carrier, mtu, ..VETH };
    let poll = Poll::Interrupt;
    Scene::new("bulk tunnel", &name, way.0, Unit::Bits).cell(
        "weft, kernel client",
        side("weft", poll),
        Some(side("kernel", poll)),
        wiring,
    )
}

/// What fits in five minutes.
pub(super) fn quick() -> Vec<Scene> {
    let mut scenes = vec![latency(Poll::Busy, 1), latency(Poll::Interrupt, 1)];
    scenes.push(transactions(1, 256, Poll::Busy));
    scenes.push(transactions(1, 256, Poll::Interrupt));
    scenes.push(connections(1, Poll::Busy));
    scenes.push(datagrams(64, Poll::Busy));
    scenes.push(bulk_veth(WAYS[0], 1500, Poll::Interrupt));
    scenes.push(bulk_veth(WAYS[0], 3500, Poll::Interrupt));
    scenes.push(bulk_veth(WAYS[0], 9000, Poll::Interrupt));
    for way in [WAYS[0], WAYS[1]] {
        scenes.push(bulk_tunnel(way, Carrier::Tun, 1500));
        scenes.push(bulk_tunnel(way, Carrier::Tap, 1500));
    }
    rivals::join(&mut scenes, false);
    scenes.extend(rivals::memory(false, VETH));
    scenes.extend(rivals::lossy(false, VETH));
    scenes
}

/// Everything.
pub(super) fn full() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for bytes in [1, 64, 1024, 16_384] {
        scenes.push(latency(Poll::Busy, bytes));
    }
    scenes.push(latency(Poll::Interrupt, 1));
    for bytes in [1, 64, 1024, 16_384] {
        for connections in [16, 256, 10_000] {
            scenes.push(transactions(bytes, connections, Poll::Busy));
        }
    }
    scenes.push(transactions(1, 256, Poll::Interrupt));
    for poll in [Poll::Busy, Poll::Interrupt] {
        scenes.push(connections(1, poll));
        scenes.push(datagrams(64, poll));
    }
    scenes.push(connections(64, Poll::Busy));
    scenes.push(datagrams(1400, Poll::Busy));
    for way in WAYS {
        for mtu in [1500, 3500, 9000, 65_535] {
            // a target of its own, which is of one way
            if mtu != 3500 || way.0 == Workload::BulkIn {
                scenes.push(bulk_veth(way, mtu, Poll::Interrupt));
            }
        }
        for carrier in [Carrier::Tun, Carrier::Tap] {
            // the largest of a TAP leaves room for Ethernet in 64 KiB
            let most = if carrier == Carrier::Tun { 65_535 } else { 65_521 };
            for mtu in [1500, 9000, most] {
                scenes.push(bulk_tunnel(way, carrier, mtu));
            }
        }
    }
    rivals::join(&mut scenes, true);
    scenes.extend(rivals::memory(true, VETH));
    scenes.extend(rivals::lossy(true, VETH));
    scenes.extend(rivals::raw(VETH));
    scenes.extend(rivals::files(VETH));
    scenes
}
