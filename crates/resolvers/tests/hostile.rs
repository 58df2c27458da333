//! A JAR that tries to leave its sandbox, beside a resolver that must not notice.

mod support;

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use midward_resolvers::{Resolver, ResolverReport, build};
use support::{Bench, failed, resolved};

/// A hostile resolver's bench, with its neighbour.
struct Cell {
    bench: Bench,
    neighbour: Arc<dyn Resolver>,
    neighbours_process: String,
}

impl Cell {
    async fn new() -> Self {
        let bench = Bench::new();
        let neighbour = bench.class("Moody", "");
        let neighbours_process = resolved(&*neighbour, "n").await.0;
        Self { bench, neighbour, neighbours_process }
    }

    fn hostile(&self, target: &str, more: &str) -> Arc<dyn Resolver> {
        self.bench.resolver(&self.section(target, more))
    }

    fn section(&self, target: &str, more: &str) -> String {
        format!(
            "kind = 'jar'\njar = '{}'\nclass = 'jars.Hostile'\nparameters = {{ 'ext.cred.target' = '''{target}''' }}\n{more}",
            self.bench.jars.tests().display()
        )
    }

    /// What came of an attempt, a line for each line of the target; the neighbour is asked after each.
    async fn attempt(&self, what: &str, target: &str, more: &str) -> String {
        let outcome = resolved(&*self.hostile(target, more), what).await.0;
        let process = resolved(&*self.neighbour, "n").await.0;
        assert_eq!(process, self.neighbours_process, "the neighbour is the same process as before {what} {target}");
        outcome
    }

    async fn refused(&self, what: &str, target: &str, more: &str) {
        let outcome = self.attempt(what, target, more).await;
        let sounds_like_it = ["AccessDenied", "Permission denied", "Operation not permitted", "NotPermitted"];
        for (line, target) in outcome.lines().zip(target.lines().chain([""])) {
            let refused = line.starts_with("refused ") && sounds_like_it.iter().any(|text| line.contains(text));
            assert!(refused, "{what} {target}: {line}");
        }
        assert_eq!(outcome.lines().count(), target.lines().count().max(1), "{outcome}");
    }

    async fn done(&self, what: &str, target: &str, more: &str) -> String {
        let outcome = self.attempt(what, target, more).await;
        let done = outcome.strip_prefix("did ").map(str::to_owned);
        done.unwrap_or_else(|| panic!("{what} {target}: {outcome}"))
    }

    fn file(&self, name: &str) -> String {
        let path = self.bench.folder.path().join(name);
        std::fs::write(&path, "private").expect("written");
        path.display().to_string()
    }
}

/// A process of the same user, ended with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().expect("killed");
        self.0.wait().expect("reaped");
    }
}

#[tokio::test]
async fn files_of_the_mids_user_are_out_of_reach() {
    let cell = Cell::new().await;
    let private = cell.file("private");
    let paths = format!("/etc/shadow\n{private}\n/proc/self/root{private}\n/proc/self/cwd/../../../../private");
    cell.refused("read", &paths, "").await;
    cell.refused("write", &private, "").await;
    cell.refused("write", "/tmp/of-a-jar", "").await;
    let state = cell.bench.context().state_dir;
    assert!(cell.attempt("list", state.to_str().expect("path"), "").await.starts_with("refused "));
    let neighbours = state.join("vault/jars").read_dir().expect("copies").next().expect("one").expect("entry").path();
    assert!(neighbours.join("resolver.jar").exists());

    assert_eq!(cell.done("read", &private, &format!("readable_paths = ['{private}']")).await, "private");
    cell.refused("write", &private, &format!("readable_paths = ['{private}']")).await;
    let folder = cell.bench.folder.path().join("writable");
    std::fs::create_dir(&folder).expect("folder");
    let file = folder.join("f").display().to_string();
    cell.done("write", &file, &format!("writable_paths = ['{}']", folder.display())).await;
    assert!(Path::new(&file).exists());
}

