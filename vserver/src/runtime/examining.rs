//! The station of a host on worker 0: LLDP of its NICs, and what is wrong at their other ends.

use weft_interface::LinkId;
use weft_interface::doctor::{Diagnosis, NicFacts, Sample, Station};
use weft_interface::lldp::{LldpConfig, LldpReport};
use weft_interface::plane::{ETHERTYPE_LLDP, Seen};
use weft_stack::frame::Frame;
use weft_stack::time::Instant;

use super::Core;

/// Worker 0 looks at what comes in by any; once at the start, and whenever data paths are new.
pub(crate) fn show_home(cores: &mut [&mut Core]) {
    let Some((home, others)) = cores.split_first_mut() else { return };
    home.seen_elsewhere = others.iter().map(|core| core.plane.seen().clone()).collect();
}

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
                station.look(now, &self.samples());
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
            let keeper = keeping.keeper();
            station.diagnose(now, keeper.tree(), keeper.reports(now), &self.samples())
        });
        self.station = Some(station);
        found
    }

    /// Who speaks LLDP at the other ends; `None`: nobody listens.
    pub(crate) fn lldp(&self, now: Instant) -> Option<Vec<LldpReport>> {
        Some(self.station.as_ref()?.neighbours(now))
    }

    /// What came in on each NIC, by the queues of all workers.
    fn samples(&self) -> Vec<Sample> {
        let mut samples = self.plane.seen().samples();
        for other in self.seen_elsewhere.iter().map(Seen::samples) {
            samples.iter_mut().zip(&other).for_each(|(sum, more)| sum.add(more));
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

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::fmt::Write as _;

    use weft_drivers::device::{AnyDevice, Device};
    use weft_interface::doctor::{Code, Severity};

    use super::*;
    use crate::Host;
    use crate::config;
    use crate::host::build::standing_still;

    /// A host whose time is the test's: two workers, NICs with a queue for each.
    struct Lab {
        cores: Vec<Core>,
        /// Far ends by NIC and queue.
        ends: Vec<Vec<AnyDevice>>,
        second: u64,
    }

    impl Lab {
        fn new(macs: &[u8], rest: &str) -> Lab {
            let directory = tempfile::tempdir().unwrap();
            let state = directory.path().display();
            let mut text =
                format!("[host]\nstate_dir = \"{state}\"\n[workers]\ncount = 2\nframes = 256\n");
            for (i, mac) in macs.iter().enumerate() {
                let _ = writeln!(
                    text,
                    "[nic.eth{i}]\ndevice = \"mem{i}\"\ndriver = \"mem\"\nqueues = 2\n\
                     mac = \"02:00:00:00:00:{mac:02x}\""
                );
            }
            text.push_str(rest);
            let (cores, ends) = standing_still(&text);
            Lab { cores, ends, second: 0 }
        }

        /// Until a second; in each the frames come in: a broadcast of a VLAN by a NIC and queue.
        fn run(&mut self, until: u64, frames: &[(usize, usize, u16)]) {
            while self.second < until {
                self.second += 1;
                let now = Instant::from_millis(self.second * 1000);
                for (nic, queue, tag) in frames {
                    let mut frame = vec![0xff; 6];
                    frame.extend([2, 0, 0, 0, 9, 9]);
                    if *tag != 0 {
                        frame.extend([0x81, 0]);
                        frame.extend(tag.to_be_bytes());
                    }
                    frame.extend([0x08, 0x06]);
                    frame.extend([0; 46]);
                    let end = &mut self.ends[*nic][*queue];
                    let mut queue = VecDeque::from([Frame::from_heap(0, &frame)]);
                    assert_eq!(end.transmit(&mut queue).unwrap(), 1);
                    end.flush().unwrap();
                }
                for core in &mut self.cores {
                    // More than it has to do.
                    for _ in 0..4 {
                        core.turn(now);
                    }
                }
                // What the host says is of no interest.
                let mut said = Vec::new();
                for end in self.ends.iter_mut().flatten() {
                    end.receive(&mut said, 64).unwrap();
                    said.clear();
                }
            }
        }

        /// Errors and warnings, with their ports.
        fn found(&mut self) -> Vec<(Code, String)> {
            let now = Instant::from_millis(self.second * 1000);
            let found = self.cores[0].diagnose(now).expect("there are machines");
            let wrong = found.into_iter().filter(|d| d.severity != Severity::Info);
            wrong.map(|d| (d.code, d.ports.join(" "))).collect()
        }
    }

    fn is(code: Code, ports: &str) -> Vec<(Code, String)> {
        vec![(code, ports.to_owned())]
    }

    const GROUP: &str = "[fail.fail0]\nmembers = [\"eth0\", \"eth1\"]\n\
        [alias.data0]\nover = \"fail0.5\"\n[alias.data1]\nover = \"fail0.6\"\n";
    const MEMBERS: &str = "[fail.fail0]\nmembers = [\"eth0.5\", \"eth1.5\"]\n\
        [alias.data0]\nover = \"fail0\"\n";

    #[test]
    fn a_vlan_that_a_member_lacks_is_named_whichever_workers_have_the_frames() {
        for config in [GROUP, MEMBERS] {
            for (good, lacking) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
                let frames = [(0, good, 5), (0, good, 6), (1, lacking, 6)];
                let mut lab = Lab::new(&[1, 2], config);
                lab.run(55, &frames);
                assert_eq!(lab.found(), [], "it is not known for long enough");
                // Nobody asks meanwhile.
                lab.run(130, &frames);
                assert_eq!(
                    lab.found(),
                    is(Code::VlanMismatch, "eth1"),
                    "{config} {good} {lacking}"
                );
            }
            let mut lab = Lab::new(&[1, 2], config);
            lab.run(130, &[(0, 0, 5), (1, 1, 5), (0, 1, 6), (1, 0, 6)]);
            assert_eq!(lab.found(), [], "each VLAN is on both, by some queue");
        }
    }

    const BOND: &str = "[bond.bond0]\nports = [\"eth0\", \"eth1\"]\nmode = \"lacp\"\n\
        [alias.data0]\nover = \"bond0\"\n";

    #[test]
    fn a_silent_switch_that_floods_to_both_ports_has_no_group_whichever_workers_have_the_frames() {
        for (first, second) in [(0, 0), (0, 1), (1, 0), (1, 1)] {
            let both = [(0, first, 0), (1, second, 0)];
            let mut lab = Lab::new(&[1, 2], BOND);
            lab.run(85, &both);
            assert_eq!(lab.found(), []);
            lab.run(95, &both);
            assert_eq!(lab.found(), is(Code::StaticOrNone, "eth0 eth1"), "{first} {second}");
            let mut lab = Lab::new(&[1, 2], BOND);
            lab.run(95, &both[..1]);
            assert_eq!(lab.found(), is(Code::NoPartner, "eth0 eth1"));
        }
    }

    #[test]
    fn members_with_one_hardware_address_are_named() {
        let mut lab = Lab::new(&[1, 1], GROUP);
        lab.run(2, &[]);
        assert_eq!(lab.found(), is(Code::DuplicateMac, "eth1"));
        let mut lab = Lab::new(&[1, 2], GROUP);
        lab.run(2, &[]);
        assert_eq!(lab.found(), []);
    }

    #[test]
    fn frames_to_everybody_on_a_network_are_asked_of_every_nic_before_its_link_is_up() {
        let text = format!(
            "[nic.eth0]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:01\"\n\
             [nic.eth1]\ndriver = \"mem\"\nmac = \"02:00:00:00:00:02\"\n{BOND}\
             [vserver.a]\naddresses = [\"data0 10.0.0.1/24\"]\n"
        );
        let host = Host::start(config::parse(&text, "t.toml".as_ref()).unwrap()).unwrap();
        let core = host.shared.home().lock();
        assert!(!core.plane.is_up(LinkId(2), |_| true), "nobody speaks LACP");
        let broadcast: std::net::IpAddr = "10.0.0.255".parse().unwrap();
        for nic in &core.nics {
            assert_eq!(nic.steered().find(|s| *s.0 == broadcast), Some((&broadcast, &1)));
        }
    }
}
