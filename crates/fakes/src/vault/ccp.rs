//! CyberArk's Central Credential Provider before a [`Vault`]: the same accounts, applications and faults, over HTTPS.
//! After its public documentation ("Call the Central Credential Provider Web Service").

mod rest;
mod soap;

use std::io;
use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};

use super::line::{Answer, Fields};
use super::{State, Vault};
use crate::fault::{Before, FaultOrder, Faults, HttpFault, after, before};
use crate::http::{App, Body, Dropped, ShownCertificate, Wire, base_url, full, read_body, respond, serve, thumbprint};
use crate::serve::Listening;
use crate::tls::{Identity, Tls};

/// How the web service is set up.
#[derive(Clone, Default)]
pub struct CcpConfig {
    /// Never [`Tls::Plain`].
    pub tls: Tls,
    /// `AIMWebService` unless set.
    pub service: Option<String>,
    pub port: u16,
    /// Whether `PasswordChangeInProcess` is a JSON boolean, as newer versions have it, and not the text `True` or `False`.
    pub change_flag_is_boolean: bool,
}

/// A running web service; it ends when this is dropped.
pub struct Ccp {
    app: Arc<Service>,
    listening: Listening,
    tls: Tls,
}

struct Service {
    vault: Arc<State>,
    name: String,
    change_flag_is_boolean: bool,
    faults: Faults<HttpFault>,
}

impl Ccp {
    pub fn start(vault: &Vault, config: CcpConfig) -> io::Result<Self> {
        if matches!(config.tls, Tls::Plain) {
            return Err(io::Error::other("the Central Credential Provider speaks TLS only"));
        }
        let app = Arc::new(Service {
            vault: Arc::clone(&vault.state),
            name: config.service.unwrap_or_else(|| "AIMWebService".to_owned()),
            change_flag_is_boolean: config.change_flag_is_boolean,
            faults: Faults::default(),
        });
        let listening = serve(Arc::clone(&app), &config.tls, config.port)?;
        Ok(Self { app, listening, tls: config.tls })
    }

    /// `https://localhost:PORT`.
    pub fn url(&self) -> String {
        base_url(&self.tls, self.listening.addr())
    }

    pub fn port(&self) -> u16 {
        self.listening.addr().port()
    }

    /// Orders a fault of the web server, which comes before those of the vault, for the next `requests` requests;
    /// `None` is until cleared.
    pub fn set_fault(&self, fault: HttpFault, requests: Option<u32>) {
        self.app.faults.order(fault, requests);
    }

    pub fn clear_faults(&self) {
        self.app.faults.clear();
    }
}

/// What [`super::Application::certificates`] lists for this certificate.
pub fn certificate_thumbprint(identity: &Identity) -> io::Result<String> {
    use rustls_pki_types::pem::PemObject as _;
    let der = rustls_pki_types::CertificateDer::from_pem_slice(identity.certificate_pem.as_bytes());
    der.map(|der| thumbprint(&der)).map_err(io::Error::other)
}

impl App for Service {
    async fn handle(self: Arc<Self>, request: Request<Incoming>, wire: Wire) -> Result<Response<Body>, Dropped> {
        if request.uri().path() == "/_faults" {
            return self.take_order(request).await;
        }
        let fault = self.faults.take(|_| true);
        let early = before(fault.as_ref(), &wire).await?;
        let shown = request.extensions().get::<ShownCertificate>().map(|shown| shown.0.clone());
        let (parts, body) = request.into_parts();
        let body = read_body(body).await?;
        match early {
            Before::Continue => {}
            Before::Answer(answer) => return Ok(answer),
            Before::DropAfterRead => return Err(Dropped),
        }
        let path = parts.uri.path().to_ascii_lowercase();
        let Some(path) = path.trim_matches('/').strip_prefix(&self.name.to_ascii_lowercase()) else {
            return after(fault.as_ref(), not_found()).await;
        };
        let response = match (&parts.method, path) {
            (&Method::GET, "/api/accounts") => {
                match rest::question(parts.uri.query().unwrap_or_default(), shown.as_deref()) {
                    Ok(question) => rest::response(&self.ask(&question).await?, self.change_flag_is_boolean),
                    Err(refusal) => rest::response(&refusal, false),
                }
            }
            (&Method::POST, "/v1.1/aim.asmx") => {
                let action = parts.headers.get("soapaction").and_then(|value| value.to_str().ok());
                match soap::question(&body, action, shown.as_deref()) {
                    Ok(question) => soap::response(&self.ask(&question).await?),
                    Err(refusal) => soap::response(&refusal),
                }
            }
            (&Method::GET, "/v1.1/aim.asmx") => respond(StatusCode::OK, "text/html", "<html><body>AIM</body></html>"),
            (_, "/api/accounts" | "/v1.1/aim.asmx") => respond(StatusCode::METHOD_NOT_ALLOWED, "text/html", ""),
            _ => not_found(),
        };
        after(fault.as_ref(), response).await
    }
}

impl Service {
    /// `POST /_faults` and `DELETE /_faults`: faults of the web server, for those who run the program.
    async fn take_order(&self, request: Request<Incoming>) -> Result<Response<Body>, Dropped> {
        if request.method() == Method::DELETE {
            self.faults.clear();
            return Ok(respond(StatusCode::OK, "text/plain", "cleared\n"));
        }
        let body = read_body(request.into_body()).await?;
        Ok(match serde_json::from_slice::<FaultOrder<HttpFault>>(&body) {
            Ok(order) => {
                self.faults.order(order.fault, order.requests);
                respond(StatusCode::OK, "text/plain", "ordered\n")
            }
            Err(error) => respond(StatusCode::BAD_REQUEST, "text/plain", format!("{error}\n")),
        })
    }

    async fn ask(&self, question: &Fields) -> Result<Answer, Dropped> {
        self.vault.answer(question).await.ok_or(Dropped)
    }
}

/// Names and values of a request, in the line protocol's words. `Query` overrides every other criterion.
fn question(given: &[(String, String)], shown: Option<&str>) -> Result<Fields, Answer> {
    let value = |name: &str| {
        let found = given.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str()).filter(|value| !value.is_empty())
    };
    let refused = |code: &str, text: &str| Answer::Refused { code: code.to_owned(), text: text.to_owned() };
    let Some(app_id) = value("AppID") else {
        return Err(refused("AIMWS031E", "Invalid request. The AppID parameter is required"));
    };
    let criteria: Vec<String> = ["Safe", "Folder", "Object", "UserName", "Address", "Database", "PolicyID"]
        .into_iter()
        .filter_map(|name| Some(format!("{name}={}", value(name)?)))
        .collect();
    let query = value("Query").map(str::to_owned).or_else(|| (!criteria.is_empty()).then(|| criteria.join(";")));
    let Some(query) = query else {
        return Err(refused("AIMWS030E", "Invalid query format"));
    };
    let mut fields = Fields::default();
    fields.push("op", "GetPassword");
    fields.push("client", "ccp");
    fields.push("AppID", app_id);
    fields.push("Query", &query);
    for name in ["QueryFormat", "Reason", "FailRequestOnPasswordChange"] {
        if let Some(value) = value(name) {
            fields.push(name, value);
        }
    }
    if let Some(shown) = shown {
        fields.push("certificate", shown);
    }
    Ok(fields)
}

fn not_found() -> Response<Body> {
    respond(StatusCode::NOT_FOUND, "text/html", "<html><body>404 - File or directory not found.</body></html>")
}

fn typed(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
