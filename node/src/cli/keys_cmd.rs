//! `horus keys ...`

use std::{path::Path, process::ExitCode};

use anyhow::{Context as _, Result, bail};
use horus_keys::{
    Binding, Certificate, Envelope, Identity, KeyDir, KeySummary, PayloadType, PeerId, Revocation, Role, RunnerPattern,
    Timestamp, Trust, TrustPolicy, TrustedKey, is_encrypted_pem,
};
use serde_json::json;
use zeroize::Zeroizing;

use super::{
    args_keys::{DirArgs, ExportFormat, KeysCommand, PayloadTypeArg, TrustCommand, TrustFileArgs, WriteArgs},
    identity::{self, read_bounded, read_text, resolve_dir},
    output::{Failure, print_json, print_line, printable, reasons, table},
};

/// Longest payload that is signed or verified: the largest envelope there is.
const MAX_INPUT: u64 = 32 * 1024 * 1024;

pub(super) fn run(command: KeysCommand) -> Result<ExitCode, Failure> {
    match command {
        KeysCommand::Generate { dir, write } => write_keys(&dir, &write, || Ok(Identity::generate())),
        KeysCommand::Show(dir) => {
            let path = resolve_dir(dir.dir.as_deref())?;
            if !KeyDir::exists(&path) {
                // The message tells how to make one.
                identity::load_uncertified(&path)?;
            }
            // The public side needs no passphrase.
            let summary = KeyDir::summary_of(&path).map_err(anyhow::Error::from)?;
            show(&summary, &path, dir.json)
        }
        KeysCommand::Import { seed_hex, pem, dir, write } => {
            // Not by clap, which would print what was typed: nearly a secret.
            let seed = seed_hex.as_deref().map(parse_seed).transpose().map_err(Failure::usage)?;
            write_keys(&dir, &write, || import(seed.as_deref(), pem.as_deref()))
        }
        KeysCommand::Export { format, passphrase, dir } => export(format, passphrase, &dir),
        KeysCommand::Sign { payload_type, file, dir } => sign(payload_type, &file, &dir),
        KeysCommand::Verify { trust, envelope, json } => verify(trust.as_deref(), &envelope, json),
        KeysCommand::Bind { key_file, dir } => bind(&key_file, &dir),
        KeysCommand::Certify { peer_id, role, runner, name, ttl, dir } => {
            let keys = identity::load_uncertified(&resolve_dir(dir.dir.as_deref())?)?;
            warn_without_runner(&role, &runner);
            let certificate =
                Certificate { peer_id, name, roles: role, runners: runner, expires_at: Timestamp::now() + ttl };
            print_envelope(&certificate.sign(&keys.identity).map_err(anyhow::Error::from)?)
        }
        KeysCommand::Trust(command) => trust(command),
    }
}

fn write_keys(dir: &DirArgs, write: &WriteArgs, make: impl FnOnce() -> Result<Identity>) -> Result<ExitCode, Failure> {
    let path = resolve_dir(dir.dir.as_deref())?;
    if KeyDir::exists(&path) && !write.force {
        return Err(Failure::failed(format!(
            "there is an identity in {} already; --force overwrites it, and then nobody who trusts it trusts you",
            path.display()
        )));
    }
    let identity = make()?;
    let passphrase = if write.passphrase { Some(identity::new_passphrase()?) } else { None };
    let keys = KeyDir::create(&path, identity, passphrase.as_ref().map(|p| p.as_str()), write.force)
        .with_context(|| format!("cannot write keys into {}", path.display()))?;
    show(&keys.summary(), &path, dir.json)
}

