//! HTTP: files of one size over kept-alive connections, asked for by wrk. `nginx` serves them on the
//! kernel with one worker and `sendfile`; `weft-http` is weft's own service.

use std::io;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use weft_drivers::netns::Netns;
use weft_vserver::service::Services;

use super::{Engine, unsupported, weft};
use crate::cpu;
use crate::side::Control;
use crate::spec::{Role, Side, Workload};

mod wrk;

pub(super) use wrk::Wrk;

/// How long a server may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(2);

/// The file that is asked for.
const FILE: &str = "file.bin";

/// `nginx`.
pub(super) struct Nginx;
/// `weft-http`.
pub(super) struct WeftHttp;

impl Engine for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn in_kernel(&self) -> bool {
        true
    }

    fn missing(&self) -> Option<String> {
        program("nginx").err()
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        if (side.workload, side.role) != (Workload::Http, Role::Server) {
            return Err(unsupported(side));
        }
        let nginx = program("nginx").map_err(io::Error::other)?;
        let dir = files(side)?;
        let config = dir.path().join("nginx.conf");
        std::fs::write(&config, nginx_config(side, dir.path()))?;
        let here = Netns::current().map_err(io::Error::other)?;
        let mut command = here.command(nginx);
        command.args(["-e", "stderr", "-p"]).arg(dir.path()).arg("-c").arg(&config);
        // its complaints are ours
        let child = Running(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?);
        cpu::count_too(child.0.id());
        answers(side)?;
        control.fact("mode", "kernel");
        control.fact("stack", "nginx, one worker, sendfile on");
        control.ready();
        serve_until_stopped(control);
        Ok(())
    }
}

impl Engine for WeftHttp {
    fn name(&self) -> &'static str {
        "weft-http"
    }

    fn run(&self, side: &Side, control: &Control) -> io::Result<()> {
        if (side.workload, side.role) != (Workload::Http, Role::Server) {
            return Err(unsupported(side));
        }
        let dir = files(side)?;
        let service = format!(
            "[[vserver.bench.service]]\nkind = \"http\"\nport = {}\nroot = \"{}\"\n",
            side.port,
            dir.path().display()
        );
        let (host, _vserver) = weft::start_with(side, &service)?;
        let services = Services::start(&host).map_err(io::Error::other)?;
        control.ready();
        serve_until_stopped(control);
        weft::tell(&host, side, control);
        services.stop();
        Ok(())
    }
}

fn serve_until_stopped(control: &Control) {
    while !control.stopped() {
        std::thread::sleep(PAUSE);
    }
}

/// Killed when dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // it may have ended by itself
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A directory with the file.
fn files(side: &Side) -> io::Result<TempDir> {
    let dir = tempfile::Builder::new().prefix("weft-bench-").tempdir()?;
    std::fs::write(dir.path().join(FILE), vec![0x5a; side.bytes])?;
    Ok(dir)
}

fn nginx_config(side: &Side, dir: &Path) -> String {
    let dir = dir.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .fold(String::new(), |text, kind| text + &format!("    {kind}_temp_path {dir}/{kind};\n"));
    format!(
        "daemon off;\nmaster_process off;\nworker_processes 1;\nerror_log stderr crit;\n\
         pid {dir}/nginx.pid;\nevents {{ worker_connections 4096; }}\nhttp {{\n{temporary}    \
         access_log off;\n    sendfile on;\n    keepalive_requests 1000000000;\n    \
         server {{ listen {}; root {dir}; }}\n}}\n",
        side.server()
    )
}

/// Returns when the server takes connections.
fn answers(side: &Side) -> io::Result<()> {
    let began = Instant::now();
    loop {
        match TcpStream::connect_timeout(&side.server(), Duration::from_secs(1)) {
            Ok(_) => return Ok(()),
            Err(e) if began.elapsed() > PATIENCE => return Err(e),
            Err(_) => std::thread::sleep(PAUSE),
        }
    }
}

/// Where a program is, or how to get it.
fn program(name: &str) -> Result<PathBuf, String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let sbin = [PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")];
    let mut places = std::env::split_paths(&path).chain(sbin).map(|dir| dir.join(name));
    places.find(|place| place.is_file()).ok_or_else(|| {
        let package = if name == "nginx" { "nginx-light" } else { name };
        format!("no {name} (apt-get install {package})")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_absent_says_what_to_install() {
        let reason = program("no-such-server").unwrap_err();
        assert_eq!(reason, "no no-such-server (apt-get install no-such-server)");
    }
}
