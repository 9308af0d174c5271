//! The choice of a path to one node, call by call.

use std::collections::VecDeque;
use std::net::Ipv6Addr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures::stream::{FuturesUnordered, StreamExt};
use horus_keys::{MeshPublicKey, PeerId, Timestamp};
use reqwest::Url;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::Shared;
use super::path::{self, Path, PathKind, TransportMode};
use super::peer::Outcome;
use super::places::Counted;
use crate::address::Address;
use crate::carrier::Outbound;
use crate::error::{ErrorKind, RpcError};

/// How long a call waits for a path to be tried when there is another one.
const TRY: Duration = Duration::from_millis(400);
/// Paths that failed are tried again in the background while the node was called so lately.
const IN_USE: Duration = Duration::from_secs(300);
/// How long a daemon that has just come up may take to have a link before a path over the overlay counts as failed.
const LINKED: Duration = Duration::from_millis(1500);
/// HTTP addresses of one node that are tried.
const MAX_HTTP: usize = 8;

/// A node as an address names it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Target {
    pub(super) ip: Ipv6Addr,
    /// The key of the daemon there, if the address or an announcement tells.
    pub(super) key: Option<MeshPublicKey>,
    pub(super) topic: String,
    pub(super) pin: Option<PeerId>,
}

/// What came of a request on one path.
enum Attempt {
    /// The caller has its answer.
    Done(Outcome),
    /// The path failed: another one may do better.
    Failed(RpcError),
}

/// The paths to one node.
pub(super) struct Route {
    pub(super) target: Target,
    shared: Arc<Shared>,
    paths: Mutex<Paths>,
    /// Whether a task tries the paths that failed.
    is_tended: AtomicBool,
    /// Has that task look which they are.
    failed: Notify,
    /// Tells that a path works again.
    back: Notify,
    /// Calls that are under way.
    pub(super) outstanding: AtomicUsize,
}

struct Paths {
    all: Vec<Arc<Path>>,
    /// Which announcements and which daemon they were made from.
    made_from: (u64, u64),
    used: Instant,
}

