//! TCP over the whole stack: the wiring, not the protocol.

use bytes::Bytes;
use weft_stack::drop::DropReason;
use weft_stack::socket::tcp::{ShutdownHow, TcpError, TcpSendError, TcpState};
use weft_stack::socket::{Event, SocketId};
use weft_stack::stack::Change;
use weft_stack::time::Duration;

use crate::fixture::*;

fn listen(net: &mut Net, stack: usize, local: &str) -> SocketId {
    net.stacks[stack].tcp_listen(net.now, local.parse().unwrap(), 8).unwrap()
}

fn connect(net: &mut Net, stack: usize, remote: &str) -> SocketId {
    let id = net.stacks[stack].tcp_connect(net.now, None, remote.parse().unwrap()).unwrap();
    net.run();
    id
}

/// Moves `data` from one socket to another and checks every byte.
fn transfer(net: &mut Net, from: (usize, SocketId), to: (usize, SocketId), data: &[u8]) {
    let mut left = Bytes::copy_from_slice(data);
    let mut got = Vec::new();
    for _ in 0..100_000 {
        if !left.is_empty() {
            match net.stacks[from.0].tcp_send_bytes(net.now, from.1, &mut left) {
                Ok(_) | Err(TcpSendError::WouldBlock) => {}
                Err(e) => panic!("{e}"),
            }
        }
        net.run();
        let mut buf = [0; 16 << 10];
        while let Ok(n) = net.stacks[to.0].tcp_recv(net.now, to.1, &mut buf) {
            got.extend_from_slice(&buf[..n]);
        }
        if got.len() >= data.len() {
            break;
        }
        net.run_for(Duration::from_millis(1));
    }
    assert!(got == data, "{} of {} bytes", got.len(), data.len());
}

