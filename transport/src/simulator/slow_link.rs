//! A slow wire: a TCP proxy that passes everything on, a while later.
//!
//! Between two real daemons it makes a link of any latency where the system has no traffic shaper.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Pieces on the wire in each direction; who sends more waits.
const ON_THE_WIRE: usize = 4096;
/// The longest piece, in bytes.
const PIECE: usize = 64 * 1024;

/// Accepts connections and leads each to the same place. Stops when it is dropped.
///
/// It runs on threads of its own: they sleep to a tenth of a millisecond, tokio's timers only to one.
#[derive(Debug)]
pub struct SlowLink {
    address: SocketAddr,
    open: Arc<Open>,
}

#[derive(Debug, Default)]
struct Open {
    is_over: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
}

impl SlowLink {
    /// Listens at that address and leads to `target`; every byte takes `one_way` longer than without,
    /// in each direction.
    ///
    /// # Errors
    /// If it cannot listen there.
    pub fn start(listen: SocketAddr, target: SocketAddr, one_way: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind(listen)?;
        let address = listener.local_addr()?;
        let open = Arc::new(Open::default());
        let accepting = Arc::clone(&open);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if accepting.is_over.load(Ordering::Acquire) {
                    return;
                }
                // Who is refused tries again, as over any bad wire.
                let _ = stream.and_then(|stream| connect(stream, target, one_way, &accepting));
            }
        });
        Ok(Self { address, open })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for SlowLink {
    fn drop(&mut self) {
        self.open.is_over.store(true, Ordering::Release);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect_timeout(&self.address, Duration::from_secs(1));
        for stream in self.open.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn connect(from: TcpStream, target: SocketAddr, one_way: Duration, open: &Open) -> io::Result<()> {
    let to = TcpStream::connect_timeout(&target, Duration::from_secs(2))?;
    for stream in [&from, &to] {
        stream.set_nodelay(true)?;
        open.streams.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
    }
    lead(from.try_clone()?, to.try_clone()?, one_way);
    lead(to, from, one_way);
    Ok(())
}

/// Passes on what comes, until either end closes.
fn lead(from: TcpStream, to: TcpStream, one_way: Duration) {
    let (pieces, due) = sync_channel(ON_THE_WIRE);
    thread::spawn(move || take(from, &pieces, one_way));
    thread::spawn(move || hand_over(to, &due));
}

fn take(mut from: TcpStream, pieces: &SyncSender<(Instant, Vec<u8>)>, one_way: Duration) {
    let mut buffer = vec![0; PIECE];
    while let Ok(len @ 1..) = from.read(&mut buffer) {
        if pieces.send((Instant::now() + one_way, buffer[..len].to_vec())).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Read);
}

fn hand_over(mut to: TcpStream, due: &Receiver<(Instant, Vec<u8>)>) {
    for (at, piece) in due {
        thread::sleep(at.saturating_duration_since(Instant::now()));
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_comes_through_later() {
        let echo = TcpListener::bind("127.0.0.1:0").unwrap();
        let one_way = Duration::from_millis(20);
        let link = SlowLink::start("127.0.0.1:0".parse().unwrap(), echo.local_addr().unwrap(), one_way).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = echo.accept().unwrap();
            let mut copy = stream.try_clone().unwrap();
            io::copy(&mut stream, &mut copy).unwrap();
            copy.shutdown(Shutdown::Write).unwrap();
        });
        let mut stream = TcpStream::connect(link.address()).unwrap();
        let begin = Instant::now();
        stream.write_all(b"hello").unwrap();
        let mut reply = [0; 5];
        stream.read_exact(&mut reply).unwrap();
        assert_eq!(&reply, b"hello");
        assert!(begin.elapsed() >= 2 * one_way);
        let sent = vec![7; 300_000];
        stream.write_all(&sent).unwrap();
        let mut got = vec![0; sent.len()];
        stream.read_exact(&mut got).unwrap();
        assert_eq!(got, sent);
        drop(link);
        assert_eq!(stream.read(&mut reply).unwrap_or(0), 0, "it ends with the link");
    }
}
