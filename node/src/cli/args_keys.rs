//! `horus keys ...` as clap types.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use horus_keys::{PeerId, Role, RunnerPattern};

use super::parse_duration_within;

/// Where keys lie.
#[derive(Debug, Args, Clone)]
pub struct DirArgs {
    /// Directory of the keys [default: ~/.config/horus]
    #[arg(long, env = "HORUS_IDENTITY", value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// One JSON value on stdout, nothing else
    #[arg(long)]
    pub json: bool,
}

/// How new keys are written.
#[derive(Debug, Args, Clone)]
pub struct WriteArgs {
    /// Protect the identity by a passphrase: asked for, or taken from HORUS_PASSPHRASE
    #[arg(long)]
    pub passphrase: bool,
    /// Overwrite keys that are there: whoever trusts them trusts you no more
    #[arg(long)]
    pub force: bool,
}

/// `horus keys ...`
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Make a new identity with its mesh key and sealing key
    #[command(
        after_help = "Examples:\n  horus keys generate\n  horus keys generate --dir ./keys/alice --passphrase --json"
    )]
    Generate {
        /// Where.
        #[command(flatten)]
        dir: DirArgs,
        /// How.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Show the public side of an identity
    #[command(after_help = "Examples:\n  horus keys show\n  horus keys show --dir ./keys/alice --json")]
    Show(DirArgs),
    /// Make an identity from a seed or a PKCS#8 PEM file
    #[command(
        after_help = "Examples:\n  horus keys import --pem alice.pem --dir ./keys/alice\n  horus keys import --pem - --passphrase < alice.pem"
    )]
    Import {
        /// The Ed25519 seed, 64 hex digits; it is visible in the process list, `--pem` is not
        #[arg(long, value_name = "HEX", conflicts_with = "pem", required_unless_present = "pem")]
        seed_hex: Option<String>,
        /// A PKCS#8 PEM file; `-` reads standard input
        #[arg(long, value_name = "FILE")]
        pem: Option<PathBuf>,
        /// Where.
        #[command(flatten)]
        dir: DirArgs,
        /// How.
        #[command(flatten)]
        write: WriteArgs,
    },
    /// Print a secret key, to keep it elsewhere
    #[command(
        after_help = "Examples:\n  horus keys export --passphrase > alice.pem\n  horus keys export --format mesh-hex"
    )]
    Export {
        /// As what
        #[arg(long, value_enum, default_value_t = ExportFormat::Pem)]
        format: ExportFormat,
        /// Protect the printed PEM by a passphrase: asked for, or taken from HORUS_PASSPHRASE
        #[arg(long)]
        passphrase: bool,
        /// Where.
        #[command(flatten)]
        dir: DirArgs,
    },
    /// Sign a file: print the envelope
    #[command(after_help = "Example:\n  horus keys sign --type jobs batch.json > envelope.json")]
    Sign {
        /// What it is
        #[arg(long = "type", value_enum, value_name = "T")]
        payload_type: PayloadTypeArg,
        /// The payload; `-` reads standard input
        file: PathBuf,
        /// Where.
        #[command(flatten)]
        dir: DirArgs,
    },
    /// Verify an envelope and print its signers; exit 1 if it does not hold
    #[command(
        after_help = "Examples:\n  horus keys verify envelope.json\n  horus keys verify --trust trust.toml envelope.json --json"
    )]
    Verify {
        /// Also demand that every signer is in this trust policy
        #[arg(long, env = "HORUS_TRUST", value_name = "FILE")]
        trust: Option<PathBuf>,
        /// The envelope (JSON); `-` reads standard input
        envelope: PathBuf,
        /// One JSON value on stdout, nothing else
        #[arg(long)]
        json: bool,
    },
    /// Tie a mycelium daemon's own key to this identity
    #[command(after_help = "Example:\n  horus keys bind /var/lib/mycelium/priv_key.bin")]
    Bind {
        /// The daemon's key file (32 bytes)
        key_file: PathBuf,
        /// Where.
        #[command(flatten)]
        dir: DirArgs,
    },
    /// Certify another key, as an owner: print the certificate
    #[command(
        after_help = "Example:\n  horus keys certify 12D3KooW... --role submitter --runner sal --runner hero --ttl 90d > cert.json"
    )]
    Certify {
        /// Whom
        peer_id: PeerId,
        /// As what; several may be given
        #[arg(long, required = true, value_delimiter = ',')]
        role: Vec<Role>,
        /// For which runner kinds, or `*`; several may be given
        #[arg(long, value_delimiter = ',')]
        runner: Vec<RunnerPattern>,
        /// A name to be shown
        #[arg(long)]
        name: Option<String>,
        /// For how long
        #[arg(long, default_value = "90d", value_name = "DURATION", value_parser = parse_duration_within(None))]
        ttl: Duration,
        /// Where.
        #[command(flatten)]
        dir: DirArgs,
    },
    /// Show and change a trust policy
    #[command(
        subcommand,
        after_help = "Examples:\n  horus keys trust list\n  horus keys trust add 12D3KooW... --role submitter --runner '*'"
    )]
    Trust(TrustCommand),
}