fn close_all(net: &mut Net, sockets: &[(usize, SocketId)]) {
    for (stack, id) in sockets {
        net.stacks[*stack].tcp_close(net.now, *id);
        net.run();
    }
    net.run_for(Duration::from_mins(5));
    for stack in &net.stacks {
        let memory = stack.memory();
        assert_eq!((memory.tcp_connections, memory.tcp_listeners), (0, 0));
        assert_eq!((memory.out_frames, memory.neighbour_frames), (0, 0));
    }
    net.check();
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len as u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[test]
fn bytes_cross_both_ways_over_both_families() {
    for remote in ["10.0.0.2:80", "[fd00::2]:80"] {
        let mut net = Net::pair();
        let listener = listen(&mut net, 1, "[::]:80");
        let client = connect(&mut net, 0, remote);
        let accepted = net.stacks[1].tcp_accept(listener).unwrap();
        assert_eq!(accepted.local, remote.parse().unwrap());
        assert_eq!(accepted.alias, A0);
        let data = pattern(3_000_000);
        transfer(&mut net, (0, client), (1, accepted.id), &data);
        transfer(&mut net, (1, accepted.id), (0, client), &data[..500_000]);
        assert!(net.carried.iter().all(|f| f.len() <= 1514));
        close_all(&mut net, &[(0, client), (1, accepted.id), (1, listener)]);
    }
}

#[test]
fn devices_that_take_super_segments_get_them() {
    let mut net = Net::new(2);
    for i in 0..2u8 {
        let mut config = alias(A0, i + 1, 1500);
        config.gso_bytes_max = 65_000;
        config.tx_checksum = true;
        net.alias(usize::from(i), config);
        net.addr(usize::from(i), A0, &format!("10.0.0.{}/24", i + 1));
    }
    net.cable((0, A0), (1, A0));
    let listener = listen(&mut net, 1, "0.0.0.0:80");
    let client = connect(&mut net, 0, "10.0.0.2:80");
    let accepted = net.stacks[1].tcp_accept(listener).unwrap();
    let data = pattern(4_000_000);
    transfer(&mut net, (0, client), (1, accepted.id), &data);
    let longest = net.carried.iter().map(Vec::len).max().unwrap();
    assert!(longest > 20_000, "{longest}");
    close_all(&mut net, &[(0, client), (1, accepted.id), (1, listener)]);
}

#[test]
fn connections_within_a_stack_need_no_device() {
    for remote in ["10.0.0.1:80", "127.0.0.1:80", "[::1]:80"] {
        let mut net = Net::alone();
        let listener = listen(&mut net, 0, "[::]:80");
        let client = connect(&mut net, 0, remote);
        let accepted = net.stacks[0].tcp_accept(listener).unwrap();
        transfer(&mut net, (0, client), (0, accepted.id), &pattern(2_000_000));
        assert!(net.sent.is_empty());
        close_all(&mut net, &[(0, client), (0, accepted.id), (0, listener)]);
    }
}

#[test]
fn a_closed_port_refuses_and_an_absent_host_is_reported() {
    let mut net = Net::pair();
    let refused = connect(&mut net, 0, "10.0.0.2:81");
    assert_eq!(net.stacks[0].tcp_take_error(refused), Some(TcpError::Refused));
    assert_eq!(net.stacks[1].mib().drops.get(DropReason::TcpPortClosed), 1);
    let absent = connect(&mut net, 0, "10.0.0.77:80");
    net.run_for(Duration::from_secs(10));
    assert!(net.stacks[0].mib().drops.get(DropReason::NeighbourUnreachable) > 0);
    net.run_for(Duration::from_mins(10));
    assert_eq!(net.stacks[0].tcp_state(absent), TcpState::Closed);
    assert!(net.stacks[0].tcp_take_error(absent).is_some());
    close_all(&mut net, &[(0, refused), (0, absent)]);
}

#[test]
fn an_address_that_goes_takes_its_connections_along() {
    let mut net = Net::pair();
    let listener = listen(&mut net, 1, "10.0.0.2:80");
    let client = connect(&mut net, 0, "10.0.0.2:80");
    let accepted = net.stacks[1].tcp_accept(listener).unwrap();
    net.events.clear();
    net.change(1, Change::AddressRemove { alias: A0, addr: ip("10.0.0.2") });
    net.run();
    assert_eq!(net.stacks[1].tcp_state(accepted.id), TcpState::Closed);
    let gone = Event::AddressRemoved { alias: A0, addr: ip("10.0.0.2") };
    assert!(net.events.contains(&(1, gone)));
    close_all(&mut net, &[(0, client), (1, accepted.id), (1, listener)]);
}

#[test]
fn a_stack_that_is_drained_resets_its_peers_and_holds_nothing() {
    let mut net = Net::pair();
    let listener = listen(&mut net, 1, "[::]:80");
    let clients: Vec<_> = (0..5).map(|_| connect(&mut net, 0, "10.0.0.2:80")).collect();
    net.stacks[1].tcp_accept(listener).unwrap();
    net.stacks[1].udp_bind(net.now, "[::]:9".parse().unwrap()).unwrap();
    net.stacks[1].drain(net.now);
    net.run();
    let held = net.stacks[1].memory();
    assert_eq!((held.tcp_connections, held.tcp_listeners, held.udp_sockets), (0, 0, 0));
    for client in clients {
        assert_eq!(net.stacks[0].tcp_take_error(client), Some(TcpError::Reset));
        net.stacks[0].tcp_close(net.now, client);
    }
    close_all(&mut net, &[]);
}

#[test]
fn a_smaller_path_mtu_is_found_by_tcp() {
    let mut net = routed();
    net.change(1, Change::Forwarding(true));
    let listener = listen(&mut net, 2, "[::]:80");
    for remote in ["10.1.0.1:80", "[fd00:0:0:1::1]:80"] {
        let client = connect(&mut net, 0, remote);
        let accepted = net.stacks[2].tcp_accept(listener).unwrap();
        transfer(&mut net, (0, client), (2, accepted.id), &pattern(300_000));
        net.stacks[0].tcp_shutdown(net.now, client, ShutdownHow::Both);
        close(&mut net, client, accepted.id);
    }
    assert!(net.stacks[0].memory().path_mtus >= 2);
    close_all(&mut net, &[(2, listener)]);
}

fn close(net: &mut Net, client: SocketId, server: SocketId) {
    net.stacks[0].tcp_close(net.now, client);
    net.stacks[2].tcp_close(net.now, server);
    net.run_for(Duration::from_mins(2));
}