#[tokio::test]
async fn its_own_jar_cannot_be_changed_but_temporary_files_can() {
    let cell = Cell::new().await;
    for what in ["write-own-jar", "replace-own-jar", "add-beside-own-jar"] {
        cell.refused(what, "", "").await;
    }
    let resolver = cell.hostile("", "");
    let made = resolved(&*resolver, "temporary").await.0;
    let made = Path::new(made.strip_prefix("did ").expect("made"));
    assert!(made.starts_with(cell.bench.context().state_dir), "a folder of its own: {}", made.display());
    assert!(made.exists());
    resolver.shut_down().await;
    let gone = async {
        while made.parent().is_some_and(Path::exists) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(5), gone).await.expect("temporary files end with the process");
}

#[tokio::test]
async fn other_processes_are_out_of_reach() {
    let cell = Cell::new().await;
    let java = Command::new("/usr/bin/java")
        .arg("-cp")
        .arg(cell.bench.jars.tests())
        .arg("jars.Hostile$Victim")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("java");
    let mut victim = Process(java);
    let mut up = String::new();
    BufReader::new(victim.0.stdout.take().expect("stdout")).read_line(&mut up).expect("a line");
    assert_eq!(up, "up\n");
    let pid = victim.0.id().to_string();
    let neighbour = cell.neighbours_process.rsplit('@').next().expect("pid").to_owned();
    let pids = [pid.clone(), neighbour, std::process::id().to_string()];
    let files = ["environ", "cmdline", "maps", "fd/0", "root/etc/shadow"];
    let paths = pids.iter().flat_map(|pid| files.iter().map(move |file| format!("/proc/{pid}/{file}")));
    cell.refused("read", &paths.collect::<Vec<_>>().join("\n"), "").await;
    cell.refused("read-proc-mem", &pids.join("\n"), "").await;
    let attached = cell.attempt("attach", &pid, "").await;
    assert!(attached.starts_with("refused "), "{attached}");
    let killed = cell.done("shell", &format!("kill -9 {pid}"), "executables = ['/bin/sh']").await;
    assert!(killed.starts_with("1 ") && killed.contains("not permitted"), "{killed}");
    let killed = cell.done("shell", &format!("kill -0 {}", std::process::id()), "executables = ['/bin/sh']").await;
    assert!(killed.contains("not permitted"), "{killed}");
    assert_eq!(victim.0.try_wait().expect("asked"), None, "the other process lives");
    // Its own children obey.
    assert_eq!(cell.done("stop-child", "", "executables = ['/bin/sleep']").await, "137");
}

#[tokio::test]
async fn nobody_attaches_to_a_jars_process_and_its_end_leaves_no_memory_behind() {
    let cell = Cell::new().await;
    // What the sandbox would keep from being written is to be left out by the JVM itself.
    let resolver = cell.bench.class("Moody", "sandbox = 'off'");
    let process = resolved(&*resolver, "n").await.0;
    let pid = process.rsplit('@').next().expect("pid").to_owned();
    let options = ["-J-Dsun.tools.attach.attachTimeout=1000", &pid, "VM.version"];
    let attached = Command::new("jcmd").args(options).output().expect("a JDK's jcmd");
    let said = String::from_utf8_lossy(&attached.stderr);
    assert!(!attached.status.success() && said.contains("AttachNotSupportedException"), "{attached:?}");
    assert_eq!(resolved(&*resolver, "n").await.0, process, "the same process as before");
    for (how, code) in [("memory", "resolver_out_of_memory"), ("native crash", "resolver_crashed")] {
        assert_eq!(failed(&*resolver, how).await.code, code);
        let answered = resolved(&*resolver, "n").await.0;
        assert_ne!(answered, process, "it was replaced after {how}");
        let state = cell.bench.context().state_dir;
        let list =
            Command::new("/usr/bin/find").arg(&state).args(["-type", "f", "-size", "+0"]).output().expect("find");
        let list = String::from_utf8(list.stdout).expect("paths");
        assert!(list.contains("resolver.jar"), "{list}");
        for dump in ["hprof", "hs_err", "core"] {
            assert!(!list.contains(dump), "{how}: {list}");
        }
    }
}

