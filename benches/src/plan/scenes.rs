//! The scenes of both forms.

use super::{Scene, SideSpec};
use crate::outcome::Unit;
use crate::place::Wiring;
use crate::spec::{Carrier, Poll, Workload};

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

/// What fits in five minutes.
pub(super) fn quick() -> Vec<Scene> {
    let mut scenes = Vec::new();
    for (poll, how) in [(Poll::Busy, "polling"), (Poll::Interrupt, "interrupt")] {
        let name = format!("request/response 1 B, 1 connection, {how}");
        let scene = Scene::new("latency", &name, Workload::RequestResponse, Unit::Nanoseconds);
        scenes.push(kernels(scene, poll, VETH));
    }
    for (workload, way) in
        [(Workload::BulkIn, "in"), (Workload::BulkOut, "out"), (Workload::BulkBoth, "both")]
    {
        let name = format!("bulk {way}, veth, MTU 1500");
        scenes.push(kernels(
            Scene::new("bulk", &name, workload, Unit::Bits),
            Poll::Interrupt,
            VETH,
        ));
    }
    let many = Scene::new(
        "transactions",
        "request/response 1 B, 256 connections",
        Workload::RequestResponse,
        Unit::Operations,
    );
    scenes.push(kernels(many.bytes(1).connections(256), Poll::Interrupt, VETH));
    let close = "connect-request-close, one at a time";
    let close = Scene::new("connections", close, Workload::ConnectClose, Unit::Operations);
    scenes.push(kernels(close.operations_max(30_000), Poll::Interrupt, VETH));
    let echo = Scene::new("datagrams", "UDP echo 64 B", Workload::UdpEcho, Unit::Operations);
    scenes.push(kernels(echo.bytes(64).connections(64), Poll::Busy, VETH));
    scenes
}

/// Everything.
pub(super) fn full() -> Vec<Scene> {
    quick()
}
