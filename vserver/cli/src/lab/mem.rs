//! The memory scenario: two hosts in this process, joined by a memory pair; no kernel is involved.

use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};
use weft_vserver::config::Driver;
use weft_vserver::net::{TcpStream, UdpSocket};
use weft_vserver::{Host, Vserver};

use super::plan::{self, Plan, SHARED};
use super::report::Report;
use super::scenario::{interrupted, start_host, wait_for_addresses};
use super::topology::{CLIENT, v4, v6};
use super::{Args, LabError, tally};

/// Runs it.
pub(super) fn run(
    args: &Args,
    dir: &Path,
    report: &mut Report,
    stop: &AtomicBool,
) -> Result<(), LabError> {
    let bytes = args.size << 20;
    let sum = plan::make_files(dir, bytes).map_err(LabError::io("write the served files"))?;
    let begin = Instant::now();
    let plan = Plan {
        driver: Driver::Mem,
        devices: vec![String::from("mem0")],
        queues: 1,
        mtu: None,
        captures: args.keep_captures.clone(),
        dir: dir.to_owned(),
        gateways: false,
    };
    let (host, services) = start_host(plan.config())?;
    let client_host = client_host(&host, dir)?;
    wait_for_addresses(&host, report, begin, stop)?;
    wait_for_addresses(&client_host, report, begin, stop)?;
    let client = client_host.vserver("client").expect("the lab's own vserver");
    echoes(&client, report)?;
    interrupted(stop)?;
    download(&client, report, bytes, &sum)?;
    interrupted(stop)?;
    upload(&client, report, dir, bytes, &sum)?;
    tally::table(report, &host.snapshot());
    tally::table(report, &client_host.snapshot());
    services.stop();
    Ok(())
}

fn client_host(host: &Host, dir: &Path) -> Result<Host, LabError> {
    let far = host.take_mem_peer("eth0").ok_or_else(|| LabError::Io {
        operation: String::from("take the far end of eth0"),
        source: io::Error::from(io::ErrorKind::NotFound),
    })?;
    let mut config = plan::host(dir.join("client.sock"));
    config.nics.push(plan::physical("eth0", "mem0", Driver::Mem));
    config.aliases.push(plan::alias("data0", 0));
    config.vservers.push(plan::numbered("client", 0, CLIENT));
    Ok(Host::start_with_devices(config, [(String::from("eth0"), vec![far])].into())?)
}

fn echoes(client: &Vserver, report: &mut Report) -> Result<(), LabError> {
    let data: Vec<u8> = (0..1200u16).map(|i| i as u8).collect();
    for (name, n) in SHARED {
        for to in [IpAddr::V4(v4(n)), IpAddr::V6(v6(n))] {
            let came = udp_echo(client, SocketAddr::new(to, 7), &data)
                .map_err(LabError::io("UDP echo"))?;
            report.check(
                format!("{name} echoes UDP at {to}"),
                came,
                format!("{} bytes", data.len()),
            );
        }
    }
    Ok(())
}

fn udp_echo(client: &Vserver, to: SocketAddr, data: &[u8]) -> io::Result<bool> {
    let any: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0u16; 8], 0).into() };
    let socket = UdpSocket::bind(client, any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut answer = vec![0; data.len() + 1];
    socket.send(data)?;
    let n = socket.recv(&mut answer)?;
    Ok(&answer[..n] == data)
}

fn download(client: &Vserver, report: &mut Report, bytes: u64, sum: &str) -> Result<(), LabError> {
    let begin = Instant::now();
    let result = (|| {
        let to = SocketAddr::new(IpAddr::V4(v4(SHARED[0].1)), 80);
        let mut stream = TcpStream::connect(client, to)?;
        stream.write_all(b"GET /big HTTP/1.1\r\nHost: alpha\r\nConnection: close\r\n\r\n")?;
        let body = skip_head(&mut stream)?;
        let mut hash = Sha256::new();
        hash.update(&body);
        let rest = io::copy(&mut stream, &mut hash)?;
        Ok((rest + body.len() as u64, plan::hex(&hash.finalize())))
    })();
    let (got, got_sum) = result.map_err(LabError::io("download from alpha"))?;
    report.transfer("download from alpha", bytes, begin.elapsed());
    let ok = got == bytes && got_sum == sum;
    report.check(
        "download from alpha, equal checksum",
        ok,
        format!("{got} bytes, SHA-256 {got_sum}"),
    );
    Ok(())
}

fn upload(
    client: &Vserver,
    report: &mut Report,
    dir: &Path,
    bytes: u64,
    sum: &str,
) -> Result<(), LabError> {
    let begin = Instant::now();
    let result = (|| {
        let to = SocketAddr::new(IpAddr::V6(v6(SHARED[1].1)), 80);
        let mut stream = TcpStream::connect(client, to)?;
        let head = format!(
            "PUT /big HTTP/1.1\r\nHost: beta\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(head.as_bytes())?;
        io::copy(&mut std::fs::File::open(dir.join("alpha/big"))?, &mut stream)?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    })();
    let answer = result.map_err(LabError::io("upload to beta"))?;
    report.transfer("upload to beta", bytes, begin.elapsed());
    let path = dir.join("beta/upload/big");
    let got = plan::sha256(&path).map_err(LabError::io(format!("read {}", path.display())))?;
    let status = answer.lines().next().unwrap_or("no answer");
    let ok = status.starts_with("HTTP/1.1 2") && got == sum;
    report.check("upload to beta, equal checksum", ok, format!("{status}, SHA-256 {got}"));
    Ok(())
}

/// Reads the head of an HTTP response; returns what came after it.
fn skip_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        let n = stream.read(&mut chunk)?;
        if n == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        head.extend_from_slice(&chunk[..n]);
        if let Some(end) = head.windows(4).position(|w| w == b"\r\n\r\n") {
            if !head.starts_with(b"HTTP/1.1 200") {
                return Err(io::Error::other(String::from_utf8_lossy(&head[..end]).into_owned()));
            }
            return Ok(head.split_off(end + 4));
        }
    }
}
