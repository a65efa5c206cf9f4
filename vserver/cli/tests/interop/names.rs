//! What `weft dhcp-config` prints, in the real servers.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::common::{installed, weft};

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program).args(args).stdin(Stdio::null()).output().expect(program)
}

/// What `weft dhcp-config` prints for a server.
fn generated(config: &Path, server: &str, v6: bool) -> String {
    let config = config.to_str().expect("UTF-8");
    let mut args = vec!["dhcp-config", config, "--for", server];
    args.extend(v6.then_some("--v6"));
    args.extend(["--interface", "lo"]);
    let output = run(weft().to_str().expect("UTF-8"), &args);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{server}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn accepts(program: &str, args: &[&str], what: &Path) {
    let output = run(program, args);
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let file = fs::read_to_string(what).expect("file");
    assert!(output.status.success(), "{program} {args:?}: {text}\n{file}");
}

/// The files of the golden tests; of the document's example the duplicate is corrected.
fn configurations(dir: &Path) -> Vec<std::path::PathBuf> {
    let names = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/names");
    let mut made = Vec::new();
    for name in ["systemx.toml", "addresses.toml"] {
        let text = fs::read_to_string(names.join(name)).expect(name);
        let text = text.replace("\"san0:Filer2\" = \"10.2.2.3\"", "\"san0:Filer2\" = \"10.2.2.4\"");
        let path = dir.join(name);
        fs::write(&path, text).expect("write");
        made.push(path);
    }
    made
}

#[test]
fn real_dhcp_servers_load_what_is_generated_for_them() {
    let dir = tempfile::tempdir().expect("directory");
    let leases = dir.path().join("leases");
    fs::write(&leases, "").expect("write");
    let leases = leases.to_str().expect("UTF-8");
    let mut loaded = 0;
    for config in configurations(dir.path()) {
        for v6 in [false, true] {
            let version = if v6 { "6" } else { "4" };
            for server in ["isc", "kea", "dnsmasq"] {
                let file = dir.path().join(format!("{server}{version}"));
                fs::write(&file, generated(&config, server, v6)).expect("write");
                let path = file.to_str().expect("UTF-8");
                let kea = format!("kea-dhcp{version}");
                let protocol = format!("-{version}");
                let (program, args) = match server {
                    "isc" => ("dhcpd", vec!["-t", &protocol, "-cf", path, "-lf", leases]),
                    "kea" => (&kea[..], vec!["-t", path]),
                    _ => ("dnsmasq", vec!["--test", "-C", path]),
                };
                if installed(program) {
                    accepts(program, &args, &file);
                    loaded += 1;
                }
            }
        }
    }
    println!("NUMBER dhcp-config: {loaded} files of 12 loaded by their servers");
}
