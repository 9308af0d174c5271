//! Replies that came too late: the daemon keeps them for ever, under the empty topic.
//!
//! Messages that others sent without a topic lie there too, and may be meant for another program of this host, so they are looked at and
//! left alone. But the daemon shows the oldest only, and whatever stands before our replies hides them: once many of those may lie
//! behind a message that nobody has taken for a while, all are thrown away. Who reads such messages takes the oldest first.

use std::time::Duration;

use tokio::time::Instant;

use super::daemon::{Daemon, DaemonError};
use super::frame;

/// Messages that are taken in a row.
const MAX_DRAIN: usize = 10_000;
/// How long a message of another program is left alone at least.
const PATIENCE: Duration = Duration::from_secs(60);
/// So many replies of ours may lie behind it.
const MAX_HIDDEN: u64 = 100;

/// Takes late replies out of the daemon's inbox.
pub(super) struct LateReplies {
    hidden: Option<Hidden>,
    patience: Duration,
}

/// What stands before them.
struct Hidden {
    /// The id of the oldest message.
    by: String,
    since: Instant,
    /// How many messages had no reply then.
    unanswered: u64,
}

impl LateReplies {
    pub(super) fn new() -> Self {
        Self { hidden: None, patience: PATIENCE }
    }

    /// Takes those that it can get at. `unanswered`: how many messages have had no reply so far.
    pub(super) async fn take(&mut self, daemon: &Daemon, unanswered: u64) -> Result<(), DaemonError> {
        let mut thrown_away = 0;
        for _ in 0..MAX_DRAIN {
            let Some(oldest) = daemon.pop("", true).await? else {
                self.hidden = None;
                break;
            };
            if !frame::is_frame(&oldest.payload) {
                if thrown_away == 0 && !self.is_abandoned(&oldest.id, unanswered) {
                    return Ok(());
                }
                thrown_away += 1;
            }
            daemon.pop("", false).await?;
        }
        if thrown_away > 0 {
            tracing::warn!(
                "{thrown_away} messages without a topic were thrown away: nobody took the oldest for {:?} or more, and late replies to \
                 this role lay behind it; programs that wait for messages should give them a topic",
                self.patience
            );
        }
        Ok(())
    }

    /// Whether nobody will take that message, and too much may lie behind it.
    fn is_abandoned(&mut self, id: &str, unanswered: u64) -> bool {
        let hidden = self.hidden.take().filter(|hidden| hidden.by == id);
        let hidden = hidden.unwrap_or_else(|| Hidden { by: id.to_owned(), since: Instant::now(), unanswered });
        let behind = unanswered.saturating_sub(hidden.unanswered);
        let is_abandoned = hidden.since.elapsed() >= self.patience && behind >= MAX_HIDDEN;
        self.hidden = Some(hidden);
        is_abandoned
    }
}

#[cfg(test)]
mod tests {
    use super::super::frame::ReplyHead;
    use super::*;
    use crate::simulator::{Faults, MeshSimulator};

    #[tokio::test]
    async fn a_message_of_somebody_else_hides_late_replies_for_a_while_only() {
        let mesh = MeshSimulator::start(2, Faults::default()).await.unwrap();
        let [ours, theirs] = mesh.nodes() else { panic!("two were asked for") };
        let daemon = Daemon::new(ours.rpc_url().parse().unwrap());
        let sender = Daemon::new(theirs.rpc_url().parse().unwrap());
        let reply = frame::encode(&ReplyHead { boot: "1-1".into(), took_ms: 0, entries: Vec::new() }, &[]);
        let arrives = async |payload: &[u8]| {
            let before = ours.inbox_len();
            let _ = sender.push(ours.overlay_address(), "", payload, Duration::ZERO).await.unwrap();
            for _ in 0..1000 {
                if ours.inbox_len() > before {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("it did not arrive");
        };
        let mut late = LateReplies { patience: Duration::from_millis(300), ..LateReplies::new() };
        arrives(&reply).await;
        late.take(&daemon, 1).await.unwrap();
        assert_eq!(ours.inbox_len(), 0);
        arrives(b"hello").await;
        arrives(&reply).await;
        arrives(b"hello again").await;
        for unanswered in [1, 101] {
            late.take(&daemon, unanswered).await.unwrap();
            assert_eq!(ours.inbox_len(), 3, "it has just come");
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
        late.take(&daemon, 100).await.unwrap();
        assert_eq!(ours.inbox_len(), 3, "few replies can lie behind it");
        late.take(&daemon, 101).await.unwrap();
        assert_eq!(ours.inbox_len(), 0);
        // What another program does take is left to it, however long that goes on.
        for n in 0..3 {
            arrives(b"for another program").await;
            arrives(b"for another program").await;
            late.take(&daemon, 1000 * n).await.unwrap();
            tokio::time::sleep(Duration::from_millis(310)).await;
            daemon.pop("", false).await.unwrap().unwrap();
            late.take(&daemon, 1000 * n + 999).await.unwrap();
            assert_eq!(ours.inbox_len(), 1);
            daemon.pop("", false).await.unwrap().unwrap();
        }
    }
}
