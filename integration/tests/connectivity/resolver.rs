//! A DNS server that knows one name.

use std::{
    net::{IpAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use anyhow::Result;
use integration::testbed::Netns;

/// The labels of the name, as they stand in a query.
const KNOWN: &[u8] = b"\x0akubernetes\x07default\x03svc\x07cluster\x05local\x00";
const NO_SUCH_NAME: u8 = 3;

/// It ends when it is dropped.
pub struct Resolver {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Resolver {
    pub fn start(netns: &Netns, address: IpAddr) -> Result<Self> {
        let socket = netns.inside(|| UdpSocket::bind((address, 53)))?;
        socket.set_read_timeout(Some(Duration::from_millis(20)))?;
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let stop = Arc::clone(&stop);
            move || serve(&socket, &stop)
        });
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Resolver {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, stop: &AtomicBool) {
    let mut bytes = [0; 512];
    while !stop.load(Ordering::Relaxed) {
        let Ok((length, client)) = socket.recv_from(&mut bytes) else { continue };
        if length < 17 {
            continue;
        }
        let mut reply = bytes[..length].to_vec();
        reply[2] |= 0x80;
        let is_address = reply[length - 3] == 1;
        if reply[12..].starts_with(KNOWN) && is_address {
            reply[7] = 1;
            reply.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 96, 0, 1]);
        } else if !reply[12..].starts_with(KNOWN) {
            reply[3] |= NO_SUCH_NAME;
        }
        let _ = socket.send_to(&reply, client);
    }
}
