//! The SDK's HTTP requests, sent through a way out: its CA, its proxy, its limits. The SDK brings no HTTP client of its
//! own into this build.

use std::time::Duration;

use async_trait::async_trait;
use azure_core::error::ErrorKind;
use azure_core::http::headers::Headers;
use azure_core::http::{
    AsyncRawResponse, Body, ClientOptions, HttpClient, Request as SdkRequest, RetryOptions, StatusCode, Transport,
};
use bytes::Bytes;
use http::Request;
use url::{Origin, Url};

use crate::cloud::{Network, Why, misconfigured};

#[derive(Debug)]
pub(super) struct Client {
    pub(super) network: Network,
    pub(super) limit: Duration,
    /// The only origin that is asked, whatever the SDK reads in the environment.
    pub(super) origin: Origin,
    /// Asked in place of it.
    pub(super) instead: Option<Url>,
}

impl Client {
    pub(super) fn new(network: Network, limit: Duration, url: &Url) -> Self {
        Self { network, limit, origin: url.origin(), instead: None }
    }

    /// No retries of the SDK's own: those who wait share a back-off of the MID's.
    pub(super) fn options(self) -> ClientOptions {
        let transport = Some(Transport::new(std::sync::Arc::new(self)));
        ClientOptions { transport, retry: RetryOptions::none(), ..ClientOptions::default() }
    }
}

#[async_trait]
impl HttpClient for Client {
    async fn execute_request(&self, request: &SdkRequest) -> azure_core::Result<AsyncRawResponse> {
        if request.url().origin() != self.origin {
            let why = "the environment names another service for Azure's credentials than the resolver's settings";
            return Err(azure_core::Error::new(ErrorKind::Other, Why(misconfigured(why))));
        }
        let mut url = request.url().clone();
        if let Some(instead) = &self.instead {
            url = Url::parse(&format!("{}{}", instead.origin().ascii_serialization(), request.path_and_query()))?;
        }
        let Body::Bytes(body) = request.body() else {
            return Err(azure_core::Error::with_message(ErrorKind::Other, "a stream"));
        };
        let mut plain = Request::builder().method(request.method().as_str()).uri(url.as_str());
        for (name, value) in request.headers().iter() {
            plain = plain.header(name.as_str(), value.as_str());
        }
        let other = |error| azure_core::Error::new(ErrorKind::Other, error);
        let plain = plain.body(Bytes::clone(body)).map_err(other)?;
        let sent = self.network.send(plain, self.limit).await;
        let response = sent.map_err(|error| azure_core::Error::new(ErrorKind::Io, error))?;
        let mut headers = Headers::new();
        for (name, value) in response.headers() {
            if let Ok(value) = value.to_str() {
                headers.insert(name.as_str().to_owned(), value.to_owned());
            }
        }
        Ok(AsyncRawResponse::from_bytes(StatusCode::from(response.status().as_u16()), headers, response.into_body()))
    }
}
