//! Which role may call which method: the one table.
//!
//! It says who may *call*. What a caller then sees is narrower: a submitter sees and steers its own jobs and workflows, a
//! coordinator those of workflows that name it, an observer sees all, an operator and an owner steer all.

use horus_keys::Role;
use horus_transport::Access;

/// Those who may look at something: what they see of it depends on whose it is.
const READERS: &[Role] = &[Role::Submitter, Role::Coordinator, Role::Observer, Role::Operator, Role::Owner];
/// Those who may change something: their own, or everybody's for an operator and an owner.
const STEERERS: &[Role] = &[Role::Submitter, Role::Coordinator, Role::Operator, Role::Owner];
/// Those who run the place.
const OPERATORS: &[Role] = &[Role::Operator, Role::Owner];

/// Those who see everything.
const WATCHERS: &[Role] = &[Role::Observer, Role::Operator, Role::Owner];

/// Every method of every role, with who may call it, but for `rpc.discover` and `get_node_info`: those are the
/// transport's own, and open.
pub const TABLE: &[(&str, Access)] = &[
    // Every role with a port.
    ("get_mesh_status", Access::Roles(WATCHERS)),
    ("list_nodes", Access::Roles(READERS)),
    // Supervisor.
    ("create_jobs", Access::Envelope),
    ("create_job", Access::Envelope),
    ("store_documents", Access::Roles(&[Role::Coordinator])),
    ("get_job", Access::Roles(READERS)),
    ("get_job_status", Access::Roles(READERS)),
    ("get_job_result", Access::Roles(READERS)),
    ("get_job_logs", Access::Roles(READERS)),
    ("wait_jobs", Access::Roles(READERS)),
    ("list_jobs", Access::Roles(READERS)),
    ("cancel_job", Access::Roles(STEERERS)),
    ("delete_job", Access::Roles(STEERERS)),
    ("list_runners", Access::Roles(READERS)),
    ("get_runner", Access::Roles(READERS)),
    ("ping_runner", Access::Roles(READERS)),
    ("register_runner", Access::Roles(OPERATORS)),
    ("remove_runner", Access::Roles(OPERATORS)),
    // Coordinator.
    ("submit_workflow", Access::Envelope),
    ("get_workflow_status", Access::Roles(READERS)),
    ("wait_workflow", Access::Roles(READERS)),
    ("list_workflows", Access::Roles(READERS)),
    ("cancel_workflow", Access::Roles(STEERERS)),
    ("get_workflow_logs", Access::Roles(READERS)),
    ("validate_workflow", Access::Roles(READERS)),
    ("register_supervisor", Access::Envelope),
    ("list_supervisors", Access::Roles(READERS)),
];

/// Who may call `method`.
///
/// # Panics
/// When the table has no such method. It is called for constants only, so that is an error of compilation.
#[must_use]
pub const fn of(method: &str) -> Access {
    let mut at = 0;
    while at < TABLE.len() {
        if same(TABLE[at].0, method) {
            return TABLE[at].1;
        }
        at += 1;
    }
    panic!("the method is missing in the access table")
}

/// String equality that works in constants.
const fn same(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    if a.len() != b.len() {
        return false;
    }
    let mut at = 0;
    while at < a.len() {
        if a[at] != b[at] {
            return false;
        }
        at += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_method_stands_in_the_table_once() {
        let names: BTreeSet<&str> = TABLE.iter().map(|(name, _)| *name).collect();
        assert_eq!(names.len(), TABLE.len());
    }

    #[test]
    fn nothing_of_a_role_is_open_to_strangers() {
        assert!(TABLE.iter().all(|(_, access)| *access != Access::Open));
    }

    #[test]
    fn an_observer_changes_nothing() {
        for method in ["cancel_job", "delete_job", "remove_runner", "cancel_workflow"] {
            let Access::Roles(roles) = of(method) else { panic!("{method} is not bound to roles") };
            assert!(!roles.contains(&Role::Observer), "{method}");
        }
    }
}