fn show(summary: &KeySummary, path: &Path, json: bool) -> Result<ExitCode, Failure> {
    if json {
        print_json(summary)?;
    } else {
        print_line(&format!(
            "peer id             {}\npublic key          {}\nmesh public key     {}\nsealing public key  {}\noverlay address     {}\nkept in             {}",
            summary.peer_id,
            summary.public_key,
            summary.mesh_public_key,
            summary.sealing_public_key,
            summary.overlay_ip,
            path.display()
        ))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn import(seed: Option<&[u8; 32]>, pem: Option<&Path>) -> Result<Identity> {
    if let Some(seed) = seed {
        return Ok(Identity::from_seed(seed));
    }
    let path = pem.context("give --seed-hex or --pem")?;
    let text = Zeroizing::new(read_text(path, 64 * 1024)?);
    let passphrase = if is_encrypted_pem(&text) { Some(identity::ask_passphrase("Passphrase: ")?) } else { None };
    Identity::from_pkcs8_pem(&text, passphrase.as_ref().map(|p| p.as_str()))
        .with_context(|| format!("cannot read an Ed25519 key from {}", path.display()))
}

fn parse_seed(text: &str) -> Result<Zeroizing<[u8; 32]>, String> {
    let text = text.trim();
    let mut seed = Zeroizing::new([0_u8; 32]);
    let digits = text.chars().filter(char::is_ascii_hexdigit).count();
    if text.len() != 64 || digits != 64 {
        let length = text.chars().count();
        return Err(format!("--seed-hex: a seed is 64 hex digits, this has {digits} among {length} characters"));
    }
    for (i, byte) in seed.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&text[2 * i..2 * i + 2], 16).map_err(|e| format!("--seed-hex: {e}"))?;
    }
    Ok(seed)
}

fn export(format: ExportFormat, passphrase: bool, dir: &DirArgs) -> Result<ExitCode, Failure> {
    let keys = identity::load_uncertified(&resolve_dir(dir.dir.as_deref())?)?;
    let passphrase = if passphrase { Some(identity::new_passphrase()?) } else { None };
    if passphrase.is_some() && format != ExportFormat::Pem {
        return Err(Failure::usage("--passphrase goes with --format pem only"));
    }
    let text = match format {
        ExportFormat::Pem => keys
            .identity
            .to_pkcs8_pem(passphrase.as_ref().map(|p| p.as_str()))
            .map_err(|e| Failure::failed(e.to_string()))?,
        ExportFormat::SeedHex => Zeroizing::new(to_hex(&keys.identity.seed()[..])),
        ExportFormat::MeshHex => Zeroizing::new(to_hex(&keys.identity.mesh_secret()[..])),
    };
    if dir.json {
        print_json(&json!({ "peer_id": keys.identity.peer_id(), "secret": text.as_str() }))?;
    } else {
        print_line(text.trim_end())?;
    }
    Ok(ExitCode::SUCCESS)
}

fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut out, b| {
        let _ = write!(out, "{b:02x}");
        out
    })
}

fn sign(payload_type: PayloadTypeArg, file: &Path, dir: &DirArgs) -> Result<ExitCode, Failure> {
    let keys = identity::load_uncertified(&resolve_dir(dir.dir.as_deref())?)?;
    let payload = read_bounded(file, MAX_INPUT)?;
    serde_json::from_slice::<serde::de::IgnoredAny>(&payload)
        .map_err(|e| Failure::failed(format!("{} is no JSON: {e}", file.display())))?;
    let payload_type = match payload_type {
        PayloadTypeArg::Jobs => PayloadType::Jobs,
        PayloadTypeArg::Workflow => PayloadType::Workflow,
        PayloadTypeArg::Receipts => PayloadType::Receipts,
        PayloadTypeArg::Node => PayloadType::Node,
        PayloadTypeArg::Member => PayloadType::Member,
        PayloadTypeArg::Cancel => PayloadType::Cancel,
    };
    print_envelope(&Envelope::sign(&keys.identity, payload_type, payload))
}

fn print_envelope(envelope: &Envelope) -> Result<ExitCode, Failure> {
    print_line(&envelope.to_json())?;
    Ok(ExitCode::SUCCESS)
}

