//! What `horus up` makes of what it is given, and whom it tells.

use horus_tests::{Horus, House, TestRedis};

const SECRET: &str = "no-word-for-others";

/// A Redis that wants a password, and its address with it.
fn guarded() -> (TestRedis, String) {
    let redis = TestRedis::start();
    let mut connection = redis.connection();
    redis::cmd("CONFIG").arg(&["SET", "requirepass", SECRET]).exec(&mut connection).unwrap();
    let url = format!("redis://:{SECRET}@127.0.0.1:{}", redis.port());
    (redis, url)
}

/// What the system shows of all that `up` has started: `cmdline` or `environ`.
fn shown(house: &House, what: &str) -> String {
    let roles = house.roles();
    assert_eq!(roles.iter().filter(|(name, _)| name != "redis").count(), 6, "{roles:?}");
    roles.iter().map(|(_, pid)| std::fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap()).collect()
}

#[test]
fn the_password_of_redis_is_on_no_command_line_and_not_in_the_ready_line() {
    let (_redis, url) = guarded();
    let house = House::start_with(&["--redis-url", &url]);
    assert!(!shown(&house, "cmdline").contains(SECRET), "{}", shown(&house, "cmdline"));
    assert!(!house.ready.redis_url.contains(SECRET), "{}", house.ready.redis_url);
    assert!(house.ready.redis_url.contains("127.0.0.1"), "{}", house.ready.redis_url);
}

#[test]
fn a_user_with_a_passphrase_is_trusted_without_it_and_no_role_gets_it() {
    let (redis, url) = guarded();
    let dir = tempfile::tempdir().unwrap();
    let keys = dir.path().join("keys").display().to_string();
    let with = |passphrase: &str| Horus { env: vec![("HORUS_PASSPHRASE".into(), passphrase.into())] };
    with("right").run(&["keys", "generate", "--dir", &keys, "--passphrase"]).ok();
    let env = [("HORUS_IDENTITY", keys.as_str()), ("HORUS_PASSPHRASE", "wrong"), ("HORUS_REDIS_URL", &url)];
    let house = House::start_in(&env, &[]);
    assert!(!shown(&house, "environ").contains("HORUS_PASSPHRASE"));
    // The variable stands for --redis-url: no server of its own was started.
    assert!(house.ready.redis_url.ends_with(&format!(":{}", redis.port())), "{}", house.ready.redis_url);
    assert!(!house.data_dir().join("redis").exists());
}

#[test]
fn a_hero_command_is_looked_up_on_the_path() {
    let house = House::start_with(&["--hero-cli", "true"]);
    let done = house.run(&["job", "run", "--runner", "hero", "--payload", "!!any.thing", "--json"]).ok().json();
    assert_eq!(done["status"], "succeeded", "{done}");
}

#[test]
fn a_data_directory_that_no_address_can_name_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["d%20x", "d?x", "d#x"] {
        let data = dir.path().join(name);
        let flags = ["--data-dir", data.to_str().unwrap(), "--mesh", "off", "--supervisor-port", "0"];
        let me = dir.path().join("me").display().to_string();
        let horus = Horus { env: vec![("HORUS_IDENTITY".into(), me)] };
        let outcome = horus.run(&[&["up", "--coordinator-port", "0"], &flags[..]].concat());
        assert_eq!(outcome.code, 2, "{name}: {outcome:?}");
        assert!(outcome.stderr.contains("--data-dir"), "{outcome:?}");
        assert!(!data.exists(), "nothing was made");
    }
}
