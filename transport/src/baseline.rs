//! A bare jsonrpsee server, to measure the speed of ours against in the same run.

use std::net::SocketAddr;
use std::sync::Arc;

use jsonrpsee::RpcModule;
use jsonrpsee::server::{Server, ServerConfig, ServerHandle};
use jsonrpsee::types::ErrorObjectOwned;
use serde_json::value::RawValue;

use crate::error::RpcError;

/// A jsonrpsee server that gives one method the same answer every time: it reads, routes and writes,
/// and neither authenticates nor limits anything but its connections (1024, as ours).
#[derive(Debug)]
pub struct Baseline {
    address: SocketAddr,
    handle: ServerHandle,
}

impl Baseline {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`](crate::ErrorKind::Internal) if it cannot listen, or if jsonrpsee
    /// refuses the method's name.
    pub async fn start(method: &'static str, answer: Box<RawValue>) -> Result<Self, RpcError> {
        let config = ServerConfig::builder().max_connections(1024).build();
        let server = Server::builder().set_config(config).build("127.0.0.1:0").await.map_err(RpcError::internal)?;
        let address = server.local_addr().map_err(RpcError::internal)?;
        let mut module = RpcModule::new(answer);
        module
            .register_async_method(method, async |_, answer: Arc<Box<RawValue>>, _| {
                Ok::<Box<RawValue>, ErrorObjectOwned>((*answer).clone())
            })
            .map_err(RpcError::internal)?;
        Ok(Self { address, handle: server.start(module) })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it.
    pub async fn stop(self) {
        // The only error is that it has stopped already.
        let _ = self.handle.stop();
        self.handle.stopped().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ClientOptions, NoParams, RpcClient};

    #[tokio::test]
    async fn it_gives_the_answer() {
        let answer = RawValue::from_string("{\"a\": 1.10}".into()).unwrap();
        let baseline = Baseline::start("ask", answer).await.unwrap();
        let address = format!("http://{}", baseline.address()).parse().unwrap();
        let client = RpcClient::connect(address, ClientOptions::default()).unwrap();
        assert_eq!(client.call_raw("ask", &NoParams {}).await.unwrap().get(), "{\"a\": 1.10}");
        baseline.stop().await;
    }
}