fn verify(trust: Option<&Path>, file: &Path, json: bool) -> Result<ExitCode, Failure> {
    let bytes = read_bounded(file, MAX_INPUT)?;
    let outcome = check_envelope(&bytes, trust);
    match outcome {
        Ok((signers, payload_type)) if json => {
            print_json(&json!({ "valid": true, "type": payload_type, "signers": signers }))?;
            Ok(ExitCode::SUCCESS)
        }
        Ok((signers, payload_type)) => {
            print_line(&format!("valid {payload_type}, signed by"))?;
            for (id, name) in signers.iter().map(|s| (&s["peer_id"], s["name"].as_str().unwrap_or(""))) {
                print_line(format!("  {} {name}", id.as_str().unwrap_or("")).trim_end())?;
            }
            Ok(ExitCode::SUCCESS)
        }
        Err(error) if json => {
            print_json(&json!({ "valid": false, "error": { "message": reasons(&error) } }))?;
            eprintln!("{}", printable(&format!("horus: {}", reasons(&error))));
            Ok(ExitCode::FAILURE)
        }
        Err(error) => Err(error.into()),
    }
}

fn check_envelope(bytes: &[u8], trust: Option<&Path>) -> Result<(Vec<serde_json::Value>, String)> {
    let envelope = Envelope::from_json(bytes)?;
    let verified = envelope.verify(envelope.payload_type())?;
    let trust = trust.map(|path| identity::trust(Some(path), path)).transpose()?;
    let now = Timestamp::now();
    let mut signers = Vec::new();
    for peer in verified.signers() {
        if let Some(trust) = &trust
            && !trust.known(*peer, now)
        {
            bail!("the signature of {peer} is right, but the trust policy does not know that key");
        }
        let name = trust.as_ref().and_then(|t: &Trust| t.name_of(*peer));
        signers.push(json!({ "peer_id": peer, "name": name }));
    }
    Ok((signers, envelope.payload_type().to_string()))
}

/// The daemon's X25519 key cannot sign, so possession of its key file is what ties it to us.
fn bind(key_file: &Path, dir: &DirArgs) -> Result<ExitCode, Failure> {
    let path = resolve_dir(dir.dir.as_deref())?;
    let keys = identity::load_uncertified(&path)?;
    let secret = Zeroizing::new(read_bounded(key_file, 4096)?);
    let secret: Zeroizing<[u8; 32]> = Zeroizing::new(secret.as_slice().try_into().map_err(|_| {
        Failure::failed(format!("{} has {} bytes; a mycelium key file has 32", key_file.display(), secret.len()))
    })?);
    let envelope = Binding::prove(&keys.identity, &secret);
    let mesh_public_key = Binding::check(&envelope).map_err(anyhow::Error::from)?.mesh_public_key;
    KeyDir::save_binding(&path, &envelope).map_err(anyhow::Error::from)?;
    let overlay = mesh_public_key.overlay_address();
    if dir.json {
        print_json(
            &json!({ "peer_id": keys.identity.peer_id(), "mesh_public_key": mesh_public_key, "overlay_ip": overlay, "envelope": envelope }),
        )?;
    } else {
        print_line(&format!("{} lives at {overlay} (mesh key {mesh_public_key})", keys.identity.peer_id()))?;
    }
    Ok(ExitCode::SUCCESS)
}

