//! The SDK's HTTP requests, sent through a way out: its CA, its proxy, its limits. The SDK brings no HTTP client of its
//! own into this build.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_smithy_async::time::TimeSource;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use aws_smithy_types::body::SdkBody;
use bytes::Bytes;
use midward_core::Clock;

use crate::cloud::Network;

#[derive(Clone, Debug)]
pub(super) struct Connector {
    pub(super) network: Network,
    pub(super) limit: Duration,
}

impl HttpClient for Connector {
    fn http_connector(&self, _: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.clone();
        HttpConnectorFuture::new(async move { connector.exchange(request).await })
    }
}

impl Connector {
    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, ConnectorError> {
        let request = request.try_into_http1x().map_err(|error| ConnectorError::user(error.into()))?;
        let (parts, body) = request.into_parts();
        let body = body.bytes().map(Bytes::copy_from_slice).ok_or_else(|| ConnectorError::user("a stream".into()))?;
        let request = http::Request::from_parts(parts, body);
        match self.network.send(request, self.limit).await {
            Ok(response) => HttpResponse::try_from(response.map(SdkBody::from))
                .map_err(|error| ConnectorError::other(error.into(), None)),
            Err(error) => Err(ConnectorError::io(error.into())),
        }
    }
}

/// The MID's clock, for signatures and for the life of credentials.
pub(super) struct SdkClock(pub(super) Arc<dyn Clock>);

impl std::fmt::Debug for SdkClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SdkClock")
    }
}

impl TimeSource for SdkClock {
    fn now(&self) -> SystemTime {
        let millis = u64::try_from(self.0.wall().unix_millis()).unwrap_or(0);
        UNIX_EPOCH + Duration::from_millis(millis)
    }
}
