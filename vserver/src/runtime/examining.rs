//! The station of a host on worker 0: LLDP of its NICs, and what is wrong at their other ends.

use weft_interface::doctor::{Diagnosis, NicFacts, Sample, Station};
use weft_interface::lldp::LldpConfig;
use weft_interface::plane::ETHERTYPE_LLDP;
use weft_interface::tree::LinkKind;
use weft_interface::{LinkId, Tree};
use weft_stack::frame::Frame;
use weft_stack::time::Instant;

use super::Core;

impl Core {
    /// Listens to LLDP from now on, and speaks it, as its configuration says; on worker 0, before its thread runs.
    pub(crate) fn set_station(&mut self, now: Instant, station: Station) {
        let receive = station.lldp_config().receive;
        self.station = Some(Box::new(station));
        if receive {
            self.want_lldp(true);
        }
        for nic in 0..self.nics.len() {
            self.station_link(now, nic);
        }
    }

    /// What the operator says of LLDP is another; without a station there is nothing to do.
    pub(crate) fn set_lldp(&mut self, now: Instant, config: LldpConfig) {
        let Some(station) = &mut self.station else { return };
        let receives = station.lldp_config().receive;
        station.set_lldp(now, config);
        if receives != config.receive {
            self.want_lldp(config.receive);
        }
        self.send_station();
    }

    /// What is not wanted goes to the kernel, where another may listen.
    fn want_lldp(&mut self, wanted: bool) {
        for nic in 0..self.nics.len() {
            if self.nics[nic].ethernet {
                self.want_protocol(nic, ETHERTYPE_LLDP, wanted);
            }
        }
    }

    /// The link of a NIC is another.
    pub(super) fn station_link(&mut self, now: Instant, nic: usize) {
        if !self.nics[nic].ethernet {
            return;
        }
        let link = self.nics[nic].link;
        if let Some(station) = &mut self.station {
            station.handle_link(now, nic, NicFacts { up: link.up, mtu: Some(link.mtu) });
        }
        self.send_station();
    }

    /// Whether a frame of the machines' inbox was one of LLDP, which is done then.
    pub(super) fn is_for_station(&mut self, now: Instant, link: LinkId, frame: &Frame) -> bool {
        let lldp = frame.data().get(12..14) == Some(&ETHERTYPE_LLDP.to_be_bytes()[..]);
        if lldp && let Some(station) = &mut self.station {
            station.handle_frame(now, usize::from(link.0), frame.data());
        }
        lldp
    }

    /// Lets the station do what is due.
    pub(super) fn run_station(&mut self, now: Instant) {
        let Some(mut station) = self.station.take() else { return };
        if let Some(keeping) = &self.keeping {
            let keeper = keeping.keeper();
            station.handle_selection(now, keeper.tree(), keeper.selection());
            if station.wants_look(now) {
                station.look(now, &self.samples(keeper.tree()));
            }
        }
        station.handle_timeout(now);
        self.station = Some(station);
        self.send_station();
    }

    /// When the station has something to do.
    pub(super) fn station_at(&self) -> Option<Instant> {
        self.station.as_ref()?.poll_timeout()
    }

    /// Neighbours forget us at once.
    pub(super) fn stop_station(&mut self) {
        if let Some(station) = &mut self.station {
            station.shutdown();
        }
        self.send_station();
    }

    /// What is wrong; `None`: there is nothing that could tell.
    pub(crate) fn diagnose(&mut self, now: Instant) -> Option<Vec<Diagnosis>> {
        let mut station = self.station.take()?;
        let found = self.keeping.as_ref().map(|keeping| {
            let tree = keeping.keeper().tree();
            let bonds = keeping.bonds(now).into_iter().map(|(_, report)| report).collect();
            let duplicates = keeping.keeper().duplicates();
            station.diagnose(now, tree, (bonds, duplicates), &self.samples(tree))
        });
        self.station = Some(station);
        found
    }

    /// What came in on each NIC, as far as this worker saw it: a share of everything, which is
    /// enough for what is concluded from it.
    fn samples(&self, tree: &Tree) -> Vec<Sample> {
        let mut samples = vec![Sample::default(); self.nics.len()];
        for (port, seen) in self.plane.seen() {
            samples[usize::from(port.0)] =
                Sample { frames: seen.frames, own: seen.own, tags: seen.tags.to_vec() };
        }
        for (link, stats) in self.plane.tags() {
            let LinkKind::Vlan { over, tag, .. } = tree.at(link).kind else { continue };
            if let LinkKind::Nic(nic) = tree.at(over).kind {
                samples[nic].frames += stats.rx_frames;
                samples[nic].tags.push((tag, stats.rx_frames));
            }
        }
        samples
    }

    fn send_station(&mut self) {
        let Some(mut station) = self.station.take() else { return };
        while let Some((nic, frame)) = station.poll_transmit() {
            self.send_frame(nic, &frame);
        }
        self.station = Some(station);
    }
}
