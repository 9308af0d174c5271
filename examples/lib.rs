//! Examples for Horus: run them with `cargo run -p horus-examples --example NAME`.
