//! A connection that can be cut: what is sent disappears, and nobody is told, as when a cable is pulled.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU16, AtomicU64, Ordering},
    },
    thread,
    time::Duration,
};

/// Passes TCP on to a port on loopback until it is cut. Connections from before a cut are dead after it.
#[derive(Debug)]
pub struct Cut {
    port: u16,
    target: Arc<AtomicU16>,
    is_cut: Arc<AtomicBool>,
    cuts: Arc<AtomicU64>,
    forgets: Arc<AtomicU64>,
}

impl Cut {
    /// Passes on to `target`.
    ///
    /// # Panics
    /// There is no free port.
    pub fn before(target: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
        let port = listener.local_addr().expect("a bound listener has an address").port();
        let target = Arc::new(AtomicU16::new(target));
        let to = target.clone();
        let (is_cut, cuts) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let forgets = Arc::new(AtomicU64::new(0));
        let (cut, count, forgotten) = (is_cut.clone(), cuts.clone(), forgets.clone());
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                let Ok(far) = TcpStream::connect(("127.0.0.1", to.load(Ordering::SeqCst))) else { continue };
                let is_known = since(&forgotten);
                let lives = since(&count);
                if let (Ok(near2), Ok(far2)) = (near.try_clone(), far.try_clone()) {
                    pass(near, far, &cut, lives.clone(), is_known.clone());
                    pass(far2, near2, &cut, lives, is_known);
                }
            }
        });
        Self { port, target, is_cut, cuts, forgets }
    }

    /// Where to connect to.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// New connections lead to another port from now on; those that there are stay where they are.
    pub fn turn_to(&self, target: u16) {
        self.target.store(target, Ordering::SeqCst);
    }

    /// From now on nothing passes.
    pub fn cut(&self) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
        self.is_cut.store(true, Ordering::SeqCst);
    }

    /// Nothing passes any more on the connections that there are, and neither end is told; new ones work. As with a firewall that has
    /// forgotten them.
    pub fn forget(&self) {
        self.forgets.fetch_add(1, Ordering::SeqCst);
    }

    /// New connections work again.
    pub fn mend(&self) {
        self.is_cut.store(false, Ordering::SeqCst);
    }
}

/// Whether a counter is as it is now.
fn since(counter: &Arc<AtomicU64>) -> impl Fn() -> bool + Clone + Send + 'static {
    let (counter, now) = (counter.clone(), counter.load(Ordering::SeqCst));
    move || counter.load(Ordering::SeqCst) == now
}

fn pass(
    mut from: TcpStream,
    mut to: TcpStream,
    cut: &Arc<AtomicBool>,
    lives: impl Fn() -> bool + Send + 'static,
    is_known: impl Fn() -> bool + Send + 'static,
) {
    let cut = cut.clone();
    let _ = from.set_read_timeout(Some(Duration::from_millis(100)));
    thread::spawn(move || {
        let mut buffer = [0; 65536];
        loop {
            let read = match from.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => read,
                Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => 0,
                Err(_) => break,
            };
            if cut.load(Ordering::SeqCst) || !is_known() {
                continue;
            }
            // The cable is back, but this connection is not: what was lost in it is lost.
            if !lives() || to.write_all(&buffer[..read]).is_err() {
                break;
            }
        }
        let _ = to.shutdown(Shutdown::Both);
        let _ = from.shutdown(Shutdown::Both);
    });
}
