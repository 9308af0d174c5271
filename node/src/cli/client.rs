//! What the client commands share: keys, trust, a connection, a runtime, and small parsers.

use std::{collections::BTreeMap, future::Future, io::IsTerminal as _, path::PathBuf, sync::Arc, time::Duration};

use horus_keys::{Envelope, KeyDir, Role, RunnerKind, Trust, TrustPolicy};
use horus_runners::admission::{Refusal, RefusalKind, Verifier};
use horus_transport::{Address, AddressError, ClientOptions, Method, RpcClient, RpcError};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::value::RawValue;

use super::{
    args_client::{ClientArgs, CoordinatorTarget, SupervisorTarget},
    identity,
    output::Failure,
    way::Way,
};
use crate::role::topic_of;

/// How long a call may take that does not wait for anything.
pub(super) const CALL_TIMEOUT: Duration = Duration::from_secs(30);
/// One round of a long poll.
pub(super) const POLL: Duration = Duration::from_secs(30);

/// A caller with keys, and whom it calls.
pub(super) struct Session {
    /// The caller's keys.
    pub(super) keys: KeyDir,
    /// Presented with what is signed.
    pub(super) certificate: Option<Envelope>,
    /// The connection.
    pub(super) rpc: RpcClient,
    /// The way to nodes of the mesh.
    pub(super) way: Arc<Way>,
    /// `--json`.
    pub(super) json: bool,
    identity_dir: PathBuf,
    trust_file: Option<PathBuf>,
}

impl Session {
    /// Loads the caller's keys and prepares the connection; nothing is sent yet.
    pub(super) fn open(address: &str, args: &ClientArgs) -> Result<Self, Failure> {
        let identity_dir = identity::resolve_dir(args.identity.as_deref())?;
        let keys = identity::load(&identity_dir)?;
        let certificate = identity::certificate(args.cert.as_deref(), &keys)?;
        let (rpc, way) = connect(address, Some(&keys), certificate.as_ref(), args, CALL_TIMEOUT)?;
        Ok(Self { keys, certificate, rpc, way, json: args.json, identity_dir, trust_file: args.trust.clone() })
    }

    /// As [`Session::open`], for a coordinator.
    pub(super) fn coordinator(target: &CoordinatorTarget) -> Result<Self, Failure> {
        Self::open(&coordinator_address(&target.coordinator), &target.client)
    }

    /// As [`Session::open`], for a supervisor.
    pub(super) fn supervisor(target: &SupervisorTarget) -> Result<Self, Failure> {
        Self::open(&supervisor_address(&target.supervisor), &target.client)
    }

    /// The certificates that go into signed payloads.
    pub(super) fn certificates(&self) -> Vec<Envelope> {
        self.certificate.iter().cloned().collect()
    }

    /// Calls a method.
    pub(super) async fn call<M: Method>(&self, params: &M::Params) -> Result<M::Result, Failure> {
        self.rpc.call::<M>(params).await.map_err(|e| self.failure(&e))
    }

    /// An RPC error as a failure of this command.
    pub(super) fn failure(&self, error: &RpcError) -> Failure {
        Failure::rpc(error)
    }

    /// The verifier of receipts, with the caller's trust policy.
    pub(super) fn verifier(&self) -> Result<Verifier, Failure> {
        let trust: Trust = identity::trust(self.trust_file.as_deref(), &self.identity_dir)?;
        Ok(Verifier::new(trust))
    }

    /// Why a receipt does not count; for a signer who is not trusted, with the command that changes it.
    pub(super) fn explain(&self, refusal: &Refusal, envelope: &Envelope, kind: &RunnerKind) -> String {
        if !matches!(refusal.kind, RefusalKind::UntrustedSigner | RefusalKind::NotAllowed) {
            return refusal.message.clone();
        }
        let signer = envelope.keyids().next().map(|k| k.to_string()).unwrap_or_default();
        let policy = self.trust_file.clone().unwrap_or_else(|| self.identity_dir.join("trust.toml"));
        format!(
            "its receipt is signed by {signer}, which your trust policy does not hold as a runner for `{kind}`. If that is your \
             runner: horus keys trust add {signer} --role runner --runner {kind} --trust {}",
            policy.display()
        )
    }
}

