//! Compiles the XDP program with clang; without clang the object committed beside it is used.
//!
//! `WEFT_BPF_UPDATE=1 cargo build -p weft-drivers` renews the committed object and the hash of
//! the source it was made from, which a test compares.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SOURCE: &str = "bpf/steer.bpf.c";
const COMMITTED: &str = "bpf/steer.bpf.o";
const COMMITTED_HASH: &str = "bpf/steer.bpf.hash";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-changed={COMMITTED}");
    println!("cargo:rerun-if-env-changed=WEFT_BPF_UPDATE");
    println!("cargo:rerun-if-env-changed=CLANG");
    if env::var("CARGO_CFG_TARGET_OS").as_deref() != Ok("linux") {
        return;
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = out.join("steer.bpf.o");
    if let Err(reason) = compile(&object) {
        println!("cargo:warning=using the committed XDP program: {reason}");
        fs::copy(COMMITTED, &object).expect("the committed XDP object can be copied");
        return;
    }
    if env::var_os("WEFT_BPF_UPDATE").is_some() {
        fs::copy(&object, COMMITTED).expect("the XDP object can be committed");
        let source = fs::read(SOURCE).expect("the source was just compiled");
        fs::write(COMMITTED_HASH, format!("{:016x}\n", fnv1a(&source))).expect("hash written");
    }
}

fn compile(object: &Path) -> Result<(), String> {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    let mut command = Command::new(&clang);
    command.args(["-O2", "-g", "-Wall", "-Werror", "-target", "bpf", "-mcpu=v2"]);
    // No path of the machine that compiles belongs into the object.
    command.args(["-fdebug-compilation-dir", "."]);
    if let Some(include) = multiarch_include() {
        command.arg("-I").arg(include);
    }
    command.args(["-c", SOURCE, "-o"]).arg(object);
    let output = command.output().map_err(|e| format!("cannot run {clang}: {e}"))?;
    if output.status.success() {
        return Ok(());
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    Err(format!("{clang}: {}", stderr.lines().next().unwrap_or("failed without a message")))
}

/// Debian keeps `asm/types.h` in a directory per architecture, which `-target bpf` does not know.
fn multiarch_include() -> Option<PathBuf> {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").ok()?;
    let path = PathBuf::from(format!("/usr/include/{arch}-linux-gnu"));
    path.is_dir().then_some(path)
}

fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
