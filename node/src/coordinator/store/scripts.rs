//! What must happen at once in Redis, in Lua. Every script that writes to a workflow checks the writer and its epoch: a
//! coordinator that lost the workflow, however late it wakes up, writes nothing. Both, because a Redis that has lost its last
//! second may give an epoch out twice.

use std::sync::LazyLock;

use redis::Script;

/// A workflow is stored, unless its id is taken.
pub(super) static CREATE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/create.lua")));

/// Records are appended to the journal.
pub(super) static APPEND: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/append.lua")));

/// The journal gives way to a snapshot.
pub(super) static SNAPSHOT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/snapshot.lua")));

/// A workflow changes its owner.
pub(super) static TAKE_OVER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("lua/take_over.lua")));
