//! The XDP program committed for machines without clang is the one of the source.

use aya::Ebpf;
use aya::programs::{SocketFilter, Xdp};

static BUILT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.bpf.o"));
static COMMITTED: &[u8] = aya::include_bytes_aligned!("../../bpf/steer.bpf.o");
const SOURCE: &[u8] = include_bytes!("../../bpf/steer.bpf.c");
const HASH: &str = include_str!("../../bpf/steer.bpf.hash");

#[test]
fn the_committed_object_was_made_from_this_source() {
    let hash = SOURCE.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    assert_eq!(
        HASH.trim(),
        format!("{hash:016x}"),
        "renew it: touch drivers/build.rs; WEFT_BPF_UPDATE=1 cargo build -p weft-drivers"
    );
}

#[test]
fn both_objects_pass_the_verifier_and_have_the_same_programs_and_maps() {
    let mut seen = Vec::new();
    for object in [BUILT, COMMITTED] {
        let mut ebpf = match Ebpf::load(object) {
            Ok(ebpf) => ebpf,
            Err(e) => return println!("SKIP: cannot make BPF maps: {e}"),
        };
        let steer: &mut Xdp = ebpf.program_mut("steer").unwrap().try_into().unwrap();
        steer.load().unwrap();
        let copy: &mut SocketFilter = ebpf.program_mut("copy").unwrap().try_into().unwrap();
        copy.load().unwrap();
        let mut maps: Vec<String> = ebpf
            .maps()
            .map(|(name, map)| {
                let kind = format!("{map:?}");
                format!("{name} {}", kind.split('(').next().unwrap())
            })
            .collect();
        maps.sort();
        seen.push(maps);
    }
    assert_eq!(seen[0], seen[1]);
    let maps =
        ["COUNTERS PerCpuArray", "ETHERTYPES HashMap", "V4 HashMap", "V6 HashMap", "XSKS XskMap"];
    assert_eq!(seen[0], maps);
}
