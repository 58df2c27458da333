//! The grant of a profile, in the token engine's words.

use midward_oauth::{AssertionAlgorithm, BearerAssertion, GrantType, TokenExchange};
use midward_wire::ProfileConfig;

use crate::engine::assertion_algorithm;
use crate::policy::Permit;

/// What policy permitted of a profile's grant.
pub(crate) fn grant(profile: &ProfileConfig, permit: &Permit) -> GrantType {
    match profile.grant_type {
        midward_wire::GrantType::ClientCredentials => GrantType::ClientCredentials,
        midward_wire::GrantType::JwtBearer => {
            let bearer = profile.jwt_bearer.clone().unwrap_or_default();
            GrantType::JwtBearer(BearerAssertion {
                issuer: bearer.issuer,
                subject: bearer.subject,
                // Policy permits no such grant without one.
                audience: permit.grant_audience.clone().unwrap_or_default(),
                claims: bearer.claims,
                algorithm: bearer.algorithm.map(assertion_algorithm as fn(_) -> AssertionAlgorithm),
                authenticates_client: bearer.client_authentication,
            })
        }
        midward_wire::GrantType::TokenExchange => {
            // Policy permits none without it; an empty type is refused by every server.
            let exchange = profile.token_exchange.clone();
            GrantType::TokenExchange(TokenExchange {
                subject_token_type: exchange.as_ref().map(|e| e.subject_token_type.clone()).unwrap_or_default(),
                actor_token_type: exchange.as_ref().and_then(|e| e.actor_token_type.clone()),
                requested_token_type: exchange.and_then(|e| e.requested_token_type),
            })
        }
    }
}
