//! What the other stacks and the bare devices do in the same scenes.

use super::{Cell, Scene, SideSpec};
use crate::outcome::Unit;
use crate::place::Wiring;
use crate::spec::{Carrier, Poll, Workload};
use crate::{targets, wan};

/// MSS of Debian's lwIP is fixed for this one.
const LWIP_MTU: usize = 1500;
/// IP MTU that smoltcp supports at most, Ethernet header included.
const SMOLTCP_MTU_MAX: usize = 9000;

fn cell(contestant: &str, server: SideSpec, client: Option<SideSpec>, wiring: Wiring) -> Cell {
    Cell { contestant: contestant.to_owned(), server, client, wiring, start_s: 0.0 }
}

/// Adds the rivals to the scenes that they can play in. The quick form has those that a target
/// names.
pub(super) fn join(scenes: &mut [Scene], full: bool) {
    for scene in scenes {
        let Some(first) = scene.cells.first() else { continue };
        let (wiring, poll) = (first.wiring, first.server.poll);
        match wiring.carrier {
            Carrier::Tun | Carrier::Tap => tunnel(scene, wiring, full),
            Carrier::Veth => veth(scene, wiring, poll, full),
            Carrier::Mem | Carrier::Wan => {}
        }
    }
}

/// TUN and TAP against the kernel, and the relay that only copies frames.
fn tunnel(scene: &mut Scene, wiring: Wiring, full: bool) {
    let poll = Poll::Interrupt;
    let mut names = vec!["smoltcp", "gvisor"];
    // what a header of offloads is worth to them hardly differs between TUN and TAP
    if wiring.carrier == Carrier::Tun || (full && wiring.mtu == LWIP_MTU) {
        names.push("smoltcp-offload");
        if full {
            names.push("gvisor-offload");
        }
    }
    if full && wiring.mtu == LWIP_MTU {
        names.push("lwip");
    }
    let bulk = matches!(scene.workload, Workload::BulkIn | Workload::BulkOut | Workload::BulkBoth);
    if bulk {
        scene.cells.push(cell("relay", SideSpec::new("raw", poll), None, wiring));
    }
    for name in names {
        let kernel = Some(SideSpec::new("kernel", poll));
        let server = SideSpec::new(name, poll);
        scene.cells.push(cell(&format!("{name}, kernel client"), server, kernel, wiring));
    }
}

/// The raw device, and smoltcp over AF_XDP on both ends and against the kernel's client.
fn veth(scene: &mut Scene, wiring: Wiring, poll: Poll, full: bool) {
    let wiring = Wiring { offloads_off: false, ..wiring };
    let bulk = matches!(scene.workload, Workload::BulkIn | Workload::BulkOut | Workload::BulkBoth);
    let one = matches!(scene.workload, Workload::RequestResponse) && scene.connections == 1;
    if bulk || (one && scene.bytes + 66 <= 1514) || scene.workload == Workload::UdpEcho {
        let raw = || SideSpec::new("raw", poll);
        let wiring = Wiring { threaded_napi: bulk, ..wiring };
        scene.cells.push(cell("raw", raw(), Some(raw()), wiring));
    }
    let named = matches!(
        (scene.workload, poll),
        (Workload::RequestResponse | Workload::ConnectClose | Workload::UdpEcho, Poll::Busy)
    );
    // it walks all of its sockets for each packet: thousands take longer than a run
    if scene.connections > 256 || !(full || (named && scene.connections == 1)) {
        return;
    }
    if bulk && wiring.mtu > SMOLTCP_MTU_MAX {
        return;
    }
    let wiring = Wiring { threaded_napi: bulk, ..wiring };
    let smoltcp = || SideSpec::new("smoltcp", poll);
    scene.cells.push(cell("smoltcp", smoltcp(), Some(smoltcp()), wiring));
    if full && (bulk || scene.connections == 1) {
        let kernel = Some(SideSpec::new("kernel", poll));
        scene.cells.push(cell("smoltcp, kernel client", smoltcp(), kernel, wiring));
    }
}

/// Frames one way on bare AF_XDP rings, of sizes that no other scene has.
fn frames(bytes: usize, poll: Poll, wiring: Wiring) -> Scene {
    let how = if poll == Poll::Busy { "polling" } else { "interrupt" };
    let name = format!("raw frames one way, {bytes} B, {how}");
    let raw = || SideSpec::new("raw", poll);
    let wiring = Wiring { mtu: (bytes - 14).max(1500), ..wiring };
    let threaded = Wiring { threaded_napi: true, ..wiring };
    Scene::new("raw device", &name, Workload::Frames, Unit::Operations)
        .bytes(bytes)
        .cell("raw", raw(), Some(raw()), wiring)
        .cell("raw, threaded NAPI", raw(), Some(raw()), threaded)
}

/// Packets through a bare TUN or TAP descriptor.
fn packets(carrier: Carrier, direction: &str, bytes: usize, wiring: Wiring) -> Scene {
    let device = if carrier == Carrier::Tun { "TUN" } else { "TAP" };
    let name = format!("raw packets, {device}, {direction}, {bytes} B");
    let mut side = SideSpec::new("raw", Poll::Busy);
    side.extra.push(format!("direction={direction}"));
    let wiring = Wiring { carrier, ..wiring };
    Scene::new("raw device", &name, Workload::Frames, Unit::Operations)
        .bytes(bytes)
        .cell("raw", side, None, wiring)
}

