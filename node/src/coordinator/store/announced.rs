//! The supervisors that announced themselves.

use horus_keys::PeerId;
use redis::AsyncCommands;

use super::{Store, StoreError};
use crate::coordinator::nodes::Announced;

const KEY: &str = "horus:supervisors";
/// Announcements that are read at most: more cannot be in use.
const MAX: usize = 4096;

impl Store {
    /// Keeps a supervisor's announcement in the place of its earlier one.
    pub(crate) async fn keep_announcement(&self, peer: &PeerId, announced: &Announced) -> Result<(), StoreError> {
        let text = serde_json::to_string(announced).expect("envelopes are JSON");
        let () = self.link.clone().hset(KEY, peer.to_string(), text).await?;
        Ok(())
    }

    /// All that are kept, expired or not. What cannot be read is left out.
    pub(crate) async fn announcements(&self) -> Result<Vec<(PeerId, Announced)>, StoreError> {
        let all: Vec<(String, String)> = self.link.clone().hgetall(KEY).await?;
        let read = |(peer, text): (String, String)| Some((peer.parse().ok()?, serde_json::from_str(&text).ok()?));
        Ok(all.into_iter().take(MAX).filter_map(read).collect())
    }

    /// Forgets one that is of no use any more.
    pub(crate) async fn forget_announcement(&self, peer: &PeerId) -> Result<(), StoreError> {
        let () = self.link.clone().hdel(KEY, peer.to_string()).await?;
        Ok(())
    }
}
