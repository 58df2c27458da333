//! CCP: what a look-up through the adapter costs beside a plain HTTPS GET over one kept connection.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{anyhow, ensure};
use bytes::Bytes;
use http::Request;
use http::header::HOST;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use midward_core::{BootTime, Clock, SystemClock, SystemRandom};
use midward_fakes::tls::{Ca, Tls};
use midward_fakes::vault::ccp::{Ccp, CcpConfig};
use midward_fakes::vault::{Account, Application, Vault, VaultConfig};
use midward_net::{WayConfig, WayOut};
use midward_resolvers::{Lookup, Resolver, ResolverContext, build};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::dispatch::median;
use crate::report::Figure;

const DEADLINE: Duration = Duration::from_secs(10);
const ROUNDS: usize = 5;
const CALLS: usize = 2000;
const PATH: &str = "/AIMWebService/api/Accounts?AppID=App&Safe=Apps&Folder=Root&Object=crm";

/// On a worker of the runtime with a timer that is always pending, as in the MID: the wake-ups between threads, which a
/// call from outside the runtime costs, would be counted otherwise.
pub(crate) async fn measure() -> anyhow::Result<Vec<Figure>> {
    let timer = tokio::spawn(async {
        let mut interval = tokio::time::interval(Duration::from_secs(1));
        loop {
            interval.tick().await;
        }
    });
    let figures = tokio::spawn(compare()).await;
    timer.abort();
    figures?
}

async fn compare() -> anyhow::Result<Vec<Figure>> {
    let folder = tempfile::tempdir()?;
    let ca = Arc::new(Ca::generate("CCP CA")?);
    std::fs::write(folder.path().join("ca.pem"), ca.pem())?;
    let vault = Vault::start(VaultConfig {
        applications: vec![Application::new("App", &["Apps"])],
        accounts: vec![Account::new("Apps", "crm", "client-1", "secret-1")],
        ..VaultConfig::default()
    })?;
    let ccp = Ccp::start(&vault, CcpConfig { tls: Tls::Server(Arc::clone(&ca)), ..CcpConfig::default() })?;
    let way = WayConfig { ca_file: Some("ca.pem".into()), ..WayConfig::default() };
    let config =
        toml::from_str(&format!("kind = 'cyberark_ccp'\nurl = '{}'\napp_id = 'App'\nsafe = 'Apps'", ccp.url()))?;
    let context = ResolverContext {
        mid_name: "bench".to_owned(),
        jar_host_dir: folder.path().to_owned(),
        state_dir: folder.path().to_owned(),
        trampoline: Vec::new(),
        java: "/usr/bin/java".into(),
        vaults: WayOut::new(&way, folder.path())?,
        clock: Arc::new(SystemClock),
        random: Arc::new(SystemRandom),
    };
    let resolver = build("ccp", &config, &context);
    let mut plain = Plain::connect(&ca, ccp.port()).await?;

    let (mut ours, mut theirs, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=ROUNDS {
        let (mut adapter, mut direct) = (Vec::with_capacity(CALLS), Vec::with_capacity(CALLS));
        for _ in 0..CALLS {
            let started = SystemClock.boot();
            look_up(&*resolver).await?;
            adapter.push(micros(started));
            let started = SystemClock.boot();
            plain.get().await?;
            direct.push(micros(started));
        }
        let (adapter, direct) = (median(adapter), median(direct));
        ours.push(adapter);
        theirs.push(direct);
        ratios.push(adapter / direct);
    }
    // The first round opens connections and warms caches.
    let late = |values: Vec<f64>| median(values.into_iter().skip(1).collect());
    Ok(vec![
        Figure::lower("CCP look-up over a plain HTTPS GET, p50", "x", late(ratios), 1.1)
            .beside("look-up, us", late(ours))
            .beside("plain GET, us", late(theirs)),
    ])
}

async fn look_up(resolver: &dyn Resolver) -> anyhow::Result<()> {
    let lookup = Lookup { credential_id: "crm".to_owned(), address: None, fresh: false };
    resolver.resolve(&lookup, DEADLINE).await.map_err(|error| anyhow!("{error}"))?;
    Ok(())
}

/// One kept connection, and no library between it and the bytes but HTTP and TLS.
struct Plain {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Plain {
    async fn connect(ca: &Ca, port: u16) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.set_nodelay(true)?;
        let stream = TlsConnector::from(ca.client_config()?).connect("localhost".try_into()?, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host: format!("localhost:{port}") })
    }

    async fn get(&mut self) -> anyhow::Result<()> {
        self.sender.ready().await?;
        let request = Request::get(PATH).header(HOST, &self.host).body(Full::new(Bytes::new()))?;
        let response = self.sender.send_request(request).await?;
        ensure!(response.status().is_success(), "the CCP answered {}", response.status());
        let body = response.into_body().collect().await?.to_bytes();
        ensure!(body.windows(8).any(|part| part == b"secret-1"), "no account in the answer");
        Ok(())
    }
}

fn micros(started: BootTime) -> f64 {
    SystemClock.boot().saturating_since(started).as_secs_f64() * 1e6
}