/// The limits of the devices.
pub(super) fn raw(wiring: Wiring) -> Vec<Scene> {
    let mut scenes = Vec::new();
    scenes.extend([60, 1514, 3514, 9014].map(|bytes| frames(bytes, Poll::Busy, wiring)));
    for carrier in [Carrier::Tun, Carrier::Tap] {
        for (direction, bytes) in [("source", 1500), ("sink", 1500)] {
            scenes.push(packets(carrier, direction, bytes, wiring));
        }
    }
    scenes
}

/// Files by HTTP: nginx on the kernel beside weft's service over AF_XDP and TAP, asked by wrk.
fn http(bytes: usize, connections: usize, wiring: Wiring) -> Scene {
    let name = format!("HTTP, {bytes} B, {connections} connections");
    let tap = Wiring { carrier: Carrier::Tap, ..wiring };
    let poll = Poll::Interrupt;
    let wrk = || Some(SideSpec::new("wrk", poll));
    Scene::new("http", &name, Workload::Http, Unit::Operations)
        .bytes(bytes)
        .connections(connections)
        .cell("nginx", SideSpec::new("nginx", poll), wrk(), wiring)
        .cell("weft-http, AF_XDP", SideSpec::new("weft-http", poll), wrk(), wiring)
        .cell("weft-http, AF_XDP, polling", SideSpec::new("weft-http", Poll::Busy), wrk(), wiring)
        .cell("weft-http, TAP", SideSpec::new("weft-http", poll), wrk(), tap)
}

/// Files of 1 KiB and 64 KiB.
pub(super) fn files(wiring: Wiring) -> Vec<Scene> {
    let mut scenes = Vec::new();
    for (bytes, connections) in [(1024, 1), (1024, 64), (1024, 256), (65_536, 64)] {
        scenes.push(http(bytes, connections, wiring));
    }
    scenes
}

/// Until the announcements of vservers are over.
const VSERVERS_S: f64 = 3.0;
/// Starting one of many.
const VSERVER_S: f64 = 250e-6;
/// Making an idle connection.
const CONNECTION_S: f64 = 5e-6;

/// What the stack costs without a device.
pub(super) fn memory(full: bool, wiring: Wiring) -> Vec<Scene> {
    let wiring = Wiring { carrier: Carrier::Mem, ..wiring };
    let poll = Poll::Busy;
    let scene = |name: &str, workload| Scene::new("memory", name, workload, Unit::Nanoseconds);
    let side = |engine| SideSpec::new(engine, poll);
    let mut segments = scene(targets::SEGMENTS, Workload::Segments);
    segments = segments.cell("weft", side("memory"), None, wiring);
    segments = segments.cell("smoltcp", side("memory-smoltcp"), None, wiring);
    let mut scenes = vec![segments];
    let with = |extra: String| SideSpec { extra: vec![extra], ..SideSpec::new("memory", poll) };
    let of = |count: usize| with(format!("count={count}"));
    let unmerged = with(String::from("gro=off"));
    scenes[0].cells.push(cell("weft, without receive merging", unmerged, None, wiring));
    scenes[0].cells.push(cell(targets::TWO_STACKS, of(2), None, wiring));
    let (vservers, idle): (&[usize], &[usize]) = if full {
        (&[1, 10, 100, 1000, 10_000], &[10, 1000, 100_000, targets::idle_most(true)])
    } else {
        (&[1, 10_000], &[10, targets::idle_most(false)])
    };
    for (name, workload, counts, start_s, each_s) in [
        (targets::VSERVERS, Workload::Vservers, vservers, VSERVERS_S, VSERVER_S),
        (targets::IDLE, Workload::Idle, idle, 0.0, CONNECTION_S),
    ] {
        let mut scene = scene(name, workload);
        for count in counts {
            let start_s = start_s + *count as f64 * each_s;
            let cell = cell(&format!("weft, {count}"), of(*count), None, wiring);
            scene.cells.push(Cell { start_s, ..cell });
        }
        scenes.push(scene);
    }
    scenes
}

/// Bulk over a long path with loss: who sends is the contestant, the kernel receives.
pub(super) fn lossy(full: bool, wiring: Wiring) -> Vec<Scene> {
    let wiring = Wiring { carrier: Carrier::Wan, ..wiring };
    let poll = Poll::Interrupt;
    let name = format!("bulk out, {}", wan::PATH);
    let mut scene = Scene::new("lossy path", &name, Workload::BulkOut, Unit::Bits).slow();
    let engines: &[_] =
        if full { &["kernel", "weft", "smoltcp", "gvisor"] } else { &["kernel", "weft"] };
    for engine in engines {
        let kernel = Some(SideSpec::new("kernel", poll));
        scene = scene.cell(engine, SideSpec::new(engine, poll), kernel, wiring);
    }
    if !full {
        return vec![scene];
    }
    let bbr = vec![String::from("tcp.congestion = \"bbr\"")];
    let weft = SideSpec { extra: bbr, ..SideSpec::new("weft", poll) };
    vec![scene.cell("weft, BBR", weft, Some(SideSpec::new("kernel", poll)), wiring)]
}
