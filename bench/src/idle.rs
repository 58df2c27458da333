//! What a thousand MIDs cost their instance that have nothing to do. Each has an identity that was enrolled, keeps its
//! connections, its long poll and its token, and sends heartbeats and asks for checkpoints as `midward-mid` does; all of
//! them are in this process.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use midward_core::{Clock, SystemClock, SystemRandom, new_id};
use midward_demo::stack::Programs;
use midward_net::{AddressGuard, SendOptions, WayConfig, WayOut};
use serde_json::{Value, json};
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use crate::dispatch::median;
use crate::report::Figure;
use crate::stack::Bench;
use crate::usage::{cpu_time, resident_kib};

const MIDS: u32 = 1000;
/// Enrolled at one time.
const AT_ONCE: usize = 16;
/// Until every poll and every token is of the steady kind.
const SETTLE: Duration = Duration::from_secs(10);
const ROUNDS: usize = 3;
const SPAN: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(3);
/// A token is asked for anew when four fifths of its five minutes are over.
const TOKEN: Duration = Duration::from_secs(240);
const CHECKPOINTS: Duration = Duration::from_mins(1);
const POLL_MS: u64 = 25_000;

/// On one database after the other. What PostgreSQL itself takes is not counted.
pub(crate) async fn measure(programs: &Programs) -> anyhow::Result<Vec<Figure>> {
    let mut figures = measure_on("SQLite", Bench::start_with_tls(programs, false).await?).await?;
    figures.extend(measure_on("PostgreSQL", Bench::start_with_tls(programs, true).await?).await?);
    Ok(figures)
}

async fn measure_on(database: &str, bench: Bench) -> anyhow::Result<Vec<Figure>> {
    let instance = Arc::new(Instance {
        url: format!("https://{}", bench.stack.api_addr),
        authorization: bench.stack.authorization()?,
        ca: bench.stack.folder.join("instance-data/ca.pem"),
    });
    let pid = bench.stack.instance.as_ref().and_then(midward_demo::process::Daemon::pid).context("no instance")?;
    let sent = Arc::new(AtomicU64::new(0));
    let mut fleet = JoinSet::new();
    let ready = Arc::new(Barrier::new(MIDS as usize + 1));
    let enrolling = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
    for number in 0..MIDS {
        let (instance, ready, sent) = (Arc::clone(&instance), Arc::clone(&ready), Arc::clone(&sent));
        let enrolling = Arc::clone(&enrolling);
        fleet.spawn(async move {
            let mid = {
                let _turn = enrolling.acquire().await?;
                Mid::enroll(&instance, number).await?
            };
            ready.wait().await;
            mid.live(number, &sent).await
        });
    }
    tokio::select! {
        _ = ready.wait() => {}
        ended = fleet.join_next() => failed(ended)?,
    }
    let watched = async {
        tokio::time::sleep(SETTLE).await;
        let (mut cpu, mut resident) = (Vec::new(), 0);
        for _ in 0..ROUNDS {
            let (before, start) = (cpu_time(pid)?, SystemClock.boot());
            tokio::time::sleep(SPAN).await;
            let took = SystemClock.boot().saturating_since(start);
            cpu.push((cpu_time(pid)?.saturating_sub(before)).as_secs_f64() / took.as_secs_f64() * 100.0);
            resident = resident.max(resident_kib(pid)?);
        }
        anyhow::Ok((median(cpu), resident))
    };
    let (cpu, resident) = tokio::select! {
        watched = watched => watched?,
        ended = fleet.join_next() => return failed(ended).map(|()| Vec::new()),
    };
    fleet.shutdown().await;
    #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
    let (mib, per_second) = (
        resident as f64 / 1024.0,
        sent.load(Ordering::Relaxed) as f64 / (SETTLE + SPAN * u32::try_from(ROUNDS)?).as_secs_f64(),
    );
    Ok(vec![
        Figure::lower(&format!("{database}, 1,000 idle MIDs: CPU of the instance"), "% of a core", cpu, 5.0)
            .beside("messages a second", per_second),
        Figure::lower(&format!("{database}, 1,000 idle MIDs: its resident memory"), "MiB", mib, 200.0),
    ])
}

/// A MID of the fleet ends only when something went wrong.
fn failed(ended: Option<Result<anyhow::Result<()>, tokio::task::JoinError>>) -> anyhow::Result<()> {
    ended.context("there is no MID")???;
    bail!("a MID has ended")
}

struct Instance {
    url: String,
    authorization: String,
    ca: std::path::PathBuf,
}

struct Mid {
    id: String,
    key: Ed25519KeyPair,
    incarnation: String,
    url: String,
    /// With connections of its own, as a process of its own has.
    way: WayOut,
}