#[tokio::test]
async fn only_listed_programs_start() {
    let cell = Cell::new().await;
    cell.refused("run", "/bin/ls", "").await;
    cell.refused("shell", "true", "").await;
    cell.refused("run", "/usr/lib/git-core/git --version", "executables = ['/bin/sh']").await;
    cell.refused("run-from-temporary", "", "executables = ['/bin/sh']").await;
    assert_eq!(cell.done("run", "/bin/echo hello", "executables = ['/bin/echo']").await, "0 hello");
    let inside = cell.done("shell", "cat /etc/shadow", "executables = ['/bin/sh', '/bin/cat']").await;
    assert!(inside.contains("Permission denied"), "a program that it starts is in the same sandbox: {inside}");
}

#[tokio::test]
async fn the_network_is_closed_but_for_listed_ports() {
    let cell = Cell::new().await;
    let servers = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("bound"));
    let [listed, other] = servers.each_ref().map(|server| server.local_addr().expect("address").port());
    let listing = format!("connect_ports = [{listed}]");
    assert_eq!(cell.done("tcp", &listed.to_string(), &listing).await, "connect");
    for more in ["", listing.as_str()] {
        cell.refused("tcp", &other.to_string(), more).await;
        cell.refused("bind", "", more).await;
        cell.refused("udp", &listed.to_string(), more).await;
    }
    let udp = UdpSocket::bind("127.0.0.1:0").expect("bound");
    udp.set_read_timeout(Some(Duration::from_secs(5))).expect("time-out");
    let port = udp.local_addr().expect("address").port().to_string();
    assert_eq!(cell.done("udp", &port, "udp = true").await, "send");
    assert_eq!(udp.recv(&mut [0; 8]).expect("received"), 1);
    cell.refused("tcp", &other.to_string(), "udp = true").await;

    let path = cell.bench.folder.path().join("admin.sock");
    let _server = UnixListener::bind(&path).expect("bound");
    let path = path.to_str().expect("path");
    cell.refused("unix", path, "").await;
    cell.refused("unix", path, "udp = true").await;
    assert_eq!(cell.done("unix", path, "unix_sockets = true").await, "connect");
}

/// A server on every address of the host that says its name to whoever connects.
fn speaker() -> u16 {
    let server = TcpListener::bind("0.0.0.0:0").expect("bound");
    let port = server.local_addr().expect("address").port();
    std::thread::spawn(move || {
        for stream in server.incoming() {
            stream.expect("a connection").write_all(b"hello").expect("written");
        }
    });
    port
}

#[tokio::test]
async fn a_listed_host_and_port_are_all_of_its_network() {
    let cell = Cell::new().await;
    let (listed, other) = (speaker(), speaker());
    for host in ["127.0.0.1", "localhost"] {
        let listing = format!("connect = ['{host}:{listed}']");
        assert_eq!(cell.done("tcp-to", &format!("{host}:{listed}"), &listing).await, "hello");
        // The server listens on these, too.
        for elsewhere in [format!("127.0.0.2:{listed}"), format!("{host}:{other}"), format!("127.0.0.1:{other}")] {
            let outcome = cell.attempt("tcp-to", &elsewhere, &listing).await;
            assert!(outcome.starts_with("refused "), "{elsewhere}: {outcome}");
        }
        let unknown = cell.attempt("tcp-to", &format!("other.example:{listed}"), &listing).await;
        assert!(unknown.starts_with("refused java.net.UnknownHostException"), "{unknown}");
        cell.refused("udp", &listed.to_string(), &listing).await;
        cell.refused("bind", "", &listing).await;
        let path = cell.bench.folder.path().join(format!("{host}.sock"));
        let _server = UnixListener::bind(&path).expect("bound");
        cell.refused("unix", path.to_str().expect("path"), &listing).await;
    }
    // An address that is not the host's own gets a way as well, to where it leads.
    let listing = format!("connect = ['127.0.0.1:{listed}', '10.98.76.54:{listed}']");
    assert_eq!(cell.done("tcp-to", &format!("127.0.0.1:{listed}"), &listing).await, "hello");
    let mixed = failed(&*cell.hostile("", &format!("{listing}\nudp = true")), "x").await;
    assert_eq!(mixed.code, "connect_mixed");
}