impl Route {
    pub(super) fn new(shared: Arc<Shared>, target: Target) -> Self {
        let paths = Mutex::new(Paths { all: Vec::new(), made_from: (0, 0), used: Instant::now() });
        let is_tended = AtomicBool::new(false);
        let (failed, back) = (Notify::new(), Notify::new());
        Self { target, shared, paths, is_tended, failed, back, outstanding: AtomicUsize::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, Paths> {
        self.paths.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The paths in the order of preference, as of what is known now.
    pub(super) fn paths(&self) -> Vec<Arc<Path>> {
        let made_from = (self.shared.known.version(), self.shared.watcher.state().generation);
        let mut paths = self.lock();
        paths.used = Instant::now();
        if paths.made_from != made_from || paths.all.is_empty() {
            paths.all = self.make(&paths.all);
            paths.made_from = made_from;
        }
        paths.all.clone()
    }

    /// The paths as they were last made.
    pub(super) fn current_paths(&self) -> Vec<Arc<Path>> {
        self.lock().all.clone()
    }

    /// Whether no path is known to fail, or another one works.
    pub(super) fn seems_well(&self) -> bool {
        let paths = self.current_paths();
        paths.is_empty() || paths.iter().any(|path| path.is_usable())
    }

    /// Waits until a path that had failed works again.
    pub(super) async fn recovered(&self) {
        self.back.notified().await;
    }

    /// How long a call takes on the path in use, if that is known.
    pub(super) fn latency(&self) -> Option<Duration> {
        self.current_paths().iter().find(|path| path.is_usable()).and_then(|path| path.health().latency)
    }

    /// Makes the paths anew, but keeps those that stay.
    fn make(&self, old: &[Arc<Path>]) -> Vec<Arc<Path>> {
        let mode = self.shared.options.mode;
        let mut made: Vec<Arc<Path>> = Vec::new();
        if mode != TransportMode::Messages {
            for (kind, url) in self.urls().into_iter().take(MAX_HTTP) {
                if let Some(path) = old.iter().find(|path| path.url() == Some(&url)) {
                    made.push(Arc::clone(path));
                } else {
                    match Path::http(kind, url, &self.shared.options.http) {
                        Ok(path) => made.push(Arc::new(path)),
                        Err(e) => tracing::warn!("{e}"),
                    }
                }
            }
        }
        if mode != TransportMode::Http {
            let before = old.iter().find(|path| path.kind == PathKind::Messages);
            let new = || Arc::new(Path::messages(self.shared.peer(&self.target)));
            made.push(before.map_or_else(new, Arc::clone));
        }
        made.sort_by_key(|path| path.kind);
        made.iter().for_each(|path| path.set_alternative(made.len() > 1));
        made
    }

    /// The HTTP addresses of the node: those over the overlay if this host has a TUN, and the others
    /// that it announced.
    fn urls(&self) -> Vec<(PathKind, Url)> {
        let Target { ip, topic, pin, .. } = &self.target;
        let own = self.shared.watcher.state().info.map(|info| info.node_ip);
        // The own host is called through a socket, unless it must be HTTP.
        let is_own = own == Some(*ip) && self.shared.options.mode != TransportMode::Http;
        let overlay_works = !is_own && own.is_some_and(path::has_tun);
        let mut urls = Vec::new();
        for node in self.shared.known.at(*ip, topic, Timestamp::now()) {
            if pin.is_some_and(|pin| pin != node.peer_id) {
                continue;
            }
            for address in &node.announcement.addresses {
                let Ok(Address::Http { url, .. }) = address.parse() else { continue };
                let overlay = overlay_ip(&url);
                if overlay.is_some_and(|overlay| overlay == *ip) {
                    urls.push((PathKind::Overlay, url));
                } else if overlay.is_none() && (url.scheme() == "https" || self.shared.options.http.allow_plain) {
                    urls.push((PathKind::Http, url));
                }
            }
        }
        if !urls.iter().any(|(kind, _)| *kind == PathKind::Overlay)
            && let Some(port) = path::usual_port(topic)
            && let Ok(url) = format!("http://[{ip}]:{port}").parse()
        {
            urls.push((PathKind::Overlay, url));
        }
        urls.retain(|(kind, _)| *kind != PathKind::Overlay || overlay_works);
        urls.sort();
        urls.dedup();
        urls
    }

    /// The paths that take a request of that size: what the others would say of it is no answer while one of these may bring it, now or
    /// later. All, if none does: the caller is told the limit.
    ///
    /// # Errors
    /// [`ErrorKind::DaemonDown`] while it is not known whether there is one.
    fn with_room(&self, request: &Outbound) -> Result<Vec<Arc<Path>>, RpcError> {
        let paths = self.paths();
        let has_room = |path: &Arc<Path>| path::fits(path.kind, &request.body, request.authorization.as_deref());
        let roomy: Vec<_> = paths.iter().filter(|path| has_room(path)).cloned().collect();
        if !roomy.is_empty() {
            return Ok(roomy);
        }
        let state = self.shared.watcher.state();
        if self.shared.options.mode == TransportMode::Auto && state.info.is_none() {
            return Err(state.down().with("sent", false));
        }
        Ok(paths)
    }

    /// Takes a request to the node by the best path that works. While that one is in doubt, the next is tried beside it: calls
    /// can be sent twice.
    pub(super) async fn send(self: &Arc<Self>, request: Outbound) -> Outcome {
        let _counted = Counted::new(&self.outstanding);
        let paths = self.with_room(&request)?;
        let mut rest: VecDeque<Arc<Path>> = paths.iter().filter(|path| path.is_usable()).cloned().collect();
        if rest.len() < paths.len() {
            self.tend();
        }
        if rest.is_empty() {
            // All failed a moment ago: the caller still wants to be told how it is now.
            rest = paths.into();
        }
        let mut last: Option<RpcError> = None;
        let mut attempts = FuturesUnordered::new();
        let doubt = Arc::new(Notify::new());
        loop {
            if let Some(path) = rest.pop_front() {
                let is_last = rest.is_empty();
                attempts.push(Arc::clone(self).attempt(path, request.clone(), is_last, Arc::clone(&doubt)));
            }
            let outcome = tokio::select! {
                outcome = attempts.next() => outcome,
                () = doubt.notified(), if !rest.is_empty() => continue,
            };
            match outcome {
                None => return Err(last.unwrap_or_else(|| self.no_path())),
                Some(Attempt::Done(outcome)) => {
                    if !attempts.is_empty() {
                        // What is wrong with the others is still worth knowing.
                        tokio::spawn(async move { while attempts.next().await.is_some() {} });
                    }
                    return outcome;
                }
                // The first failure is of the preferred path, but the last one says the most.
                Some(Attempt::Failed(error)) => last = Some(error),
            }
            if Instant::now() >= request.deadline {
                rest.clear();
            }
        }
    }

    /// Takes a request to the node by one path.
    async fn attempt(
        self: Arc<Self>,
        path: Arc<Path>,
        request: Outbound,
        is_last: bool,
        doubt: Arc<Notify>,
    ) -> Attempt {
        if path.needs_probe()
            && let Err(e) = self.try_out(&path, if is_last { None } else { Some(TRY) }).await
        {
            return Attempt::Failed(e);
        }
        let begin = Instant::now();
        match path.send(request.clone(), &doubt).await {
            Ok(reply) => {
                if path.set_up((path.kind != PathKind::Messages && !request.long_poll).then(|| begin.elapsed())) {
                    self.back.notify_waiters();
                }
                self.learn(&request, reply.as_ref());
                Attempt::Done(Ok(reply))
            }
            Err(e) if path::is_path_failure(e.kind) => {
                tracing::debug!(path = %path.kind, ip = %self.target.ip, "{e}");
                path.set_down(&e);
                self.tend();
                Attempt::Failed(e)
            }
            Err(e) => Attempt::Done(Err(e)),
        }
    }

    /// Tries a path before a call goes there. If it takes longer than `wait` it goes on in the
    /// background.
    async fn try_out(self: &Arc<Self>, path: &Arc<Path>, wait: Option<Duration>) -> Result<(), RpcError> {
        let route = Arc::clone(self);
        let tried = Arc::clone(path);
        let task = tokio::spawn(async move { route.probe(&tried).await });
        let outcome = match wait {
            Some(wait) => tokio::time::timeout(wait, task).await,
            None => Ok(task.await),
        };
        match outcome {
            Ok(Ok(outcome)) => {
                if outcome.is_err() {
                    self.tend();
                }
                outcome
            }
            Ok(Err(_)) => Err(RpcError::internal("trying a path panicked")),
            Err(_) => Err(RpcError::new(ErrorKind::PeerUnreachable, "the node did not answer at once over HTTP")),
        }
    }

    async fn probe(&self, path: &Path) -> Result<(), RpcError> {
        // To connect over the overlay has the daemon look for the way, too.
        if path.kind == PathKind::Overlay
            && self.shared.watcher.state().info.is_none_or(|info| info.node_ip != self.target.ip)
            && let Err(error) = self.shared.watcher.until_linked(self.target.ip, LINKED).await
        {
            path.set_down(&error);
            return Err(error);
        }
        let node = path.probe(&self.target.topic, self.target.pin).await?;
        if let Some(node) = node {
            self.shared.remember(&node.envelope);
        }
        Ok(())
    }

    /// What a node says of itself is remembered: its addresses make further paths.
    fn learn(&self, request: &Outbound, reply: Option<&bytes::Bytes>) {
        #[derive(serde::Deserialize)]
        struct Response {
            result: crate::NodeInfo,
        }
        let name = b"\"get_node_info\"";
        let asked = request.body.len() < 256 && request.body.windows(name.len()).any(|window| window == name);
        let Some(reply) = reply.filter(|_| asked) else { return };
        if let Ok(Response { result }) = serde_json::from_slice(reply) {
            self.shared.remember(&result.envelope);
        }
    }

    fn no_path(&self) -> RpcError {
        let Target { ip, topic, .. } = &self.target;
        RpcError::new(
            ErrorKind::PeerUnreachable,
            format!(
                "no path to mycelium://[{ip}]/{topic} with --transport {}: for HTTP this host needs a TUN (start the \
                 mycelium daemon without --no-tun) or the node must announce an https address",
                self.shared.options.mode
            ),
        )
    }

    /// Has the paths that failed tried again until all work or nobody calls the node any more.
    fn tend(self: &Arc<Self>) {
        if self.is_tended.swap(true, Ordering::AcqRel) {
            self.failed.notify_one();
            return;
        }
        let route = Arc::clone(self);
        let stop = self.shared.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = route.tend_until_well() => {}
            }
            route.is_tended.store(false, Ordering::Release);
        });
    }

