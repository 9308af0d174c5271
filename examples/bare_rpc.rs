//! A bare jsonrpsee server that gives one method the answer on its standard input, to measure the RPC of Horus against:
//!
//!     horus call http://127.0.0.1:8080 get_node_info | cargo run --release -p horus-examples --example bare_rpc -- get_node_info
//!     horus bench rpc --against http://127.0.0.1:PORT
//!
//! For `horus bench rpc --signed` the method is `list_runners`. It prints its address, and serves until it is ended.

use std::io::Read as _;

use horus_transport::Baseline;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let method = std::env::args().nth(1).ok_or("usage: bare_rpc METHOD < ANSWER")?;
    let mut answer = String::new();
    std::io::stdin().read_to_string(&mut answer)?;
    // As a node writes it: without the line breaks of a terminal.
    let answer: serde_json::Value = serde_json::from_str(&answer)?;
    let answer = serde_json::value::to_raw_value(&answer)?;
    let baseline = Baseline::start(method.leak(), answer).await?;
    println!("http://{}", baseline.address());
    tokio::signal::ctrl_c().await?;
    baseline.stop().await;
    Ok(())
}
