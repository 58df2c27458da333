//! The way to an OpenTelemetry collector.

use std::fs::File;
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use ipnet::IpNet;
use midward_core::Secret;
use midward_telemetry::{BoxFuture, Collector, NotTaken, TelemetryConfig};
use url::{Host, Url};

use crate::{AddressGuard, ProxyConfig, SendOptions, WayConfig, WayError, WayOut};

/// For a whole exchange.
const DEADLINE: Duration = Duration::from_secs(10);
/// Most bytes of an answer.
const MAX_ANSWER: usize = 64 * 1024;
/// Longest wait that a collector can ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_mins(1);
const MAX_HEADERS_FILE: u64 = 16 * 1024;
/// Given by this client.
const OWN: [HeaderName; 3] = [CONTENT_TYPE, USER_AGENT, http::header::HOST];

/// Sends spans to one collector (OTLP/HTTP with JSON).
#[derive(Debug)]
pub struct CollectorWay {
    way: WayOut,
    endpoint: http::Uri,
    headers: HeaderMap,
    guard: AddressGuard,
}

/// `[telemetry]` cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CollectorError {
    #[error("{0}")]
    Setting(String),
    #[error(
        "endpoint must be http://host:port or https://host:port, perhaps with a path, without user, query or fragment"
    )]
    Endpoint,
    #[error("headers_file goes with https, or with a collector on this host: they would be readable on the way")]
    HeadersInClear,
    #[error("{path} cannot be read")]
    Read { path: PathBuf, source: std::io::Error },
    #[error("{path} can be read by others: chmod 600 it")]
    HeadersFileMode { path: PathBuf },
    #[error("{path}: line {line} is not `Name: value`, or names a header that is not yours to set")]
    HeadersFile { path: PathBuf, line: usize },
    #[error(transparent)]
    Way(#[from] WayError),
}

impl CollectorWay {
    /// `None` without an endpoint. Relative paths in `config` are below `base_dir`. Files are read now, and not again.
    pub fn new(config: &TelemetryConfig, base_dir: &Path) -> Result<Option<Self>, CollectorError> {
        config.check().map_err(CollectorError::Setting)?;
        let Some(endpoint) = &config.endpoint else { return Ok(None) };
        let url = traces_url(endpoint)?;
        let headers = match &config.headers_file {
            None => HeaderMap::new(),
            Some(_) if url.scheme() != "https" && !is_this_host(&url) => return Err(CollectorError::HeadersInClear),
            Some(file) => read_headers(&base_dir.join(file))?,
        };
        let way = WayConfig {
            ca_file: config.ca_file.clone(),
            proxy: config.proxy.as_ref().map(|proxy| ProxyConfig {
                url: proxy.url.clone(),
                username: proxy.username.clone(),
                password_file: proxy.password_file.clone(),
            }),
            ..WayConfig::default()
        };
        // The operator's own choice, as the instance's address is.
        let any =
            [IpNet::new_assert(Ipv4Addr::UNSPECIFIED.into(), 0), IpNet::new_assert(Ipv6Addr::UNSPECIFIED.into(), 0)];
        Ok(Some(Self {
            way: WayOut::new(&way, base_dir)?,
            endpoint: url.as_str().parse().map_err(|_| CollectorError::Endpoint)?,
            headers,
            guard: AddressGuard::new(any),
        }))
    }
}

impl Collector for CollectorWay {
    fn post(&self, body: Bytes) -> BoxFuture<'_, Result<Bytes, NotTaken>> {
        Box::pin(async move {
            let mut request = Request::new(body);
            *request.method_mut() = Method::POST;
            *request.uri_mut() = self.endpoint.clone();
            request.headers_mut().clone_from(&self.headers);
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            let agent = HeaderValue::from_static(concat!("midward/", env!("CARGO_PKG_VERSION")));
            request.headers_mut().insert(USER_AGENT, agent);
            let options = SendOptions { deadline: DEADLINE, max_body: MAX_ANSWER, guard: self.guard.clone() };
            match self.way.send(request, &options).await {
                Ok(response) => judge(response),
                Err(error) => Err(NotTaken::ForNow { reason: error.to_string(), retry_after: None }),
            }
        })
    }
}

/// OTLP 1.x, "OTLP/HTTP Response": these may be tried again, nothing else.
fn judge(response: Response<Bytes>) -> Result<Bytes, NotTaken> {
    let status = response.status();
    if status.is_success() {
        return Ok(response.into_body());
    }
    let reason = format!("the collector answered {}", status.as_u16());
    match status {
        StatusCode::TOO_MANY_REQUESTS
        | StatusCode::BAD_GATEWAY
        | StatusCode::SERVICE_UNAVAILABLE
        | StatusCode::GATEWAY_TIMEOUT => {
            let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.trim().parse().ok());
            let retry_after = asked.map(|seconds| Duration::from_secs(seconds).min(MAX_RETRY_AFTER));
            Err(NotTaken::ForNow { reason, retry_after })
        }
        _ => Err(NotTaken::ForEver { reason }),
    }
}