/// Which trust policy.
#[derive(Debug, Args, Clone)]
pub struct TrustFileArgs {
    /// The trust policy [default: trust.toml in ~/.config/horus]
    #[arg(long, env = "HORUS_TRUST", value_name = "FILE")]
    pub trust: Option<PathBuf>,
    /// One JSON value on stdout, nothing else
    #[arg(long)]
    pub json: bool,
}

/// `horus keys trust ...`
#[derive(Debug, Subcommand)]
pub enum TrustCommand {
    /// List the trusted keys, and what is revoked
    #[command(after_help = "Examples:\n  horus keys trust list\n  horus keys trust list --trust trust.toml --json")]
    List(TrustFileArgs),
    /// Trust a key; one that is there gets the new roles in place of the old ones
    #[command(
        after_help = "Example:\n  horus keys trust add 12D3KooW... --role submitter --runner sal --runner hero --name alice"
    )]
    Add {
        /// Whom
        peer_id: PeerId,
        /// As what; several may be given
        #[arg(long, required = true, value_delimiter = ',')]
        role: Vec<Role>,
        /// For which runner kinds, or `*`; several may be given
        #[arg(long, value_delimiter = ',')]
        runner: Vec<RunnerPattern>,
        /// A name to be shown
        #[arg(long)]
        name: Option<String>,
        /// Which policy.
        #[command(flatten)]
        file: TrustFileArgs,
    },
    /// Take a key out of the policy; a certificate by an owner of the policy can still grant it something
    #[command(after_help = "Example:\n  horus keys trust remove 12D3KooW...")]
    Remove {
        /// Whom
        peer_id: PeerId,
        /// Which policy.
        #[command(flatten)]
        file: TrustFileArgs,
    },
    /// Revoke a key: whatever its entry or a certificate says, it may do nothing, and what it certified is void
    #[command(after_help = "Example:\n  horus keys trust revoke 12D3KooW...")]
    Revoke {
        /// Whom
        peer_id: PeerId,
        /// Which policy.
        #[command(flatten)]
        file: TrustFileArgs,
    },
}

/// What `export` prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ExportFormat {
    /// PKCS#8 PEM.
    Pem,
    /// The Ed25519 seed in hex.
    SeedHex,
    /// The mesh key in hex, for `mycelium -k` as 32 raw bytes.
    MeshHex,
}

/// What `sign` signs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum PayloadTypeArg {
    /// A batch of jobs.
    #[value(aliases = ["jobs+json", "application/vnd.horus.jobs+json"])]
    Jobs,
    /// A workflow.
    #[value(aliases = ["workflow+json", "application/vnd.horus.workflow+json"])]
    Workflow,
    /// Receipts.
    #[value(aliases = ["receipts+json", "application/vnd.horus.receipts+json"])]
    Receipts,
    /// A node announcement.
    #[value(aliases = ["node+json", "application/vnd.horus.node+json"])]
    Node,
    /// A certificate.
    #[value(aliases = ["member+json", "application/vnd.horus.member+json"])]
    Member,
    /// A cancellation.
    #[value(aliases = ["cancel+json", "application/vnd.horus.cancel+json"])]
    Cancel,
}
