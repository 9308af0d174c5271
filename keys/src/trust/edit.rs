//! Changing `trust.toml` without disturbing what people wrote in it.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use toml_edit::{Array, ArrayOfTables, DocumentMut, Item, Table, Value};

use super::error::TrustError;
use super::policy::{Revocation, TrustPolicy, TrustedKey, parse_file, read_text};
use crate::files;
use crate::peer_id::PeerId;

/// What a new file begins with.
const HEADER: &str = "\
# Whom this machine trusts. Nobody else may do anything.
# Roles: owner, submitter, observer, operator, coordinator, supervisor, runner.
# Runners: the kinds that the key may submit to or run, or \"*\" for all.
";

impl TrustPolicy {
    /// Adds a key to the file at `path`, or replaces name, roles and runners of its entry. Makes the
    /// file if there is none. Comments and order stay. Returns whether the key is new.
    ///
    /// Safe against other processes that do the same, and against interruption: the file is locked
    /// (by `.NAME.lock` beside it) and replaced whole.
    ///
    /// # Errors
    /// [`TrustError`] if the file cannot be read or written, or is or would become invalid.
    pub fn add(path: &Path, key: &TrustedKey) -> Result<bool, TrustError> {
        edit(path, |document| {
            let tables = tables(document, "key")?;
            let found = position(tables, "id", &key.id.to_string());
            match found.and_then(|index| tables.get_mut(index)) {
                Some(table) => {
                    write_key(table, key);
                    Ok(Some(false))
                }
                None => {
                    let mut table = Table::new();
                    table.insert("id", toml_edit::value(key.id.to_string()));
                    write_key(&mut table, key);
                    append(tables, table);
                    Ok(Some(true))
                }
            }
        })
        .map(|new| new == Some(true))
    }

    /// Removes a key from the file at `path`, with the comment right above its entry. Returns whether
    /// it was there. A key that is gone can still be certified by an owner: to prevent that, revoke it.
    ///
    /// # Errors
    /// As [`TrustPolicy::add`].
    pub fn remove(path: &Path, id: PeerId) -> Result<bool, TrustError> {
        edit(path, |document| {
            if document.get("key").is_none() {
                return Ok(None);
            }
            let tables = tables(document, "key")?;
            let Some(index) = position(tables, "id", &id.to_string()) else {
                return Ok(None);
            };
            let orphan = tables.get(index).map(comment_above).unwrap_or_default();
            tables.remove(index);
            keep_comment(document, index, &orphan);
            Ok(Some(()))
        })
        .map(|removed| removed.is_some())
    }

    /// Revokes a key or a certificate in the file at `path`. Returns whether that is new.
    ///
    /// # Errors
    /// As [`TrustPolicy::add`].
    pub fn revoke(path: &Path, revocation: Revocation) -> Result<bool, TrustError> {
        edit(path, |document| {
            let tables = tables(document, "revoked")?;
            let (field, text) = match revocation {
                Revocation::Id(id) => ("id", id.to_string()),
                Revocation::Certificate(digest) => ("certificate", digest.to_string()),
            };
            if position(tables, field, &text).is_some() {
                return Ok(None);
            }
            let mut table = Table::new();
            table.insert(field, toml_edit::value(text));
            append(tables, table);
            Ok(Some(()))
        })
        .map(|revoked| revoked.is_some())
    }
}

