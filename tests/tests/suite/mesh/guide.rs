//! The guide in docs/MESH.md, typed as it stands there, by two users with nothing but what it tells them to install.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use horus_keys::KeyDir;
use horus_tests::{Outcome, Running, TestRedis, binary, free_port};
use horus_transport::simulator::MeshSimulator;
use nix::sys::signal::Signal;
use tempfile::TempDir;

use super::world::{HOSTS, World, underlay};

/// How long anything may take that the guide promises.
const PATIENCE: Duration = Duration::from_secs(90);
const MACHINES: [&str; 2] = ["first", "second"];
/// What ends the log of a command that is left running once it does what it is there for.
const DOES: [(&str, &str); 4] = [
    ("horus up", "\nready: "),
    ("sudo mycelium", "Node overlay IP"),
    ("horus supervisor", "announced to the coordinator"),
    ("horus runner", "waits for jobs"),
];

/// What stands in the guide's blocks.
#[derive(Debug)]
enum Part {
    /// To be typed on a machine, and what is said of it.
    Command { machine: usize, command: String, note: String },
    /// To be written.
    File { name: String, text: String },
    /// What the command before it prints, among other things.
    Output(String),
}

/// The guide: what lies between two headings of docs/MESH.md.
fn section(from: &str, to: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/MESH.md");
    let text = fs::read_to_string(path).unwrap();
    let begin = text.find(from).unwrap_or_else(|| panic!("docs/MESH.md has no {from}"));
    let length = text[begin..].find(to).unwrap_or_else(|| panic!("docs/MESH.md has no {to} after {from}"));
    text[begin..begin + length].to_owned()
}

fn guide() -> Vec<Part> {
    let text = section("## Two machines, from nothing\n", "### When a step was forgotten\n");
    let (mut parts, mut before, mut block) = (Vec::new(), "", Vec::new());
    for line in text.lines().chain([""]) {
        if let Some(code) = line.strip_prefix("    ") {
            block.push(code);
            continue;
        }
        if !block.is_empty() {
            read_block(&std::mem::take(&mut block), before, &mut parts);
        }
        if !line.is_empty() {
            before = line;
        }
    }
    parts
}

fn read_block(lines: &[&str], before: &str, into: &mut Vec<Part>) {
    let typed = |line: &str| {
        let (prompt, rest) = line.split_once("$ ")?;
        let machine = MACHINES.iter().position(|name| *name == prompt)?;
        let (command, note) = rest.split_once("  #").unwrap_or((rest, ""));
        Some(Part::Command { machine, command: command.trim().to_owned(), note: note.trim().to_owned() })
    };
    let text = || lines.join("\n") + "\n";
    if typed(lines[0]).is_some() {
        into.extend(lines.iter().map(|line| typed(line).unwrap_or_else(|| panic!("no machine is named: {line}"))));
    } else if let Some(name) = before.strip_prefix('`').and_then(|rest| rest.strip_suffix("`:")) {
        into.push(Part::File { name: name.to_owned(), text: text() });
    } else {
        into.push(Part::Output(text()));
    }
}

/// Puts what is known in the place of the words in capitals.
fn filled(text: &str, known: &BTreeMap<String, String>) -> String {
    let mut out = String::new();
    let mut word = String::new();
    for c in text.chars().chain(['\0']) {
        if c.is_ascii_alphanumeric() || c == '_' {
            word.push(c);
            continue;
        }
        out += known.get(&word).unwrap_or(&word);
        word.clear();
        out.push(c);
    }
    out.pop();
    out
}

/// Two machines with a home each, and what runs there.
struct Machines {
    world: World,
    dir: TempDir,
    running: Vec<(usize, String, Running)>,
    /// What the words in capitals stand for.
    known: BTreeMap<String, String>,
    /// On simulated machines, which are one: ports of coordinator, first and second supervisor.
    ports: [u16; 3],
    redis: Option<TestRedis>,
}

impl Machines {
    fn new(world: World) -> Self {
        let known = BTreeMap::from([("PUBLIC_NODE", underlay(HOSTS - 1)), ("SECOND", "second".to_owned())]);
        let known = known.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let ports = [(); 3].map(|()| free_port());
        let machines =
            Self { world, dir: tempfile::tempdir().unwrap(), running: Vec::new(), known, ports, redis: None };
        let bin = machines.dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        symlink(binary(), bin.join("horus")).unwrap();
        if let Some(mycelium) = std::env::var_os("MYCELIUM_BIN") {
            symlink(fs::canonicalize(mycelium).unwrap(), bin.join("mycelium")).unwrap();
        }
        // We are root where it matters, and copying is all that ssh is there for.
        let copy = format!("cp \"$1\" \"{}/${{2%%:*}}/${{2#*:}}\"", machines.dir.path().display());
        for (name, script) in [("sudo", "exec \"$@\""), ("scp", &copy)] {
            fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
        }
        for name in MACHINES {
            fs::create_dir(machines.dir.path().join(name)).unwrap();
        }
        machines
    }

