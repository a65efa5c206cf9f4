//! Golden files: `tests/names/`. `WEFT_BLESS=1 cargo test -p weft-vserver server_config` writes what
//! is generated now.

use std::path::{Path, PathBuf};

use super::*;
use crate::config::parse;

const SYSTEMX: &str = include_str!("../../tests/names/systemx.toml");
const ADDRESSES: &str = include_str!("../../tests/names/addresses.toml");

/// The table as the document prints it, section 5.2.6.3.
const PRINTED: &str = "\
00:07:34:04:12:0E:data0:VsvrA:0       10.2.2.1
00:07:34:04:12:0E:data0:VsvrA:1       10.3.3.1
00:07:34:04:12:0E:data0:VsvrB:0       10.3.4.1
00:07:34:04:12:0E:data1:VsvrA:0       10.2.2.3
00:07:34:04:12:0E:mgmt0:Filer1         10.1.1.2
00:07:34:04:12:0E:mgmt1:Filer1         10.1.1.3
00:07:34:04:12:0E:san0:Filer1            10.2.2.2
00:07:34:04:12:0E:data2:VsvrC:0       10.3.5.1
00:07:34:04:12:0E:mgmt0:Filer2         10.1.1.4
00:07:34:04:12:0E:mgmt1:Filer2         10.1.1.5
00:07:34:04:12:0E:san0:Filer2            10.2.2.3
";

fn config(text: &str) -> HostConfig {
    parse(text, Path::new("weft.toml")).map_err(|e| e.to_string()).unwrap()
}

/// The example with another address for the second filer's storage.
fn corrected() -> HostConfig {
    config(&SYSTEMX.replace("\"san0:Filer2\" = \"10.2.2.3\"", "\"san0:Filer2\" = \"10.2.2.4\""))
}

