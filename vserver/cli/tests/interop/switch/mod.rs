//! weft at an Open vSwitch, and with FRR: bonds, VLANs, failover groups, BFD over AF_XDP.

mod bfd;
mod dhcp;
mod doctor;
mod faults;
mod lacp;
mod ovs;
mod vlan;
mod wire;

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_cli::lab::topology::v4;

use crate::common::{ALPHA, operate};

/// Asks the daemon of `dir` for a document.
fn ask(dir: &Path, args: &[&str]) -> Value {
    let output = operate(dir, args);
    let (text, errors) = (output.stdout, String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&text)
        .unwrap_or_else(|e| panic!("{args:?}: {e}: {errors}{}", String::from_utf8_lossy(&text)))
}

/// Asks again until the answer is right; `wrong` says what is not right about one.
fn until<T>(seconds: u64, mut look: impl FnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match look() {
            Ok(found) => return found,
            Err(wrong) => {
                assert!(begin.elapsed() < Duration::from_secs(seconds), "{wrong}");
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// What `weft bonds -j` says of one bond.
fn bond(dir: &Path, name: &str) -> Value {
    let mut document = ask(dir, &["bonds", "-j", name]);
    document["bonds"][0][1].take()
}

/// Names of the ports of a bond that send.
fn sending(bond: &Value) -> Vec<&str> {
    let ports = bond["ports"].as_array().expect("ports").iter();
    let used = ports.filter(|p| p["distributing"] == true && p["collecting"] == true);
    used.map(|p| p["name"].as_str().expect("name")).collect()
}

/// A host with `bond0` of `nic0` and on; `bond` are more keys of it, `alpha` of the vserver.
fn bonded(dir: &Path, nics: usize, bond: &str, alpha: &str) -> String {
    let nic = |i| format!("[nic.eth{i}]\ndevice = \"nic{i}\"\ndriver = \"af-xdp\"\n");
    let ports: Vec<String> = (0..nics).map(|i| format!("\"eth{i}\"")).collect();
    format!(
        "[host]\ncontrol = \"{}\"\nstate_dir = \"{}\"\n{}\
         [bond.bond0]\nports = [{}]\n{bond}\
         [alias.data0]\nover = \"bond0\"\n\
         [vserver.alpha]\naddresses = [\"data0 {}/16\"]\n{alpha}",
        dir.join("weft.sock").display(),
        dir.join("state").display(),
        (0..nics).map(nic).collect::<String>(),
        ports.join(", "),
        v4(ALPHA)
    )
}

/// The frames of a capture that pass a filter of tshark, a line for each.
fn frames(capture: &Path, filter: &str) -> Vec<String> {
    let mut command = Command::new("tshark");
    command.args(["-n", "-Y", filter, "-r"]).arg(capture).stdin(Stdio::null());
    let output = command.output().expect("tshark");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tshark on {}: {errors}", capture.display());
    String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
}
