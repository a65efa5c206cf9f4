//! Stacks in other languages, as programs of their own that take our options and speak our lines.
//! They are built from `benches/rivals/` when first asked for, with what the machine has.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use super::Engine;
use crate::side::Control;
use crate::spec::Side;

/// Where Debian puts the sources of Go packages.
const GO_PATH: &str = "/usr/share/gocode";
const GVISOR: &str = "/usr/share/gocode/src/gvisor.dev/gvisor/pkg/tcpip";
const LWIP: &str = "/usr/include/lwip/lwip/init.h";

/// The program, or why there is none.
type Built = Result<PathBuf, String>;

/// gVisor's netstack, over TUN or TAP.
pub(super) struct Gvisor {
    /// With the virtio-net header; its own link over such a descriptor does without.
    pub(super) offload: bool,
}

impl Engine for Gvisor {
    fn name(&self) -> &'static str {
        if self.offload { "gvisor-offload" } else { "gvisor" }
    }

    fn missing(&self) -> Option<String> {
        gvisor().err()
    }

    fn command(&self, _: &Side) -> Option<Command> {
        let mut command = Command::new(gvisor().ok()?);
        if self.offload {
            command.args(["--extra", "offload=true"]);
        }
        Some(command)
    }

    fn run(&self, side: &Side, _: &Control) -> io::Result<()> {
        Err(super::unsupported(side))
    }
}

/// lwIP as Debian builds it, over TUN or TAP.
pub(super) struct Lwip;

impl Engine for Lwip {
    fn name(&self) -> &'static str {
        "lwip"
    }

    fn missing(&self) -> Option<String> {
        lwip().err()
    }

    fn command(&self, _: &Side) -> Option<Command> {
        Some(Command::new(lwip().ok()?))
    }

    fn run(&self, side: &Side, _: &Control) -> io::Result<()> {
        Err(super::unsupported(side))
    }
}

fn gvisor() -> Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(build_gvisor).clone()
}

fn lwip() -> Built {
    static BUILT: OnceLock<Built> = OnceLock::new();
    BUILT.get_or_init(build_lwip).clone()
}

fn build_gvisor() -> Built {
    let install = "apt-get install golang-go golang-gvisor-gvisor-dev";
    if !Path::new(GVISOR).exists() {
        return Err(format!("no gVisor sources in {GO_PATH} ({install})"));
    }
    let out = out("gvisor-side")?;
    let mut go = Command::new("go");
    go.args(["build", "-o"]).arg(&out).arg(".").current_dir(source("gvisor"));
    // sources of the distribution only, nothing is fetched
    go.env("GO111MODULE", "off").env("GOPATH", GO_PATH).env("GOPROXY", "off").env("GOFLAGS", "");
    build(go, install)?;
    Ok(out)
}

fn build_lwip() -> Built {
    let install = "apt-get install liblwip-dev gcc";
    if !Path::new(LWIP).exists() {
        return Err(format!("no lwIP headers ({install})"));
    }
    let out = out("lwip-side")?;
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall", "-Wextra", "-I/usr/include/lwip", "-o"]).arg(&out);
    cc.arg(source("lwip").join("side.c")).args(["-llwip", "-lpthread"]);
    build(cc, install)?;
    Ok(out)
}

fn source(of: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("rivals").join(of)
}

/// Next to this program.
fn out(name: &str) -> Built {
    let own = std::env::current_exe().map_err(|e| format!("own path: {e}"))?;
    Ok(own.with_file_name(name))
}

fn build(mut command: Command, install: &str) -> Result<(), String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = match command.output() {
        Ok(output) => output,
        Err(e) => return Err(format!("{program}: {e} ({install})")),
    };
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let text: String = text.trim().chars().take(300).collect();
    Err(format!("{program} failed: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compiler_that_is_absent_is_a_reason_that_says_what_to_install() {
        let reason = build(Command::new("no-such-compiler-here"), "apt-get install x").unwrap_err();
        assert!(reason.starts_with("no-such-compiler-here:"), "{reason}");
        assert!(reason.ends_with("(apt-get install x)"), "{reason}");
    }

    #[test]
    fn a_compiler_that_fails_is_a_reason_with_its_words() {
        let mut sh = Command::new("sh");
        sh.args(["-c", "echo missing header >&2; exit 1"]);
        assert_eq!(build(sh, "").unwrap_err(), "sh failed: missing header");
    }

    #[test]
    fn a_foreign_engine_is_its_program_or_tells_why_not() {
        for engine in [&Lwip as &dyn Engine, &Gvisor { offload: false }] {
            let missing = engine.missing();
            assert!(missing.as_ref().is_none_or(|reason| !reason.is_empty()));
        }
    }
}