/// A client for an address, with or without keys.
pub(super) fn connect(
    address: &str,
    keys: Option<&KeyDir>,
    certificate: Option<&Envelope>,
    args: &ClientArgs,
    timeout: Duration,
) -> Result<(RpcClient, Arc<Way>), Failure> {
    let address: Address = address.parse().map_err(|e: AddressError| Failure::usage(e.to_string()))?;
    let mut options = ClientOptions {
        identity: keys.map(|k| k.identity.clone()),
        certificate: certificate.cloned(),
        timeout,
        ca: args.tls_ca.clone(),
        allow_plain: args.way.allow_plain,
        ..ClientOptions::default()
    };
    // Whose announcements count when a topic is called. Without a policy nobody's do, but addresses work all the same.
    let trust = identity::resolve_dir(args.identity.as_deref())
        .and_then(|dir| identity::trust(args.trust.as_deref(), &dir))
        .unwrap_or_else(|_| Trust::new(TrustPolicy::default()));
    let way = Arc::new(Way::new(&args.way, &trust, &options).map_err(|e| Failure::usage(format!("{e:#}")))?);
    options.carriers = Some(Arc::clone(&way) as _);
    let rpc = RpcClient::connect(address, options).map_err(|e| Failure::rpc(&e))?;
    Ok((rpc, way))
}

/// The address of a coordinator: a host of the mesh without a topic means its coordinator.
pub(super) fn coordinator_address(text: &str) -> String {
    with_topic(text, Role::Coordinator)
}

/// The address of a supervisor: a host of the mesh without a topic means its supervisor.
pub(super) fn supervisor_address(text: &str) -> String {
    with_topic(text, Role::Supervisor)
}

/// What is no address stays as it is, and is refused where it is used.
fn with_topic(text: &str, role: Role) -> String {
    match text.parse::<Address>() {
        Ok(address) => address.with_default_topic(&topic_of(role, None)).to_string(),
        Err(_) => text.to_owned(),
    }
}

/// Runs a client command to its end.
pub(super) fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    runtime.block_on(work)
}

/// `key=value` words into a map.
pub(super) fn pairs(words: &[String], flag: &str) -> Result<BTreeMap<String, String>, Failure> {
    let mut map = BTreeMap::new();
    for word in words {
        let Some((key, value)) = word.split_once('=').filter(|(k, _)| !k.is_empty()) else {
            return Err(Failure::usage(format!("{flag} takes KEY=VALUE, `{word}` has no `=`")));
        };
        if map.insert(key.to_owned(), value.to_owned()).is_some() {
            return Err(Failure::usage(format!("{flag} names `{key}` twice")));
        }
    }
    Ok(map)
}

/// A value as JSON if it parses, else as a string.
pub(super) fn json_or_string(text: &str) -> Result<Box<RawValue>, Failure> {
    match RawValue::from_string(text.to_owned()) {
        Ok(raw) => Ok(raw),
        Err(_) => serde_json::value::to_raw_value(text).map_err(|e| Failure::failed(e.to_string())),
    }
}

/// A spinner on stderr, shown only on a terminal and without `--json`.
pub(super) fn spinner(json: bool, message: String) -> ProgressBar {
    if json || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::new_spinner();
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} {elapsed}") {
        bar.set_style(style);
    }
    bar.set_message(message);
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_refuse_what_has_no_equals_sign_and_what_comes_twice() {
        assert_eq!(pairs(&["a=b=c".into()], "--env").unwrap()["a"], "b=c");
        assert!(pairs(&["ab".into()], "--env").is_err());
        assert!(pairs(&["a=1".into(), "a=2".into()], "--env").is_err());
    }

    #[test]
    fn an_input_is_json_if_it_parses() {
        assert_eq!(json_or_string("12345678901234567890123").unwrap().get(), "12345678901234567890123");
        assert_eq!(json_or_string("plain").unwrap().get(), "\"plain\"");
    }
}
