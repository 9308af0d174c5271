//! A Redis that executes one call after the other, with a clock that the simulation sets, and the very scripts of Horus.

use std::{
    collections::BTreeMap,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Connection, Value};

/// Where a script takes its time from, and what it takes it from here.
const CLOCK: (&str, &str) = ("call('TIME')", "{ 0, redis.call('GET', 'sim:ms') * 1000 }");

const PRELUDE: &str = include_str!("../../../runners/src/queue/lua/prelude.lua");

macro_rules! bodies {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../../runners/src/queue/lua/", $name, ".lua")))),*] };
}

/// The very scripts of the queue.
const BODIES: [(&str, &str); 15] = bodies![
    "cancel",
    "claim",
    "delete",
    "doctor",
    "finish",
    "heartbeat",
    "holds",
    "log",
    "observe",
    "push",
    "reap",
    "release",
    "start",
    "sweep",
    "unregister"
];

macro_rules! store {
    ($($name:literal),*) => { [$(($name, include_str!(concat!("../../../node/src/coordinator/store/lua/", $name, ".lua")))),*] };
}

/// The very scripts of the coordinator's store.
const STORE: [(&str, &str); 4] = store!["append", "create", "snapshot", "take_over"];

/// What the simulation looks at after every call. ARGV: ids. Gives {elements of wake, jobs that wait, {fields...} per id}.
const LOOK: &str = "
local reply = { call('LLEN', base .. ':wake'), pending_count() }
for i = 1, #ARGV do
  local id = ARGV[i]
  local job = call('HMGET', job_key(id), 'status', 'attempt', 'worker', 'token', 'deliveries', 'output', 'receipt', 'cancel', 'deleted', 'error')
  job[11] = tostring(call('XLEN', base .. ':log:' .. id))
  for n = 1, 11 do job[n] = job[n] or '' end
  reply[#reply + 1] = job
end
return reply";

/// A rule of the scripts that is broken on purpose: script (or `prelude`), what it says, what it says instead.
pub(crate) type Mutation = (&'static str, &'static str, &'static str);

pub(crate) struct Server {
    child: Child,
    dir: tempfile::TempDir,
    link: Connection,
    scripts: BTreeMap<&'static str, String>,
}

impl Server {
    pub(crate) fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let spawn = |name: &str| {
            let mut command = Command::new(name);
            command.args(["--port", "0", "--save", "", "--appendonly", "no", "--unixsocket"]).arg(dir.path().join("s"));
            command.arg("--dir").arg(dir.path()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
        };
        let child = spawn("redis-server").or_else(|| spawn("valkey-server")).expect(
            "no redis-server or valkey-server on PATH: install one, for example with `apt-get install redis-server`",
        );
        let client = redis::Client::open(format!("unix://{}", dir.path().join("s").display())).unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let link = loop {
            if let Ok(mut link) = client.get_connection()
                && redis::cmd("PING").query::<String>(&mut link).is_ok()
            {
                break link;
            }
            assert!(Instant::now() < deadline, "the Redis server does not come up");
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut server = Self { child, dir, link, scripts: BTreeMap::new() };
        server.load(None);
        server
    }

    /// Loads the scripts, one of them perhaps with a broken rule.
    pub(crate) fn load(&mut self, mutation: Option<Mutation>) {
        let changed = |name: &str, text: &str| match mutation {
            Some((at, from, to)) if at == name => {
                assert!(text.contains(from), "{name} does not say {from}");
                text.replace(from, to)
            }
            _ => text.to_owned(),
        };
        assert_eq!(PRELUDE.matches(CLOCK.0).count(), 1, "the scripts take their time from one place");
        let prelude = changed("prelude", PRELUDE).replace(CLOCK.0, CLOCK.1);
        for (name, body) in BODIES.into_iter().chain([("look", LOOK)]) {
            for unforeseeable in ["'TIME'", "math.random", "RANDOM", "SPOP", "SRANDMEMBER"] {
                assert!(!body.contains(unforeseeable), "{name} uses {unforeseeable}: no seed would replay");
            }
            let code = format!("#!lua\n{prelude}\n{}", changed(name, body));
            let sha = redis::cmd("SCRIPT").arg("LOAD").arg(code).query(&mut self.link).unwrap();
            self.scripts.insert(name, sha);
        }
        for (name, body) in STORE {
            let sha = redis::cmd("SCRIPT").arg("LOAD").arg(changed(name, body)).query(&mut self.link).unwrap();
            self.scripts.insert(name, sha);
        }
    }

    /// One atomic step of a coordinator: a script of its store, or a command.
    pub(crate) fn store(&mut self, what: &'static str, keys: &[String], args: &[String]) -> Result<Value, String> {
        let mut cmd = match self.scripts.get(what) {
            Some(sha) => redis::cmd("EVALSHA").arg(sha).arg(keys.len()).to_owned(),
            None => redis::cmd(what),
        };
        cmd.arg(keys).arg(args).query(&mut self.link).map_err(|e| format!("{what}: {e}"))
    }

    /// What is stored of a workflow: meta, snapshot, journal, in one moment.
    pub(crate) fn stored(&mut self, keys: [&str; 3]) -> (BTreeMap<String, String>, Option<String>, Vec<String>) {
        let mut pipe = redis::pipe();
        pipe.atomic().hgetall(keys[0]).get(keys[1]).lrange(keys[2], 0, -1);
        pipe.query(&mut self.link).unwrap()
    }

    pub(crate) fn clear(&mut self) {
        redis::cmd("FLUSHALL").exec(&mut self.link).unwrap();
    }

    /// One atomic step at that time: a script, or the `LPOP` of a key. Then a look at the jobs: gives what the step replied, what
    /// the doctor finds, and the looks.
    pub(crate) fn step(
        &mut self,
        now: i64,
        base: &str,
        script: &'static str,
        args: &[String],
        ids: &[String],
    ) -> Result<[Value; 3], String> {
        let mut pipe = redis::pipe();
        pipe.cmd("SET").arg("sim:ms").arg(now).ignore();
        if script == "pop" {
            pipe.cmd("LPOP").arg(format!("{base}:wake"));
        } else {
            pipe.cmd("EVALSHA").arg(&self.scripts[script]).arg(1).arg(base).arg(args);
        }
        for look in ["doctor", "look"] {
            pipe.cmd("EVALSHA").arg(&self.scripts[look]).arg(1).arg(base).arg(ids);
        }
        let replies: Vec<Value> = pipe.query(&mut self.link).map_err(|e| format!("{script}: {e}"))?;
        replies.try_into().map_err(|_| "a reply is missing".to_owned())
    }

    /// The keys that there are.
    pub(crate) fn keys(&mut self, pattern: &str) -> Vec<String> {
        let mut keys: Vec<String> = redis::cmd("KEYS").arg(pattern).query(&mut self.link).unwrap();
        keys.sort();
        keys
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = &self.dir;
    }
}

/// A reply as text: of anything that is no text or number, nothing.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    }
}

pub(crate) fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        _ => &[],
    }
}

/// All of a flat list as text.
pub(crate) fn texts(value: &Value) -> Vec<String> {
    list(value).iter().map(text).collect()
}

pub(crate) fn number(value: &Value) -> i64 {
    text(value).parse().unwrap_or(0)
}
