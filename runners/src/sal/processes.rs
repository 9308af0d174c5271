//! Children of the own process, and ending them.

use std::{
    fs, io, thread,
    time::{Duration, Instant},
};

use nix::{
    errno::Errno,
    sys::{
        signal::{Signal, kill, killpg},
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::{Pid, getpgid, getpgrp, getpid},
};

/// All children of this process, zombies included.
pub(super) fn children() -> io::Result<Vec<Pid>> {
    let mut found = Vec::new();
    for task in fs::read_dir("/proc/self/task")? {
        match fs::read_to_string(task?.path().join("children")) {
            Ok(list) => {
                found.extend(list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).map(Pid::from_raw));
            }
            // The thread ended between the two reads, or this kernel does not list children.
            Err(_) if fs::exists("/proc/thread-self/children").unwrap_or(false) => {}
            Err(_) => return children_by_scan(),
        }
    }
    Ok(found)
}

/// For kernels without `CONFIG_PROC_CHILDREN`: the parent is the second field after the name in `/proc/PID/stat`.
fn children_by_scan() -> io::Result<Vec<Pid>> {
    let own = getpid().to_string();
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = fs::read_to_string(entry.path().join("stat")) else { continue };
        // The name may hold spaces and parentheses: it ends at the last one.
        let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(1));
        if parent == Some(own.as_str()) {
            found.push(Pid::from_raw(pid));
        }
    }
    Ok(found)
}

/// Whether this process has children that live. Those that ended are reaped.
pub(super) fn has_living_children() -> bool {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) => return true,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(_) => return false,
        }
    }
}

/// Kills and reaps every child that `is_known` does not know, with its process group, and whatever then falls to this process as an orphan.
/// Returns whether none is left; after `patience` it gives up (a process in an uninterruptible call cannot be killed).
pub(super) fn kill_strays(is_known: impl Fn(Pid) -> bool, patience: Duration) -> bool {
    let started = Instant::now();
    loop {
        let Ok(children) = children() else { return false };
        let strays: Vec<Pid> = children.into_iter().filter(|pid| !is_known(*pid)).collect();
        if strays.is_empty() {
            return true;
        }
        for stray in &strays {
            // The whole group at once, so that a fork bomb cannot outrun one kill at a time.
            if let Ok(group) = getpgid(Some(*stray))
                && group != getpgrp()
                && !is_known(group)
            {
                let _ = killpg(group, Signal::SIGKILL);
            }
            let _ = kill(*stray, Signal::SIGKILL);
        }
        let mut alive = false;
        for stray in strays {
            alive |= matches!(waitpid(stray, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive));
        }
        if started.elapsed() > patience {
            return false;
        }
        if alive {
            thread::sleep(Duration::from_micros(200));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn both_ways_find_a_child() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
        assert!(children().unwrap().contains(&pid));
        assert!(children_by_scan().unwrap().contains(&pid));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!children_by_scan().unwrap().contains(&pid));
    }
}