    /// On simulated machines the daemons' keys are fixed, and none of them runs yet.
    fn simulated() -> Self {
        let machines = Self::new(World::simulated());
        for (machine, dir) in [(0, ".local/share/horus/keys/host"), (1, ".config/horus")] {
            machines.world.kill_daemon(machine);
            let dir = machines.home(machine).join(dir);
            fs::create_dir_all(dir.parent().unwrap()).unwrap();
            KeyDir::create(&dir, MeshSimulator::identity(machine), None, false).unwrap();
        }
        machines
    }

    fn home(&self, machine: usize) -> PathBuf {
        self.dir.path().join(MACHINES[machine])
    }

    fn shell(&self, machine: usize, script: &str) -> std::process::Command {
        let mut command = self.world.program(machine, Path::new("/bin/sh"));
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HORUS_") || name.starts_with("XDG_")) {
            if name != "HORUS_MYCELIUM_RPC" {
                command.env_remove(name);
            }
        }
        let path = format!("{}:{}", self.dir.path().join("bin").display(), std::env::var("PATH").unwrap_or_default());
        command.env("HOME", self.home(machine)).env("PATH", path).current_dir(self.home(machine));
        if !self.world.is_real() {
            let url = |port| format!("http://127.0.0.1:{port}");
            if ["horus mesh", "horus supervisors", "horus workflow"].iter().any(|start| script.starts_with(start)) {
                command.env("HORUS_COORDINATOR", url(self.ports[0])).env("HORUS_SUPERVISOR", url(self.ports[1]));
            }
            if let (1, Some(redis)) = (machine, &self.redis) {
                command.env("HORUS_REDIS_URL", redis.url());
            }
        }
        command.args(["-c", script]);
        command
    }

    /// Types a command that ends.
    fn run(&self, machine: usize, script: &str) -> Outcome {
        let script = filled(script, &self.known);
        let done = self.shell(machine, &script).stdin(Stdio::null()).output().unwrap();
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let code = done.status.code().unwrap_or(-1);
        Outcome { code, stdout: text(&done.stdout), stderr: text(&done.stderr) }
    }

    /// Types it again and again until it prints what is looked for: who reads the guide sees it in time, too.
    fn until(&self, machine: usize, script: &str, sees: impl Fn(&Outcome) -> bool) -> Outcome {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let done = self.run(machine, script);
            if sees(&done) {
                return done;
            }
            assert!(Instant::now() < deadline, "{script}: {done:#?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Leaves a command running, in the place of the same one that was running there.
    fn leave(&mut self, machine: usize, script: &str) {
        self.stop(machine, script);
        let mut script_there = format!("exec {}", filled(script, &self.known));
        if !self.world.is_real() {
            if script.starts_with("sudo mycelium") {
                return self.start_daemon(machine, script);
            }
            let [coordinator, supervisor, second] = self.ports;
            if script.starts_with("horus up") {
                script_there += &format!(" --coordinator-port {coordinator} --supervisor-port {supervisor}");
            } else if script.starts_with("horus supervisor") {
                script_there += &format!(" --port {second}");
            }
        }
        let log = self.dir.path().join(format!("{}.log", self.running.len()));
        _ = fs::remove_file(&log);
        let running = Running::start(self.shell(machine, &script_there).stdin(Stdio::null()), &log);
        self.running.push((machine, script.to_owned(), running));
    }

    /// The simulated daemon, if it would be given the right key.
    fn start_daemon(&self, machine: usize, script: &str) {
        let key = script.split(" -k ").nth(1).and_then(|rest| rest.split(' ').next()).expect("a key is named");
        let key = fs::read(self.home(machine).join(key.trim_start_matches("~/"))).unwrap();
        assert_eq!(key, MeshSimulator::identity(machine).mesh_secret()[..], "{script}");
        self.world.start_daemon(machine);
    }

    /// Ctrl-C.
    fn stop(&mut self, machine: usize, script: &str) {
        if let Some(at) = self.running.iter().position(|(m, other, _)| (*m, other.as_str()) == (machine, script)) {
            let (_, _, mut running) = self.running.remove(at);
            running.signal(Signal::SIGINT);
            assert!(running.wait(PATIENCE).is_some(), "{script} does not stop:\n{}", running.log());
        }
    }

    /// Until what was left running last has said something.
    fn until_said(&self, what: &str) {
        let Some((_, script, running)) = self.running.last() else { return };
        let what = filled(what, &self.known);
        let deadline = Instant::now() + PATIENCE;
        while !running.log().contains(&what) {
            assert!(Instant::now() < deadline, "{script} never says {what:?}\n{}", self.logs());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn logs(&self) -> String {
        let shown = |(machine, script, running): &(usize, String, Running)| {
            format!("--- {}$ {script}\n{}", MACHINES[*machine], running.log())
        };
        self.running.iter().map(shown).collect()
    }

    /// What the guide says that a command prints is remembered by its name.
    fn learn(&mut self, note: &str, printed: &str) {
        let Some(rest) = note.strip_prefix("peer id: ") else { return };
        let name: String = rest.chars().take_while(char::is_ascii_uppercase).collect();
        let id = printed.lines().find_map(|line| line.strip_prefix("peer id")).expect("a PeerId is printed").trim();
        assert!(id.parse::<horus_keys::PeerId>().is_ok(), "{printed}");
        self.known.insert(name, id.to_owned());
    }

    /// The second machine's Redis, which the guide takes for granted.
    fn start_redis(&mut self) {
        if self.world.is_real() {
            let log = self.dir.path().join("redis.log");
            let mut command = self.shell(1, "exec redis-server --save ''");
            self.running.insert(0, (1, "redis-server".to_owned(), Running::start(&mut command, &log)));
        } else {
            self.redis = Some(TestRedis::start());
        }
    }
}

impl Drop for Machines {
    /// What was started last stops first: Redis and daemons outlive the roles.
    fn drop(&mut self) {
        while self.running.pop().is_some() {}
    }
}

fn the_guide_leads_to_a_workflow(mut machines: Machines) {
    machines.start_redis();
    let simulated = !machines.world.is_real();
    let mut printed = String::new();
    let mut commands = 0;
    for part in guide() {
        match part {
            Part::Command { machine, command, note } if note.contains("leave it running") => {
                commands += 1;
                machines.leave(machine, &command);
                let does =
                    DOES.iter().find(|(start, _)| command.starts_with(start)).expect("it is known when it is there");
                if !(simulated && does.0 == "sudo mycelium") {
                    machines.until_said(does.1);
                }
            }
            Part::Command { machine, command, note } => {
                commands += 1;
                // The keys of simulated daemons were there before them.
                let typed = if simulated { command.replace("keys generate", "keys show") } else { command.clone() };
                let peers = if simulated { "" } else { " alive" };
                let new = machines.known.get("NEW").cloned().unwrap_or_default();
                let done = machines.until(machine, &typed, |done| match command.as_str() {
                    "horus mesh status" => done.stdout.contains("\naddress ") && done.stdout.contains(peers),
                    "horus supervisors list" => {
                        done.stdout.matches(" alive ").count() == 2
                            && done.stdout.contains(&format!("mycelium://{new}/"))
                    }
                    _ => true,
                });
                assert_eq!(done.code, 0, "{command}: {done:#?}\n{}", machines.logs());
                machines.learn(&note, &done.stdout);
                printed = done.stdout;
            }
            Part::File { name, text } => {
                fs::write(machines.home(0).join(name), filled(&text, &machines.known)).unwrap();
            }
            Part::Output(text) => assert!(printed.contains(&text), "docs/MESH.md promises\n{text}but\n{printed}"),
        }
    }
    assert!(commands > 20, "the guide had {commands} commands only: are its blocks still found?");
    let list = machines.run(0, "horus workflow list --json").ok().json();
    let id = list["workflows"][0]["workflow_id"].as_str().expect("the workflow is listed").to_owned();
    let view = machines.run(0, &format!("horus workflow status {id} --json")).ok().json();
    let (there, new) = (view["steps"]["there"]["supervisor"].as_str().unwrap_or_default(), &machines.known["NEW"]);
    assert!(there.contains(new), "the pinned step ran elsewhere than on {new}: {view:#}");
}

#[test]
fn the_guide_leads_to_a_workflow_across_two_machines() {
    the_guide_leads_to_a_workflow(Machines::simulated());
}

#[test]
fn on_real_daemons_the_guide_leads_to_a_workflow_across_two_machines() {
    let Some(world) = World::real_with_public_node() else { return };
    the_guide_leads_to_a_workflow(Machines::new(world));
}
