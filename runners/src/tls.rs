//! One TLS provider for the whole process.

/// Chooses aws-lc-rs for every library that leaves the choice to the process, as redis and kube do: the build has two providers of rustls, since kube
/// brings ring, and without a choice they panic at their first TLS connection.
pub(crate) fn choose_provider() {
    // An error means that it was chosen before.
    let _ = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
}