    async fn tend_until_well(&self) {
        let mut tries = FuturesUnordered::new();
        let mut tried: Vec<Arc<Path>> = Vec::new();
        loop {
            let (paths, used) = {
                let paths = self.lock();
                (paths.all.clone(), paths.used)
            };
            if used.elapsed() > IN_USE {
                return;
            }
            // A path behind one that works is not needed.
            let best = paths.iter().position(|path| path.health().is_up == Some(true)).unwrap_or(paths.len());
            let failed: Vec<_> = paths[..best].iter().filter(|path| path.health().is_up == Some(false)).collect();
            if failed.is_empty() {
                return;
            }
            for path in failed {
                if !tried.iter().any(|other| Arc::ptr_eq(other, path)) {
                    tried.push(Arc::clone(path));
                    tries.push(self.try_again(Arc::clone(path)));
                }
            }
            tokio::select! {
                Some(path) = tries.next() => tried.retain(|other| !Arc::ptr_eq(other, &path)),
                () = self.failed.notified() => {}
            }
        }
    }

    /// Tries a path that failed, when it is time.
    async fn try_again(&self, path: Arc<Path>) -> Arc<Path> {
        if let Some(at) = path.health().retry_at {
            tokio::time::sleep_until(at).await;
            // It may have been called meanwhile, with or without success.
            if path.health().retry_at.is_some_and(|at| at <= Instant::now()) && self.probe(&path).await.is_ok() {
                self.back.notify_waiters();
            }
        }
        path
    }
}

/// The overlay address in the URL, if it has one.
fn overlay_ip(url: &Url) -> Option<Ipv6Addr> {
    let host = url.host_str()?.trim_start_matches('[').trim_end_matches(']');
    host.parse().ok().filter(|ip| crate::address::is_overlay(*ip))
}

#[cfg(test)]
#[path = "route_tests.rs"]
mod tests;
