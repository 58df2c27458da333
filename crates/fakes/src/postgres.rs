//! A real PostgreSQL server for tests: a throw-away cluster in a temporary folder, reached through a Unix socket and a
//! loopback port. It refuses to run as root, so under root it runs as `nobody`.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

/// The user and group that Debian calls nobody and nogroup.
const NOBODY: u32 = 65_534;

/// How many ports are tried.
const PORTS: usize = 3;

/// A running server; stopped and removed when dropped.
#[derive(Debug)]
pub struct Postgres {
    programs: PathBuf,
    data: PathBuf,
    port: u16,
    fsync: bool,
    databases: AtomicU32,
    folder: tempfile::TempDir,
}

impl Postgres {
    /// Makes a cluster and starts it: some seconds. It keeps the server's own durability (`fsync` on).
    ///
    /// # Errors
    /// The programs of the server (Debian's package `postgresql`) are missing, or do not do it.
    pub fn start() -> io::Result<Self> {
        Self::launch(true)
    }

    /// As [`Self::start`], without `fsync`: for tests that kill the server again and again. What a killed process wrote
    /// outlives it in the page cache, and no recovery syncs each file of the cluster.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_without_fsync() -> io::Result<Self> {
        Self::launch(false)
    }

    fn launch(fsync: bool) -> io::Result<Self> {
        let programs = programs()?;
        let folder = tempfile::Builder::new().prefix("mw-pg-").tempdir()?;
        let data = folder.path().join("data");
        if is_root() {
            chown(folder.path(), Some(NOBODY), Some(NOBODY))?;
        }
        let mut server = Self { programs, data, port: 0, fsync, databases: AtomicU32::new(0), folder };
        server.run("initdb", |command| {
            command.args([
                "--username=midward",
                "--auth=trust",
                "--no-sync",
                "--locale=C",
                "--encoding=UTF8",
                "--pgdata",
            ]);
            command.arg(&server.data);
        })?;
        // A port that was free may be somebody's connection by the time the server asks for it.
        let mut last = None;
        for _ in 0..PORTS {
            server.port = free_port()?;
            match server.resume() {
                Ok(()) => return Ok(server),
                Err(error) => last = Some(error),
            }
        }
        Err(last.unwrap_or_else(|| io::Error::other("no port was tried")))
    }

    /// The URL of a new, empty database.
    ///
    /// # Errors
    /// The server does not make it.
    pub fn new_database(&self) -> io::Result<String> {
        let name = format!("test{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let port = self.port.to_string();
        self.run("createdb", |command| {
            command.args(["--host=127.0.0.1", "--username=midward", "--port", &port, &name]);
        })?;
        Ok(format!("postgres://midward@127.0.0.1:{port}/{name}"))
    }

    /// The folder with all that the server writes: tables and write-ahead log.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Runs SQL in a database of [`Self::new_database`], behind everybody's back; tells what it printed.
    ///
    /// # Errors
    /// The server refuses it.
    pub fn sql(&self, database: &str, sql: &str) -> io::Result<String> {
        let output = self.run("psql", |command| {
            command.args(["--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set=ON_ERROR_STOP=1"]);
            command.args(["--dbname", database, "--command", sql]);
        })?;
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    /// Starts a server that was stopped.
    ///
    /// # Errors
    /// It does not start.
    pub fn resume(&self) -> io::Result<()> {
        let options = format!(
            "-c listen_addresses=127.0.0.1 -c port={} -c unix_socket_directories={} -c max_connections=200 \
             -c fsync={}",
            self.port,
            self.folder.path().display(),
            if self.fsync { "on" } else { "off" }
        );
        self.control(&["start", "--options", &options, "--log"], Some(&self.folder.path().join("log")))
    }

    /// Stops it as SIGKILL would: nothing is flushed, every connection is cut, recovery follows at the next start.
    ///
    /// # Errors
    /// It does not stop.
    pub fn crash(&self) -> io::Result<()> {
        self.control(&["stop", "--mode=immediate"], None)
    }

    fn control(&self, arguments: &[&str], log: Option<&Path>) -> io::Result<()> {
        self.run("pg_ctl", |command| {
            command.args(arguments).args(log).args(["--wait", "--silent", "--pgdata"]).arg(&self.data);
        })
        .map(drop)
    }

    fn run(&self, program: &str, arrange: impl FnOnce(&mut Command)) -> io::Result<Output> {
        let mut command = Command::new(self.programs.join(program));
        // What the caller's environment says of PostgreSQL is about other servers.
        command.env_clear().env("LC_ALL", "C").env("PATH", "/usr/bin:/bin").current_dir(self.folder.path());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        arrange(&mut command);
        // The started server would hold a pipe open for ever, so what it says goes to its log.
        let output: Output = if program == "pg_ctl" {
            let status = command.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null()).status()?;
            Output { status, stdout: Vec::new(), stderr: Vec::new() }
        } else {
            command.output()?
        };
        if output.status.success() {
            return Ok(output);
        }
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        Err(io::Error::other(format!("{program}: {}: {said}", output.status)))
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Its folder goes in any case; a server that is stopped already is no fault.
        let _ = self.crash();
    }
}

/// Debian keeps each version's programs in a folder of its own, out of `PATH`.
fn programs() -> io::Result<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|folder| folder.join("initdb").exists())
        .collect();
    found.sort();
    found.pop().ok_or_else(|| {
        io::Error::new(io::ErrorKind::NotFound, "no PostgreSQL server: install it with `scripts/setup.sh postgres`")
    })
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// Who owns our own process's entry is who runs it.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}
