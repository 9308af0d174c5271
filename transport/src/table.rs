//! The methods that a role serves.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::RpcError;
use crate::method::{Access, Caller, Method};
use crate::openrpc::{self, DISCOVER, Describe, ServiceInfo};
use crate::params;

/// A call on its way: ends in the JSON text of the result.
pub(crate) type Running = Pin<Box<dyn Future<Output = Result<Vec<u8>, RpcError>> + Send>>;

/// Reads the parameters, which may be borrowed from the request, and starts the call, which is not.
type Handler<S> = Box<dyn Fn(&Arc<S>, Caller, Option<&RawValue>) -> Result<Running, RpcError> + Send + Sync>;

/// The methods that a role serves, with what handles them. `S` is the role's state.
///
/// The same table is served on HTTP and over Mycelium messages: a [`Dispatcher`](crate::Dispatcher)
/// is made from it once. `rpc.discover` is served without being registered.
pub struct MethodTable<S> {
    info: ServiceInfo,
    methods: BTreeMap<&'static str, Registered<S>>,
}

struct Registered<S> {
    access: Access,
    long_poll: bool,
    describe: Describe,
    handler: Handler<S>,
}

impl<S: Send + Sync + 'static> MethodTable<S> {
    /// A table without methods.
    #[must_use]
    pub fn new(info: ServiceInfo) -> Self {
        Self { info, methods: BTreeMap::new() }
    }

    /// Adds a method. Its future is dropped, at whatever await it stands, when the caller goes away:
    /// what must be done to the end belongs into a task of its own.
    ///
    /// # Panics
    /// If a method of that name is in the table already: two rooms claim one name.
    #[must_use]
    pub fn method<M, H, F>(mut self, handler: H) -> Self
    where
        M: Method,
        H: Fn(Arc<S>, Caller, M::Params) -> F + Send + Sync + 'static,
        F: Future<Output = Result<M::Result, RpcError>> + Send + 'static,
    {
        let registered = Registered {
            access: M::ACCESS,
            long_poll: M::LONG_POLL,
            describe: openrpc::describe::<M>,
            handler: Box::new(move |state, caller, params| {
                let params = params::parse::<M::Params>(M::NAME, params)?;
                let call = handler(Arc::clone(state), caller, params);
                Ok(Box::pin(async move { to_json(M::NAME, &call.await?) }))
            }),
        };
        let taken = M::NAME == DISCOVER || self.methods.insert(M::NAME, registered).is_some();
        assert!(!taken, "the method {} is registered twice", M::NAME);
        self
    }

    /// The OpenRPC 1.4.1 document, as `rpc.discover` returns it. Deterministic: it is committed under
    /// docs/ and compared.
    #[must_use]
    pub fn openrpc(&self) -> Value {
        openrpc::document(&self.info, self.methods.values().map(|method| method.describe))
    }

    /// The names of the methods and who may call them, sorted by name.
    pub fn access(&self) -> impl Iterator<Item = (&'static str, Access)> {
        self.methods.iter().map(|(name, method)| (*name, method.access))
    }

    /// Ties the table to the state that its handlers work on.
    pub(crate) fn bind(self, state: &Arc<S>) -> Methods {
        let discover = bytes::Bytes::from(self.openrpc().to_string());
        let document = discover.clone();
        let bound = self.methods.into_iter().map(|(name, method)| {
            let Registered { access, long_poll, handler, .. } = method;
            let state = Arc::clone(state);
            let start: Start = Box::new(move |caller, params| handler(&state, caller, params));
            (name, Bound { access, long_poll, start })
        });
        let mut methods: BTreeMap<&'static str, Bound> = bound.collect();
        let start: Start = Box::new(move |_, _| {
            let discover = discover.clone();
            Ok(Box::pin(async move { Ok(discover.to_vec()) }))
        });
        methods.insert(DISCOVER, Bound { access: Access::Open, long_poll: false, start });
        Methods { methods, document }
    }
}

fn to_json<T: serde::Serialize>(name: &str, result: &T) -> Result<Vec<u8>, RpcError> {
    serde_json::to_vec(result).map_err(|e| RpcError::internal(format!("the result of {name} cannot be written: {e}")))
}

type Start = Box<dyn Fn(Caller, Option<&RawValue>) -> Result<Running, RpcError> + Send + Sync>;

/// A table that is tied to its state.
pub(crate) struct Methods {
    methods: BTreeMap<&'static str, Bound>,
    document: bytes::Bytes,
}

/// One method of it.
pub(crate) struct Bound {
    pub(crate) access: Access,
    pub(crate) long_poll: bool,
    pub(crate) start: Start,
}

impl Methods {
    /// The OpenRPC document as text.
    pub(crate) fn document(&self) -> bytes::Bytes {
        self.document.clone()
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Bound> {
        self.methods.get(name)
    }
}
