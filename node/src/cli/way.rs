//! The way of a client command to `mycelium://` and `topic:` addresses: through the daemon of this machine, taken hold of when
//! it is first needed.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use horus_keys::{Role, Timestamp, Trust};
use horus_transport::{
    Address, Carrier, CarrierFactory, ClientOptions, Mesh, MeshOptions, Outbound, RpcClient, RpcError, TransportMode,
};
use tokio::sync::OnceCell;

use super::args::TransportArg;
use super::args_mesh::WayArgs;
use crate::api::{ListNodes, ListNodesParams};
use crate::role::{MeshConfig, topic_of};

/// How long one of the own roles may take to say whom it knows.
const ASK: Duration = Duration::from_secs(3);
/// Where the roles of this machine are unless the environment says otherwise.
const GUIDES: [(&str, &str, Role); 2] = [
    ("HORUS_COORDINATOR", "http://127.0.0.1:9090", Role::Coordinator),
    ("HORUS_SUPERVISOR", "http://127.0.0.1:8080", Role::Supervisor),
];

impl From<TransportArg> for TransportMode {
    fn from(arg: TransportArg) -> Self {
        match arg {
            TransportArg::Auto => Self::Auto,
            TransportArg::Messages => Self::Messages,
            TransportArg::Http => Self::Http,
        }
    }
}

/// Makes carriers that take hold of the daemon when the first call goes out.
pub(super) struct Way(Arc<Inner>);

struct Inner {
    options: MeshOptions,
    /// Signs what is asked on the way.
    client: ClientOptions,
    mesh: OnceCell<Mesh>,
}

impl Way {
    /// The way that the flags name.
    ///
    /// # Errors
    /// An address of the daemon that is no URL.
    pub(super) fn new(args: &WayArgs, trust: &Trust, client: &ClientOptions) -> Result<Self> {
        let mut config = MeshConfig::new(&std::env::temp_dir());
        config.daemon_url.clone_from(&args.mycelium_rpc);
        config.transport = args.transport.into();
        config.allow_plain = args.allow_plain;
        config.ca.clone_from(&client.ca);
        let options = config.options(trust)?;
        Ok(Self(Arc::new(Inner { options, client: client.clone(), mesh: OnceCell::new() })))
    }

    /// The hold on the daemon.
    pub(super) async fn mesh(&self) -> &Mesh {
        self.0.mesh().await
    }
}

impl CarrierFactory for Way {
    fn carrier(&self, address: &Address) -> Result<Arc<dyn Carrier>, RpcError> {
        Ok(Arc::new(Passage { way: Arc::clone(&self.0), address: address.clone(), carrier: OnceCell::new() }))
    }
}

impl Inner {
    async fn mesh(&self) -> &Mesh {
        self.mesh.get_or_init(|| Mesh::start(self.options.clone())).await
    }

    /// Asks the roles that this user works with which nodes serve the topic: a command has heard of none itself.
    async fn learn(&self, topic: &str) {
        let mesh = self.mesh().await;
        for (variable, default, role) in GUIDES {
            let address = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
            let Ok(address) = address.parse::<Address>() else { continue };
            let address = address.with_default_topic(&topic_of(role, None));
            if matches!(address, Address::Topic { .. }) {
                continue;
            }
            let options = ClientOptions { carriers: Some(Arc::new(mesh.clone())), timeout: ASK, ..self.client.clone() };
            let Ok(guide) = RpcClient::connect(address, options) else { continue };
            let params = ListNodesParams { topic: Some(topic.to_owned()) };
            let Ok(known) = guide.call::<ListNodes>(&params).await else { continue };
            for node in known.nodes {
                if let Some(certificate) = &node.certificate {
                    let _ = self.options.trust.present(certificate, Timestamp::now());
                }
                let _ = mesh.learn(&node.envelope);
            }
        }
    }
}

/// Takes requests to one address.
struct Passage {
    way: Arc<Inner>,
    address: Address,
    carrier: OnceCell<Arc<dyn Carrier>>,
}

impl Passage {
    async fn carrier(&self) -> Result<&Arc<dyn Carrier>, RpcError> {
        let make = || async {
            if let Address::Topic { topic } = &self.address {
                self.way.learn(topic).await;
            }
            self.way.mesh().await.carrier(&self.address)
        };
        self.carrier.get_or_try_init(make).await
    }
}

impl Carrier for Passage {
    fn send(&self, request: Outbound) -> BoxFuture<'_, Result<Option<bytes::Bytes>, RpcError>> {
        async move { self.carrier().await?.send(request).await }.boxed()
    }
}