fn traces_url(endpoint: &str) -> Result<Url, CollectorError> {
    let mut url = Url::parse(endpoint).map_err(|_| CollectorError::Endpoint)?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if !is_plain {
        return Err(CollectorError::Endpoint);
    }
    let path = url.path().trim_end_matches('/').to_owned();
    if !path.ends_with("/v1/traces") {
        url.set_path(&format!("{path}/v1/traces"));
    }
    Ok(url)
}

fn is_this_host(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name.eq_ignore_ascii_case("localhost"),
        None => false,
    }
}

/// A header a line; empty lines and those that begin with `#` are left out. No value is repeated in an error.
fn read_headers(path: &Path) -> Result<HeaderMap, CollectorError> {
    let read = |source| CollectorError::Read { path: path.to_owned(), source };
    let file = File::open(path).map_err(read)?;
    if file.metadata().map_err(read)?.mode() & 0o077 != 0 {
        return Err(CollectorError::HeadersFileMode { path: path.to_owned() });
    }
    // Enough room from the start, so that no unwiped copy is left behind by growing.
    let mut bytes = Vec::with_capacity(2 * 16 * 1024);
    file.take(MAX_HEADERS_FILE).read_to_end(&mut bytes).map_err(read)?;
    let text = Secret::new(bytes);
    let mut headers = HeaderMap::new();
    for (line, number) in text.expose().split(|byte| *byte == b'\n').zip(1..) {
        let line = line.trim_ascii();
        if line.is_empty() || line.starts_with(b"#") {
            continue;
        }
        let wrong = || CollectorError::HeadersFile { path: path.to_owned(), line: number };
        let colon = line.iter().position(|byte| *byte == b':').ok_or_else(wrong)?;
        let name = HeaderName::from_bytes(line[..colon].trim_ascii()).map_err(|_| wrong())?;
        let mut value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).map_err(|_| wrong())?;
        if OWN.contains(&name) || value.is_empty() {
            return Err(wrong());
        }
        value.set_sensitive(true);
        headers.append(name, value);
    }
    Ok(headers)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn config(text: &str) -> TelemetryConfig {
        toml::from_str(text).expect("a configuration")
    }

    #[test]
    fn the_endpoint_is_a_base_url() {
        for (endpoint, expected) in [
            ("http://c:4318", Some("http://c:4318/v1/traces")),
            ("https://c/otlp/", Some("https://c/otlp/v1/traces")),
            ("https://c/v1/traces", Some("https://c/v1/traces")),
            ("https://u:p@c", None),
            ("https://c/?key=x", None),
            ("grpc://c:4317", None),
            ("c:4318", None),
        ] {
            assert_eq!(traces_url(endpoint).ok().map(String::from).as_deref(), expected, "{endpoint}");
        }
        assert!(CollectorWay::new(&config(""), Path::new("/")).expect("legal").is_none());
    }

    #[test]
    fn headers_come_from_a_file_of_its_owner_and_are_never_shown() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("headers");
        let write = |text: &str, mode| {
            std::fs::write(&path, text).expect("written");
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("permissions");
        };
        let open = |endpoint: &str| {
            let config = config(&format!("endpoint = '{endpoint}'\nheaders_file = 'headers'"));
            CollectorWay::new(&config, dir.path()).map(|way| way.expect("an endpoint"))
        };
        assert!(matches!(open("https://c"), Err(CollectorError::Read { .. })));
        write("# for the collector\n\nAuthorization: Bearer canary\r\nx-org:  7\n", 0o600);
        let way = open("https://c").expect("good");
        assert_eq!(way.headers.len(), 2);
        assert_eq!(way.headers["authorization"].as_bytes(), b"Bearer canary");
        assert!(!format!("{way:?}").contains("canary"));
        assert!(open("http://127.0.0.1:4318").is_ok());
        assert!(matches!(open("http://c:4318"), Err(CollectorError::HeadersInClear)));
        for bad in ["canary", "a b: canary", "Host: canary", "content-type: canary", "x:"] {
            write(&format!("\n{bad}\n"), 0o600);
            let error = open("https://c").expect_err(bad);
            assert!(matches!(error, CollectorError::HeadersFile { line: 2, .. }), "{error}");
            assert!(!error.to_string().contains("canary"), "{error}");
        }
        write("a: canary\n", 0o640);
        assert!(matches!(open("https://c"), Err(CollectorError::HeadersFileMode { .. })));
    }

    #[test]
    fn answers_say_whether_to_try_again() {
        let answer = |status: u16, retry_after: &str| {
            let response = Response::builder().status(status).header(RETRY_AFTER, retry_after);
            judge(response.body(Bytes::from_static(b"x")).expect("a response"))
        };
        assert_eq!(answer(200, "9"), Ok(Bytes::from_static(b"x")));
        for (status, asked, expected) in [(429, "7", Some(7)), (503, "100000", Some(60)), (502, "soon", None)] {
            let Err(NotTaken::ForNow { retry_after, .. }) = answer(status, asked) else { panic!("{status}") };
            assert_eq!(retry_after.map(|wait| wait.as_secs()), expected, "{status}");
        }
        for status in [301, 400, 401, 404, 413, 500] {
            assert!(matches!(answer(status, "1"), Err(NotTaken::ForEver { .. })), "{status}");
        }
    }
}
