# Set-up shared by the scripts: sourced, not run. Says what it installs before it does.

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else
        echo "This needs root, and there is no sudo. Run as root: $*" >&2
        return 1
    fi
}

# Installs the first of the given packages that the system's package manager has.
install_one_of() {
    if command -v apt-get >/dev/null 2>&1; then
        as_root apt-get update -qq
        for package in "$@"; do
            if apt-cache show "$package" >/dev/null 2>&1; then
                as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" >/dev/null
                return
            fi
        done
    elif command -v dnf >/dev/null 2>&1; then
        for package in "$@"; do as_root dnf install -y -q "$package" && return; done
    elif command -v apk >/dev/null 2>&1; then
        for package in "$@"; do as_root apk add -q "$package" && return; done
    elif command -v pacman >/dev/null 2>&1; then
        for package in "$@"; do as_root pacman -S --noconfirm -q "$package" && return; done
    elif command -v brew >/dev/null 2>&1; then
        for package in "$@"; do brew install -q "$package" && return; done
    fi
    echo "Could not install any of: $*. Install one by hand and run this again." >&2
    return 1
}

need_rust() {
    if ! command -v cargo >/dev/null 2>&1 && [ -r "$HOME/.cargo/env" ]; then . "$HOME/.cargo/env"; fi
    if ! command -v cargo >/dev/null 2>&1; then
        echo "Rust is not installed (no cargo on PATH). Install Rust 1.95 or newer: https://rustup.rs" >&2
        exit 1
    fi
    if ! command -v cc >/dev/null 2>&1; then
        echo "== No C compiler found: installing one (some libraries compile C)"
        install_one_of build-essential gcc base-devel
    fi
    if ! command -v pkg-config >/dev/null 2>&1; then
        echo "== No pkg-config found: installing it (it finds the system's OpenSSL)"
        install_one_of pkg-config pkgconf pkgconf-pkg-config
    fi
    # Some of the SAL libraries use the system's TLS.
    if ! pkg-config --exists openssl; then
        echo "== No OpenSSL headers found: installing them"
        install_one_of libssl-dev openssl-devel openssl-dev openssl
    fi
}

# Some tests set the wall clocks of processes. Where that cannot be had, they say that they skip.
want_faketime() {
    for library in /usr/lib/*/faketime/libfaketimeMT.so.1 /usr/lib*/faketime/libfaketimeMT.so.1 /usr/local/lib/faketime/libfaketimeMT.so.1; do
        if [ -e "$library" ]; then return; fi
    done
    echo "== No libfaketime found: installing it (tests set the clocks of processes with it)"
    install_one_of libfaketime || echo "== The tests of clocks that jump are skipped"
}

need_redis() {
    PATH="$PATH:/usr/sbin:/usr/local/bin"
    if command -v valkey-server >/dev/null 2>&1 || command -v redis-server >/dev/null 2>&1; then return; fi
    echo "== No Redis server found: installing redis-server or valkey by the system's package manager"
    # Debian starts a server of its own after the installation; Horus needs the program only.
    if [ -d /usr/sbin ] && [ ! -e /usr/sbin/policy-rc.d ] && command -v apt-get >/dev/null 2>&1; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee /usr/sbin/policy-rc.d >/dev/null
        as_root chmod +x /usr/sbin/policy-rc.d
        policy_made=1
    fi
    status=0
    install_one_of redis-server valkey-server valkey redis || status=$?
    [ -z "${policy_made:-}" ] || as_root rm -f /usr/sbin/policy-rc.d
    [ "$status" = 0 ] || exit "$status"
}