#[tokio::test]
async fn a_kernel_without_namespaces_serves_whoever_needs_no_network_of_its_own() {
    let cell = Cell::new().await;
    let port = speaker();
    let mut context = cell.bench.context();
    context.trampoline.push("--without-namespaces".into());
    let make = |target: &str, more: &str| {
        build("no-namespaces", &toml::from_str(&cell.section(target, more)).expect("configuration"), &context)
    };
    for mode in ["required", "best_effort"] {
        let listing = format!("sandbox = '{mode}'\nconnect = ['127.0.0.1:{port}']");
        let failure = failed(&*make("", &listing), "tcp").await;
        assert_eq!(failure.code, "sandbox_unavailable", "never more than was asked for: {failure}");
        assert!(failure.detail.contains("namespaces"), "{failure}");
    }
    let closed = make(&port.to_string(), "");
    for what in ["tcp", "udp", "bind"] {
        assert!(resolved(&*closed, what).await.0.starts_with("refused "), "{what}");
    }
}

#[tokio::test]
async fn an_old_landlock_is_enough_where_something_else_covers_what_it_lacks() {
    let cell = Cell::new().await;
    let (port, private) = (speaker(), cell.file("private"));
    let mut context = cell.bench.context();
    context.trampoline.extend(["--landlock-abi".into(), "1".into()]);
    let make = |target: &str, more: &str| {
        build("old-landlock", &toml::from_str(&cell.section(target, more)).expect("configuration"), &context)
    };
    let listing = format!("connect = ['127.0.0.1:{port}']");
    assert_eq!(resolved(&*make(&format!("127.0.0.1:{port}"), &listing), "tcp-to").await.0, "did hello");
    assert!(resolved(&*make(&format!("127.0.0.2:{port}"), &listing), "tcp-to").await.0.starts_with("refused "));
    assert!(resolved(&*make(&private, ""), "read").await.0.starts_with("refused "));
    let perl = format!("readable_paths = ['{private}']\nexecutables = ['/usr/bin/perl', '/bin/sh']");
    let shortened = resolved(&*make(&private, &perl), "shorten").await.0;
    assert_eq!(shortened, "did 1 Operation not permitted");
    assert_eq!(std::fs::read_to_string(&private).expect("read"), "private");
    let signal = format!("kill -0 {}", std::process::id());
    assert!(resolved(&*make(&signal, &perl), "shell").await.0.contains("not permitted"));
    let neighbour = cell.neighbours_process.rsplit('@').next().expect("pid").to_owned();
    assert!(resolved(&*make(&neighbour, ""), "read-proc-mem").await.0.starts_with("refused "));
    // Nothing else knows ports, or keeps abstract Unix sockets apart on the host's network.
    for (more, lacking) in [("connect_ports = [443]", "ABI 4"), ("unix_sockets = true\nudp = true", "ABI 6")] {
        let failure = failed(&*make("", more), "x").await;
        assert_eq!(failure.code, "sandbox_unavailable");
        assert!(failure.detail.contains(lacking), "{failure}");
    }
}

#[tokio::test]
async fn a_kernel_that_cannot_isolate_makes_the_resolver_unusable_unless_configured() {
    let cell = Cell::new().await;
    let mut context = cell.bench.context();
    context.trampoline.push("--without-landlock".into());
    let private = cell.file("private");
    let make = |more: &str| {
        build("old-kernel", &toml::from_str(&cell.section(&private, more)).expect("configuration"), &context)
    };
    let required = make("");
    let failure = failed(&*required, "read").await;
    assert_eq!(failure.code, "sandbox_unavailable");
    assert!(failure.detail.contains("built without Landlock"), "{failure}");
    assert_eq!(required.report(), ResolverReport::Unusable(failure.detail));
    // What else there is stays on.
    let effort = make("sandbox = 'best_effort'");
    assert_eq!(resolved(&*effort, "read").await.0, "did private");
    assert!(resolved(&*effort, "bind").await.0.starts_with("refused "));
    let off = make("sandbox = 'off'");
    assert_eq!(resolved(&*off, "read").await.0, "did private");
    assert_eq!(resolved(&*off, "bind").await.0, "did bind");
}