fn trust(command: TrustCommand) -> Result<ExitCode, Failure> {
    match command {
        TrustCommand::List(file) => {
            let path = trust_path(&file)?;
            if file.trust.is_some() && !path.exists() {
                return Err(Failure::failed(format!("there is no trust policy at {}", path.display())));
            }
            list(&load_policy(&path)?, &path, file.json)?;
        }
        TrustCommand::Add { peer_id, role, runner, name, file } => {
            let path = trust_path(&file)?;
            if is_revoked(&load_policy(&path)?, peer_id) {
                return Err(Failure::failed(format!(
                    "{peer_id} is revoked in {0}, and stays refused whatever it is added as: take the [[revoked]] entry with its id out of \
                     {0} first, if it is to be trusted again",
                    path.display()
                )));
            }
            warn_without_runner(&role, &runner);
            let key = TrustedKey { id: peer_id, name, roles: role, runners: runner };
            TrustPolicy::add(&path, &key).with_context(|| format!("cannot change {}", path.display()))?;
            changed(&file, &describe(&key), &format!("{peer_id} is trusted by {}", path.display()))?;
        }
        TrustCommand::Remove { peer_id, file } => {
            let path = trust_path(&file)?;
            let was_there =
                TrustPolicy::remove(&path, peer_id).with_context(|| format!("cannot change {}", path.display()))?;
            if !was_there {
                return Err(Failure::failed(format!("{} does not know {peer_id}", path.display())));
            }
            changed(
                &file,
                &json!({ "removed": peer_id }),
                &format!("{peer_id} has no entry in {} any more", path.display()),
            )?;
            if !is_revoked(&load_policy(&path)?, peer_id) {
                eprintln!(
                    "horus: a certificate that an owner has given it still counts; `horus keys trust revoke {peer_id} --trust {}` ends that",
                    path.display()
                );
            }
        }
        TrustCommand::Revoke { peer_id, file } => {
            let path = trust_path(&file)?;
            TrustPolicy::revoke(&path, Revocation::Id(peer_id))
                .with_context(|| format!("cannot change {}", path.display()))?;
            changed(&file, &json!({ "revoked": peer_id }), &format!("{peer_id} is revoked in {}", path.display()))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn load_policy(path: &Path) -> Result<TrustPolicy> {
    TrustPolicy::load(path).with_context(|| format!("cannot read {}", path.display()))
}

fn is_revoked(policy: &TrustPolicy, id: PeerId) -> bool {
    policy.revoked.contains(&Revocation::Id(id))
}

/// Says of roles that are for runner kinds, and are given for none, that they allow nothing.
fn warn_without_runner(roles: &[Role], runners: &[RunnerPattern]) {
    if runners.is_empty() && roles.iter().any(|role| matches!(role, Role::Submitter | Role::Runner)) {
        eprintln!(
            "horus: without --runner, the roles submitter and runner allow nothing: name the kinds, or '*' for all of them"
        );
    }
}

/// What a policy says: a key that is revoked has no roles, whatever its entry says.
fn list(policy: &TrustPolicy, path: &Path, json: bool) -> Result<(), Failure> {
    if json {
        let keys = policy.keys.iter().map(|key| {
            let mut shown = describe(key);
            shown["revoked"] = is_revoked(policy, key.id).into();
            shown
        });
        return print_json(&json!({ "keys": keys.collect::<Vec<_>>(), "revoked": policy.revoked }));
    }
    if policy.keys.iter().all(|key| is_revoked(policy, key.id)) {
        print_line(&format!("{} trusts nobody", path.display()))?;
    }
    if !policy.keys.is_empty() {
        let rows = policy.keys.iter().map(|k| {
            let roles = k.roles.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            let roles = if is_revoked(policy, k.id) { "none: revoked".to_owned() } else { roles };
            let runners = k.runners.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
            [k.id.to_string(), k.name.clone().unwrap_or_default(), roles, runners]
        });
        print_line(&table(["KEY", "NAME", "ROLES", "RUNNERS"], rows))?;
    }
    for revocation in &policy.revoked {
        print_line(&match revocation {
            Revocation::Id(id) => format!("revoked: key {id}"),
            Revocation::Certificate(digest) => format!("revoked: certificate {digest}"),
        })?;
    }
    Ok(())
}

fn changed(file: &TrustFileArgs, json: &serde_json::Value, text: &str) -> Result<(), Failure> {
    if file.json { print_json(json) } else { print_line(text) }
}

fn describe(key: &TrustedKey) -> serde_json::Value {
    json!({ "id": key.id, "name": key.name, "roles": key.roles, "runners": key.runners })
}

fn trust_path(file: &TrustFileArgs) -> Result<std::path::PathBuf> {
    match &file.trust {
        Some(path) => Ok(path.clone()),
        None => {
            let identity = std::env::var_os("HORUS_IDENTITY").map(std::path::PathBuf::from);
            Ok(resolve_dir(identity.as_deref())?.join("trust.toml"))
        }
    }
}
