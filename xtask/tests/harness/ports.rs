//! Ports are never handed out twice, not even to two processes.

use std::collections::BTreeSet;
use std::net::TcpListener;
use std::time::Duration;

use curator_harness::Port;

use crate::child::{TestChild, is_child};

const MANY: usize = 300;

fn reserve() -> Vec<Port> {
    (0..MANY).map(|_| Port::reserve().unwrap()).collect()
}

#[test]
fn no_port_is_handed_out_twice_even_to_two_processes() {
    let mut other = TestChild::start("ports::hold_many_ports");
    let ours = reserve();
    let theirs: BTreeSet<u16> = other
        .said("numbers=")
        .split(',')
        .map(|port| port.parse().unwrap())
        .collect();
    let ours: BTreeSet<u16> = ours.iter().map(Port::number).collect();
    assert_eq!((ours.len(), theirs.len()), (MANY, MANY));
    assert_eq!(ours.intersection(&theirs).count(), 0);
}

#[test]
#[ignore = "a helper of the test above"]
fn hold_many_ports() {
    if is_child() {
        let ports = reserve();
        let numbers: Vec<_> = ports.iter().map(|port| port.number().to_string()).collect();
        println!("numbers={}", numbers.join(","));
        std::thread::sleep(Duration::from_secs(60));
    }
}

#[test]
fn a_reserved_port_can_be_listened_on_and_is_given_back() {
    let port = Port::reserve().unwrap();
    let listener = TcpListener::bind(port.address()).unwrap();
    assert_eq!(listener.local_addr().unwrap().port(), port.number());
    assert!(port.number() < 32_768, "it could collide with the system's own choice");
}