impl Mid {
    async fn enroll(instance: &Instance, number: u32) -> anyhow::Result<Self> {
        let way =
            WayOut::new(&WayConfig { ca_file: Some(instance.ca.clone()), ..WayConfig::default() }, Path::new("/"))?;
        let mut mid = Self {
            id: String::new(),
            key: Ed25519KeyPair::generate()?,
            incarnation: new_id(SystemClock.wall(), &SystemRandom),
            url: instance.url.clone(),
            way,
        };
        let name = format!("idle-{number}");
        let asked = json!({ "name": name, "prevalidated": true });
        let path = "/api/v1/mids/enroll-tokens";
        let answer = mid.send(Method::POST, path, &instance.authorization, asked.to_string()).await?;
        let token = answer["token"].as_str().and_then(|token| token.strip_prefix("mwe1.")).context("no token")?;
        let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token)?)?;
        let asked = json!({ "version": 1, "secret": token["secret"], "name": name,
                            "public_key": URL_SAFE_NO_PAD.encode(mid.key.public_key().as_ref()) });
        let answer = mid.send(Method::POST, "/mid/v1/enroll", "", asked.to_string()).await?;
        answer["mid_id"].as_str().context("no identifier")?.clone_into(&mut mid.id);
        Ok(mid)
    }

    /// Polls and sends heartbeats until something fails. MIDs that start at different times are spread over each period.
    async fn live(&self, number: u32, sent: &AtomicU64) -> anyhow::Result<()> {
        let share = |period: Duration| period * number / MIDS;
        let first = self.token().await?;
        let (token, tokens) = tokio::sync::watch::channel(first);
        let count = || sent.fetch_add(1, Ordering::Relaxed);
        let renew = async {
            let mut wait = share(TOKEN);
            loop {
                tokio::time::sleep(wait).await;
                token.send_replace(self.token().await?);
                count();
                wait = TOKEN;
            }
        };
        let beat = async {
            tokio::time::sleep(share(HEARTBEAT)).await;
            let message = json!({
                "version": 1, "incarnation": self.incarnation, "program_version": "0", "capacity": 64, "running": 0,
                "draining": false,
                "resolvers": [{ "name": "cyberark", "kind": "jar", "health": "ready" }]
            });
            let mut ticks = tokio::time::interval(HEARTBEAT);
            loop {
                ticks.tick().await;
                let token = tokens.borrow().clone();
                self.send(Method::POST, "/mid/v1/heartbeat", &token, message.to_string()).await?;
                count();
            }
        };
        let poll = async {
            let message = json!({ "version": 1, "incarnation": self.incarnation, "capacity": 64, "wait_ms": POLL_MS,
                                  "received_batch": 0 });
            tokio::time::sleep(share(Duration::from_millis(POLL_MS)).min(SETTLE)).await;
            loop {
                let token = tokens.borrow().clone();
                let answer = self.send(Method::POST, "/mid/v1/lease", &token, message.to_string()).await?;
                ensure!(answer["leases"].as_array().is_some_and(Vec::is_empty), "there was work");
                count();
            }
        };
        let mirror = async {
            let mut wait = share(CHECKPOINTS);
            loop {
                tokio::time::sleep(wait).await;
                let token = tokens.borrow().clone();
                self.send(Method::GET, "/mid/v1/audit/checkpoints", &token, String::new()).await?;
                count();
                wait = CHECKPOINTS;
            }
        };
        let ended: anyhow::Result<std::convert::Infallible> = tokio::select! {
            ended = renew => ended,
            ended = beat => ended,
            ended = poll => ended,
            ended = mirror => ended,
        };
        match ended.with_context(|| format!("MID {number}")) {
            Err(error) => Err(error),
        }
    }

    /// A token of the instance's own endpoint (RFC 7523), as the value of an Authorization header.
    async fn token(&self) -> anyhow::Result<String> {
        let now = SystemClock.wall().unix_seconds();
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let claims = json!({ "iss": self.id, "sub": self.id, "aud": format!("{}/mid/v1/token", self.url), "iat": now,
                             "exp": now + 60, "jti": new_id(SystemClock.wall(), &SystemRandom) });
        let input = format!("{}.{}", part(json!({ "alg": "EdDSA", "typ": "JWT" })), part(claims));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(input.as_bytes()).as_ref());
        let form = format!(
            "grant_type=client_credentials&client_assertion_type=urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type\
             %3Ajwt-bearer&client_assertion={input}.{signature}"
        );
        let answer = self.send(Method::POST, "/mid/v1/token", "", form).await?;
        Ok(format!("Bearer {}", answer["access_token"].as_str().context("no token")?))
    }

    async fn send(&self, method: Method, path: &str, authorization: &str, body: String) -> anyhow::Result<Value> {
        let kind = if path.ends_with("/token") { "application/x-www-form-urlencoded" } else { "application/json" };
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        request = request.header(header::CONTENT_TYPE, kind);
        if !authorization.is_empty() {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let options = SendOptions {
            deadline: Duration::from_secs(40),
            max_body: 1024 * 1024,
            guard: AddressGuard::new(["127.0.0.0/8".parse()?]),
        };
        let answer = self.way.send(request.body(Bytes::from(body))?, &options).await?;
        let (status, body) = (answer.status(), answer.into_body());
        ensure!(
            matches!(status, StatusCode::OK | StatusCode::CREATED),
            "{path} answered {status}: {}",
            String::from_utf8_lossy(&body)
        );
        Ok(serde_json::from_slice(&body)?)
    }
}
