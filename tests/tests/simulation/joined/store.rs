//! What coordinators ask of their Redis, which the network loses, repeats and delays.

use horus_node::workflow::State;
use redis::Value;

use super::{
    flow::happen,
    world::{Me, World},
};
use crate::server::{list, text};

/// A call of a script of the store, or a command, as it travels to Redis.
#[derive(Debug, Clone)]
pub(crate) struct StoreCall {
    pub(crate) what: &'static str,
    pub(crate) keys: Vec<String>,
    pub(crate) args: Vec<String>,
}

impl StoreCall {
    pub(crate) fn new<const N: usize>(what: &'static str, keys: Vec<String>, args: [&str; N]) -> Self {
        Self { what, keys, args: args.map(str::to_owned).into() }
    }
}

pub(crate) const ACTIVE: &str = "horus:workflows:active";
pub(crate) const REQUESTS: &str = "horus:workflows:requests";
pub(crate) const COORDINATORS: &str = "horus:coordinators";

impl World<'_> {
    /// Sends a call. `None`: its caller hears nothing, and cannot know whether it was executed, or will be.
    pub(crate) fn store(&mut self, me: &Me, call: StoreCall) -> Option<Value> {
        let shared = &mut self.shared;
        let fate = if shared.calm {
            9
        } else if shared.at.mono < me.cut_until {
            usize::from(shared.chance.one_in(6))
        } else if shared.chance.one_in(shared.faults.network) {
            shared.chance.below(5)
        } else {
            9
        };
        let who = &me.instance;
        match fate {
            0 => {
                shared.tell(|| format!("{who}: {call:?} never arrives"));
                None
            }
            1 => {
                shared.tell(|| format!("{who}: {call:?} is delayed, and given up"));
                self.late.push(call);
                None
            }
            2 => {
                self.execute(who, "(reply lost) ", &call);
                None
            }
            3 => {
                self.execute(who, "(sent twice) ", &call);
                Some(self.execute(who, "", &call))
            }
            _ => Some(self.execute(who, "", &call)),
        }
    }

    pub(crate) fn execute(&mut self, who: &str, what: &str, call: &StoreCall) -> Value {
        let reply = match self.shared.server.store(call.what, &call.keys, &call.args) {
            Ok(reply) => reply,
            Err(why) => {
                self.shared.breaks(why);
                return Value::Nil;
            }
        };
        let mono = self.shared.at.mono;
        // Redis keeps sets and hashes in an order that differs from server to server.
        let shown = if list(&reply).is_empty() { text(&reply) } else { "...".to_owned() };
        self.shared.tell(|| format!("{mono} {who}: {call:?} {what}-> {shown}"));
        for flow in &mut self.flows {
            let of_it = call.keys.first().is_none_or(|key| !key.contains('{') || *key == flow.key("meta"));
            if of_it && let Err(why) = flow.note(call, &reply, self.rule, &self.sites, &self.peers) {
                self.shared.breaks(format!("workflow {}: {why}", flow.name));
            }
        }
        reply
    }

    /// A workflow as it is stored: where its journal leads. `None`: nothing is heard.
    pub(crate) fn load(&mut self, me: &Me, n: usize) -> Option<State> {
        let shared = &mut self.shared;
        let cut = shared.at.mono < me.cut_until || shared.chance.one_in(shared.faults.network);
        if cut && !shared.calm {
            return None;
        }
        let flow = &self.flows[n];
        let keys = ["meta", "snapshot", "journal"].map(|part| flow.key(part));
        let (meta, snapshot, records) = shared.server.stored([&keys[0], &keys[1], &keys[2]]);
        let restored = || {
            let mut state = match snapshot {
                Some(text) => {
                    let snapshot = serde_json::from_str(&text).map_err(|e| e.to_string())?;
                    State::restore(&flow.plan, snapshot).map_err(|e| e.to_string())?
                }
                None => State::new(&flow.plan),
            };
            for record in &records {
                let record = serde_json::from_str(record).map_err(|e| format!("{record}: {e}"))?;
                if !happen(self.rule, &flow.plan, &mut state, &record, &mut Vec::new()) {
                    return Err(format!("its journal holds a record that changes nothing: {record:?}"));
                }
            }
            if meta.get("sequence") != Some(&state.sequence.to_string()) || state != flow.truth {
                return Err("its journal does not lead to where it was".to_owned());
            }
            Ok(state)
        };
        match restored() {
            Ok(state) => Some(state),
            Err(why) => {
                shared.breaks(format!("workflow {}: {why}", flow.name));
                None
            }
        }
    }
}