#[tokio::test]
async fn a_java_that_is_a_script_says_what_it_needs() {
    use std::os::unix::fs::PermissionsExt as _;
    let cell = Cell::new().await;
    let java = cell.bench.folder.path().join("java");
    std::fs::write(&java, "#!/bin/sh\nexec /usr/bin/java \"$@\"\n").expect("written");
    std::fs::set_permissions(&java, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let java = format!("java = '{}'", java.display());
    let failure = failed(&*cell.hostile("/etc/hosts", &java), "read").await;
    assert_eq!(failure.code, "sandbox_unavailable", "{failure}");
    assert!(failure.detail.contains("interpreter"), "{failure}");
    // Links are followed: all of the JRE behind /usr/bin/java is named here.
    let home = std::fs::canonicalize("/usr/bin/java").expect("java");
    let home = home.parent().and_then(Path::parent).expect("a JRE").display().to_string();
    cell.done("read", "/etc/hosts", &format!("{java}\nexecutables = ['/bin/sh', '{home}']")).await;
}

#[tokio::test]
async fn a_path_must_be_absolute() {
    let cell = Cell::new().await;
    let failure = failed(&*cell.hostile("", "executables = ['sh']"), "read").await;
    assert_eq!(failure.code, "sandbox_path_relative");
}

#[tokio::test]
async fn a_user_of_its_own_reads_none_of_the_mids_files_even_without_a_sandbox() {
    use std::os::unix::fs::PermissionsExt as _;
    let cell = Cell::new().await;
    let open = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("mode");
    };
    let folder = cell.bench.folder.path();
    let private = folder.join("private");
    std::fs::write(&private, "of the MID").expect("written");
    open(&private, 0o600);
    // What the manual asks for; the JAR host's folder of an installation is open already.
    let host = folder.join("host");
    std::fs::create_dir_all(&host).expect("folder");
    for name in ["midward-jar-host.jar", "midward-mid-classes.jar"] {
        std::fs::copy(cell.bench.jars.host_dir().join(name), host.join(name)).expect("copied");
    }
    let context = midward_resolvers::ResolverContext { jar_host_dir: host, ..cell.bench.context() };
    let target = format!("/proc/self/status\n{}", private.display());
    for mode in ["required", "off"] {
        let more = format!("run_as = 'nobody'\nsandbox = '{mode}'");
        let config = toml::from_str(&cell.section(&target, &more)).expect("configuration");
        let resolver = build("hostile", &config, &context);
        if !rustix::process::geteuid().is_root() {
            assert!(failed(&*resolver, "read").await.detail.contains("runs as root"));
            return;
        }
        open(folder, 0o700);
        assert!(failed(&*resolver, "read").await.detail.contains("chmod 711"));
        for folder in [folder, &context.state_dir] {
            open(folder, 0o711);
        }
        let resolver = build("hostile", &config, &context);
        let outcome = resolved(&*resolver, "read").await.0;
        assert!(outcome.contains("Uid:\t65534\t65534\t65534\t65534\n"), "{mode}: {outcome}");
        assert!(outcome.contains("CapEff:\t0000000000000000\n"), "{mode}: {outcome}");
        let last = outcome.lines().last().unwrap_or_default();
        assert!(last.starts_with("refused ") && last.contains("AccessDenied"), "{mode}: {last}");
        let resolver = build("hostile", &toml::from_str(&cell.section("x", &more)).expect("configuration"), &context);
        assert!(resolved(&*resolver, "temporary").await.0.starts_with("did "), "{mode}");
    }
}