fn golden(name: &str, now: &str) {
    let path = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/names")).join(name);
    if std::env::var_os("WEFT_BLESS").is_some() {
        std::fs::write(&path, now).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap();
    assert_eq!(kept, now, "{name}; WEFT_BLESS=1 writes what is generated now");
}

#[test]
fn the_document_s_duplicate_address_is_refused_with_both_places() {
    let e = parse(SYSTEMX, Path::new("systemx.toml")).unwrap_err().to_string();
    assert!(
        e.starts_with(
            "systemx.toml:18:17: address 10.2.2.3 is given to san0:Filer2 here and to \
             data1:VsvrA:0 at line 11;"
        ),
        "{e}"
    );
}

#[test]
fn the_document_s_table_is_reproduced() {
    let plan = Plan::of(&corrected()).unwrap();
    let made: Vec<String> = plan.entries().map(|(id, a)| format!("{id} {a}")).collect();
    let printed = PRINTED.replace("san0:Filer2            10.2.2.3", "san0:Filer2  10.2.2.4");
    let printed: Vec<String> =
        printed.lines().map(|l| l.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(made[..11], printed);
    assert_eq!(made[11], "00:07:34:04:12:0E:mgmt0:MySQLMgmtNode 10.1.1.10");
}

#[test]
fn what_is_generated_is_as_kept() {
    for (name, config) in [("systemx", corrected()), ("addresses", config(ADDRESSES))] {
        let plan = Plan::of(&config).unwrap();
        golden(&format!("{name}.worksheet"), &worksheet(&plan));
        for (version, n) in [(Version::V4, 4), (Version::V6, 6)] {
            golden(&format!("{name}.isc{n}"), &isc(&plan, version));
            golden(&format!("{name}.kea{n}"), &kea(&plan, version));
            golden(&format!("{name}.dnsmasq{n}"), &dnsmasq(&plan, version));
        }
    }
}

#[test]
fn addresses_of_vservers_take_the_free_instances_in_turn() {
    let plan = Plan::of(&config(ADDRESSES)).unwrap();
    let made: Vec<String> = plan.entries().map(|(id, a)| format!("{} {a}", id.claim)).collect();
    assert_eq!(
        made,
        [
            "data0:Files:1 10.0.0.30",
            "data0:Files:0 10.0.0.10",
            "data0:Files:0 fd00::10",
            "data0:Files:2 10.0.1.10",
            "data0:Files:1 fd00::11",
            "data0:Web1:0 10.0.0.40",
            "data0:Web2:0 10.0.0.41",
            "mgmt0:Node1 10.9.0.1",
            "mgmt0:Node1 fd09::1",
        ]
    );
}

#[test]
fn the_next_free_numbers_are_told() {
    let systemx = corrected();
    let next = |alias, vserver| next_instance(&systemx, alias, vserver).unwrap();
    assert_eq!((next("data0", "VsvrA"), next("data0", "vsvrb")), (2, 1));
    assert_eq!((next("data7", "VsvrA"), next("data0", "New")), (0, 0));
    assert_eq!(next_alias(&systemx, "data").unwrap(), "data3");
    assert_eq!(next_alias(&systemx, "MGMT").unwrap(), "mgmt2");
    assert_eq!(next_alias(&systemx, "san").unwrap(), "san1");
    assert_eq!(next_instance(&config(ADDRESSES), "data0", "Files").unwrap(), 3);
    assert!(next_alias(&systemx, "eth").is_err() && next_alias(&systemx, "x").is_err());
    assert!(next_instance(&systemx, "eth0", "A").is_err());
}

#[test]
fn renaming_a_vserver_tells_which_entries_change() {
    let (old, text) = (Plan::of(&config(ADDRESSES)).unwrap(), ADDRESSES);
    let renamed =
        text.replace("vserver.Files", "vserver.Store").replace("data0:Files:1", "data0:Store:1");
    let edits: Vec<String> = changes(&old, &Plan::of(&config(&renamed)).unwrap())
        .iter()
        .map(ToString::to_string)
        .collect();
    let id = "02:00:00:AA:00:01:data0";
    assert_eq!(
        edits,
        [
            format!("rename  10.0.0.30  {id}:Files:1 -> {id}:Store:1"),
            format!("rename  10.0.0.10  {id}:Files:0 -> {id}:Store:0"),
            format!("rename  fd00::10  {id}:Files:0 -> {id}:Store:0"),
            format!("rename  10.0.1.10  {id}:Files:2 -> {id}:Store:2"),
            format!("rename  fd00::11  {id}:Files:1 -> {id}:Store:1"),
        ]
    );
    assert_eq!(changes(&old, &old), []);
}

#[test]
fn every_other_change_is_told_too() {
    let old = Plan::of(&corrected()).unwrap();
    let text = SYSTEMX
        .replace("\"san0:Filer2\" = \"10.2.2.3\"", "\"san0:Filer2\" = \"10.2.2.9\"")
        .replace("\"data2:VsvrC:0\"", "\"data2:VsvrD:0\"")
        .replace("10.3.5.1", "10.3.6.1")
        .replace("10.3.5.0/24", "10.3.6.0/24")
        .replace("mtu = 9000", "mtu = 1500")
        .replace("node = ", "vendor_class = \"other\"\nnode = ");
    let edits: Vec<String> =
        changes(&old, &Plan::of(&config(&text)).unwrap()).iter().map(ToString::to_string).collect();
    let id = "00:07:34:04:12:0E";
    assert_eq!(
        edits,
        [
            format!("move    10.2.2.4 -> 10.2.2.9  {id}:san0:Filer2"),
            format!("remove  10.3.5.1  {id}:data2:VsvrC:0"),
            format!("add     10.3.6.1  {id}:data2:VsvrD:0"),
            String::from("change  vendor class weft -> other"),
            String::from("change  settings of network 10.2.2.0/24"),
            String::from("change  network 10.3.5.0/24 is gone"),
            String::from("change  network 10.3.6.0/24 is new"),
        ]
    );
}

#[test]
fn what_gives_no_plan_is_told_with_what_to_do() {
    let told = |text: &str| Plan::of(&config(text)).unwrap_err().to_string();
    assert!(told("").contains("add it with id ="));
    let cluster = "[cluster]\nid = \"00:07:34:04:12:0E\"\n";
    let lease = format!("{cluster}[cluster.leases]\n\"data0:A:0\" = \"10.0.0.1\"\n");
    assert!(
        told(&lease).contains("data0:A:0 (line 4): 10.0.0.1 is in no network"),
        "{}",
        told(&lease)
    );
    let host = "[nic.eth0]\ndevice = \"v\"\n[alias.mgmt0]\nover = \"eth0\"\n[vserver.box]\n\
                identity = \"node\"\naddresses = [\"mgmt0 10.0.0.1/24\", \"mgmt0 10.0.0.2/24\"]\n";
    assert!(told(&format!("{cluster}{host}")).contains("add node ="));
    let two = told(&format!("{cluster}node = \"n\"\n{host}"));
    assert!(two.contains("second address 10.0.0.2 on mgmt0"), "{two}");
}

#[test]
fn a_server_that_is_to_leave_our_clients_alone_knows_them_by_their_class() {
    let plan = Plan::of(&config(ADDRESSES)).unwrap();
    let class = &plan.cluster.vendor_class;
    let told = |program, version| refusal(&plan, program, version).unwrap_or_default();
    for (program, version, words) in [
        (Program::Isc, Version::V4, &["ignore booting;", "vendor-class-identifier"][..]),
        (Program::Kea, Version::V4, &["\"DROP\"", "option[60].text"][..]),
        (Program::Kea, Version::V6, &["\"DROP\"", "substring(option[16].hex, 6, "][..]),
        (Program::Dnsmasq, Version::V4, &["dhcp-ignore=tag:"][..]),
        (Program::Dnsmasq, Version::V6, &["enterprise:4711,", "dhcp-ignore=tag:"][..]),
    ] {
        let text = told(program, version);
        assert!(text.contains(class.as_str()), "{text}");
        assert!(words.iter().all(|w| text.contains(w)), "{text}");
    }
    assert_eq!(told(Program::Isc, Version::V6), "");
}

#[test]
fn a_server_s_interfaces_stand_where_its_program_wants_them() {
    let plan = || Plan::of(&config(ADDRESSES)).unwrap();
    let on = |texts: &[&str]| {
        plan().served_on(&texts.iter().map(ToString::to_string).collect::<Vec<_>>())
    };
    let network = plan().links(Version::V4)[0][0].network;
    let served = on(&["eth1", &format!("{network}=eth2")]).unwrap();
    assert_eq!(served.interface(network), Some("eth2"));
    assert_eq!(served.interfaces(Version::V4), ["eth1", "eth2"]);
    assert_eq!(plan().interfaces(Version::V4), [""; 0]);
    let text = kea(&served, Version::V6);
    assert!(text.contains("\"interface\": \"eth1\"") && !text.contains("\"*\""), "{text}");
    let text = dnsmasq(&served, Version::V4);
    assert!(text.contains("interface=eth1\ninterface=eth2\n"), "{text}");
    for wrong in ["", "a b", "1.2.3.0/24=eth0", "eth0=", "sixteen-is-a-lot"] {
        assert!(matches!(on(&[wrong]), Err(PlanError::Interface(_))), "{wrong}");
    }
}