/// Reads, changes and replaces the file while no other process does. `change` returns `None` if there
/// is nothing to change.
fn edit<T>(
    path: &Path,
    change: impl FnOnce(&mut DocumentMut) -> Result<Option<T>, String>,
) -> Result<Option<T>, TrustError> {
    // Through a symbolic link the file itself is replaced, not the link.
    let path = &fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let io_error = |action, path: &Path| {
        let path = path.to_owned();
        move |source| TrustError::Io { action, path, source }
    };
    let lock_path = lock_path(path);
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(&lock_path)
        .map_err(io_error("make", &lock_path))?;
    lock.lock().map_err(io_error("lock", &lock_path))?;

    let text = read_text(path)?;
    let is_new = fs::metadata(path).is_err();
    parse_file(path, &text)?;
    let invalid = |reason| TrustError::Policy { path: Some(path.clone()), reason };
    let start = if is_new { HEADER } else { &text };
    let mut document: DocumentMut = start.parse().map_err(|e: toml_edit::TomlError| invalid(e.to_string()))?;
    // Comments in a file without entries count as its end; new entries are to come after them.
    let preamble = if document.as_table().is_empty() {
        let comments = document.trailing().as_str().unwrap_or_default().to_owned();
        document.set_trailing("");
        comments
    } else {
        String::new()
    };
    let Some(done) = change(&mut document).map_err(invalid)? else {
        return Ok(None);
    };

    let changed = format!("{preamble}{document}");
    // What is written must be readable, or the machine would trust nobody from its next start on.
    parse_file(path, &changed)?;
    let mode = fs::metadata(path).map_or(0o644, |m| m.permissions().mode() & 0o7777);
    files::replace(path, changed.as_bytes(), mode).map_err(io_error("write", path))?;
    Ok(Some(done))
}

fn lock_path(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    files::parent(path).join(format!(".{name}.lock"))
}

fn tables<'a>(document: &'a mut DocumentMut, name: &str) -> Result<&'a mut ArrayOfTables, String> {
    document
        .entry(name)
        .or_insert_with(|| Item::ArrayOfTables(ArrayOfTables::new()))
        .as_array_of_tables_mut()
        .ok_or_else(|| format!("`{name}` is written inline; write each entry as [[{name}]] to have it edited"))
}

fn position(tables: &ArrayOfTables, field: &str, text: &str) -> Option<usize> {
    tables.iter().position(|table| table.get(field).and_then(Item::as_str) == Some(text))
}

fn append(tables: &mut ArrayOfTables, mut table: Table) {
    table.decor_mut().set_prefix("\n");
    tables.push(table);
}

fn write_key(table: &mut Table, key: &TrustedKey) {
    match &key.name {
        Some(name) => set(table, "name", name.as_str().into()),
        None => _ = table.remove("name"),
    }
    set(table, "roles", key.roles.iter().map(|role| role.as_str()).collect::<Array>().into());
    let runners = key.runners.iter().map(ToString::to_string).collect::<Array>();
    set(table, "runners", runners.into());
}

/// Sets a value but keeps the comment behind the old one.
fn set(table: &mut Table, field: &str, mut value: Value) {
    if let Some(old) = table.get(field).and_then(Item::as_value) {
        *value.decor_mut() = old.decor().clone();
        if old.to_string() == value.to_string() {
            return;
        }
    }
    table[field] = Item::Value(value);
}

/// What stands above an entry but does not belong to it: everything up to the last empty line.
fn comment_above(table: &Table) -> String {
    let prefix = table.decor().prefix().and_then(|raw| raw.as_str()).unwrap_or_default();
    match prefix.rfind("\n\n") {
        Some(end) => prefix[..=end].to_owned(),
        None => String::new(),
    }
}

/// Moves a comment whose entry was removed to the entry that took its place, or to the end.
fn keep_comment(document: &mut DocumentMut, index: usize, comment: &str) {
    if comment.trim().is_empty() {
        return;
    }
    let next = document.get_mut("key").and_then(Item::as_array_of_tables_mut).and_then(|tables| tables.get_mut(index));
    match next {
        Some(table) => {
            let prefix = table.decor().prefix().and_then(|raw| raw.as_str()).unwrap_or_default();
            let prefix = format!("{comment}{prefix}");
            table.decor_mut().set_prefix(prefix);
        }
        None => {
            let trailing = document.trailing().as_str().unwrap_or_default();
            let trailing = format!("{comment}{trailing}");
            document.set_trailing(trailing);
        }
    }
}

#[cfg(test)]
mod tests;
