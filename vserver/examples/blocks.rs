//! A block store and its client, as a storage service would use the stack: options before the
//! handshake, received blocks kept without a copy, blocks sent without a copy, and what the
//! connection says about itself in the end.
//!
//! `cargo run --release -p weft-vserver --example blocks [MIB]`

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use weft_vserver::net::{CongestionControl, TcpConnect, TcpListener, TcpOption, TcpStream};
use weft_vserver::{Host, Vserver, config};

const CONFIG: &str = r#"
    nic.eth0 = { device = "mem0", driver = "mem" }
    alias.san0 = { over = "eth0" }
    vserver.store = { addresses = ["san0 10.0.0.1/24"], tcp = { fast_open = "server" } }
    vserver.client = { addresses = ["san0 10.0.0.2/24"], tcp = { fast_open = "client" } }
"#;
const PORT: &str = "10.0.0.1:3260";
const BLOCK_BYTES: usize = 256 << 10;
/// Command (`P`ut or `G`et) and number of the block.
type Head = [u8; 9];

fn head(command: u8, block: u64) -> Head {
    let mut head = [command; 9];
    head[1..].copy_from_slice(&block.to_be_bytes());
    head
}

/// One client's connection: a block is the list of pieces in which it arrived.
fn serve(mut stream: &TcpStream) -> io::Result<()> {
    let mut blocks: HashMap<u64, Vec<Bytes>> = HashMap::new();
    let mut head: Head = [0; 9];
    loop {
        match stream.read_exact(&mut head) {
            Err(e) if e.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        }
        let block = u64::from_be_bytes(head[1..].try_into().map_err(io::Error::other)?);
        if head[0] == b'P' {
            let (mut pieces, mut left) = (Vec::new(), BLOCK_BYTES);
            while left > 0 {
                let piece = stream.recv_bytes(left)?;
                if piece.is_empty() {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                left -= piece.len();
                pieces.push(piece);
            }
            blocks.insert(block, pieces);
            stream.write_all(b"K")?;
        } else {
            for piece in blocks.get(&block).ok_or(io::ErrorKind::NotFound)? {
                stream.send_bytes(&mut piece.clone())?;
            }
        }
    }
}

fn listen(store: &Vserver) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(store, PORT.parse().map_err(io::Error::other)?)?;
    // What is set here every connection inherits. A dead client is noticed within half a minute.
    let probes = (Duration::from_secs(10), Duration::from_secs(5), 4);
    listener.set_option(TcpOption::KeepAlive(Some(probes)))?;
    listener.set_option(TcpOption::NoDelay(true))?;
    Ok(listener)
}

/// The first command goes with the SYN once the store gave a cookie: a put can be repeated safely.
fn connect(client: &Vserver, first: &[u8]) -> io::Result<TcpStream> {
    let options = [
        TcpOption::Congestion(CongestionControl::Bbr),
        TcpOption::NoDelay(true),
        TcpOption::UserTimeout(Some(Duration::from_secs(20))),
        TcpOption::RecvBuffer(8 << 20),
    ];
    let timeout = Some(Duration::from_secs(5));
    let how = TcpConnect { options: &options, data: first, timeout, ..TcpConnect::default() };
    let to = PORT.parse().map_err(io::Error::other)?;
    let (mut stream, taken) = TcpStream::connect_with(client, to, how)?;
    stream.write_all(&first[taken..])?;
    Ok(stream)
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mib: usize = std::env::args().nth(1).map_or(Ok(64), |n| n.parse())?;
    let host = Host::start(config::parse(CONFIG, Path::new("blocks.toml"))?)?;
    let store = host.vserver("store").ok_or("no vserver 'store'")?;
    let client = host.vserver("client").ok_or("no vserver 'client'")?;
    let listener = listen(&store)?;
    std::thread::spawn(move || {
        while let Ok((stream, peer)) = listener.accept() {
            std::thread::spawn(move || {
                if let Err(e) = serve(&stream) {
                    eprintln!("{peer}: {e}");
                }
            });
        }
    });

    let block = Bytes::from(vec![7; BLOCK_BYTES]);
    let blocks = (mib << 20) / BLOCK_BYTES;
    for round in 1..=2 {
        let begin = Instant::now();
        let mut stream = connect(&client, &head(b'P', 0))?;
        for number in 0..blocks as u64 {
            if number > 0 {
                // With the block behind it: no segment of nine bytes.
                stream.write_more(&head(b'P', number))?;
            }
            stream.send_bytes(&mut block.clone())?;
            stream.read_exact(&mut [0])?;
        }
        let mut got = vec![0; BLOCK_BYTES];
        for number in 0..blocks as u64 {
            stream.write_all(&head(b'G', number))?;
            stream.read_exact(&mut got)?;
            assert!(got == block, "block {number} came back wrong");
        }
        let (info, took) = (stream.info()?, begin.elapsed());
        println!(
            "round {round}: {mib} MiB there and back in {took:.1?}; {:?}, first command with the \
             SYN: {}, rtt {:?}, {} bytes sent again",
            info.congestion, info.fast_open, info.rtt, info.bytes_retransmitted,
        );
    }
    Ok(())
}
