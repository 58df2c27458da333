//! Clients of the API, and what each role may do: decided here and nowhere else.

use serde::{Deserialize, Serialize};

/// What a client of the API is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// Everything.
    Administrator,
    /// Keeps things running: sees all but bodies, ends requests, takes MIDs out of work and back. Lets nobody in.
    Operator,
    /// Makes calls through the connections named for it, and sees its own requests.
    Caller,
    /// Sees all but bodies, and the audit. Changes nothing.
    Auditor,
}

/// What a request to the API needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Right {
    ReadRecords,
    ChangeRecords,
    /// Pause, resume, drain, invalidate.
    OperateMids,
    /// Validate, enrollment tokens.
    AdmitMids,
    ReadClients,
    ChangeClients,
    /// Requests of other clients, without their bodies.
    SeeAllRequests,
    SeeAllBodies,
    CancelAllRequests,
    ReadAudit,
    ReadMetrics,
}

impl Role {
    const ALL: [Self; 4] = [Self::Administrator, Self::Operator, Self::Caller, Self::Auditor];

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Administrator => "administrator",
            Self::Operator => "operator",
            Self::Caller => "caller",
            Self::Auditor => "auditor",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|role| role.name() == name)
    }

    pub(crate) const fn may(self, right: Right) -> bool {
        match self {
            Self::Administrator => true,
            Self::Caller => false,
            Self::Operator => matches!(
                right,
                Right::ReadRecords
                    | Right::OperateMids
                    | Right::SeeAllRequests
                    | Right::CancelAllRequests
                    | Right::ReadMetrics
            ),
            Self::Auditor => matches!(
                right,
                Right::ReadRecords | Right::ReadClients | Right::SeeAllRequests | Right::ReadAudit | Right::ReadMetrics
            ),
        }
    }
}

impl Right {
    /// The roles that have it, for those who have not.
    pub(crate) fn holders(self) -> String {
        let names: Vec<_> = Role::ALL.into_iter().filter(|role| role.may(self)).map(Role::name).collect();
        names.join(" or ")
    }
}

/// How a client proves itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ClientKind {
    /// A key in every request.
    ApiKey,
    /// A secret for the token endpoint, and its tokens in requests.
    OauthClient,
}

impl ClientKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::ApiKey => "api_key",
            Self::OauthClient => "oauth_client",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<Self> {
        [Self::ApiKey, Self::OauthClient].into_iter().find(|kind| kind.name() == name)
    }

    /// As in messages.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::ApiKey => "API key",
            Self::OauthClient => "OAuth client",
        }
    }

    /// What its secrets begin with.
    pub(crate) const fn secret_prefix(self) -> &'static str {
        match self {
            Self::ApiKey => "mwk_",
            Self::OauthClient => "mws_",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct ApiClient {
    /// In requests and audit; the client identifier of an OAuth client. Kept by a rotation.
    pub(crate) id: String,
    #[serde(skip)]
    pub(crate) kind: ClientKind,
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) connections: Vec<String>,
    /// The first characters of the secret, to recognise it by.
    pub(crate) prefix: String,
    #[serde(skip)]
    pub(crate) first_admin: bool,
    /// Unix milliseconds, as the next ones.
    pub(crate) created_at: i64,
    /// The secret is no longer good from then on; absent: it does not end.
    pub(crate) expires_at: Option<i64>,
    /// Until when the secret of before the rotation is good too.
    pub(crate) previous_expires_at: Option<i64>,
    /// In place of the instance's own limit.
    pub(crate) requests_per_second: Option<u32>,
}

impl ApiClient {
    /// Whether it may make calls through a connection.
    pub(crate) fn may_call(&self, alias: &str) -> bool {
        match self.role {
            Role::Administrator => true,
            Role::Caller => self.connections.iter().any(|named| named == alias),
            Role::Operator | Role::Auditor => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_only_looks_changes_nothing_and_who_calls_sees_nothing_of_others() {
        let changes = [Right::ChangeRecords, Right::OperateMids, Right::AdmitMids, Right::ChangeClients];
        assert!(changes.into_iter().all(|right| !Role::Auditor.may(right)));
        assert!(!Role::Auditor.may(Right::CancelAllRequests) && !Role::Auditor.may(Right::SeeAllBodies));
        assert!(!Role::Operator.may(Right::AdmitMids) && !Role::Operator.may(Right::SeeAllBodies));
        assert!(!Role::Caller.may(Right::SeeAllRequests));
        assert_eq!(Right::ReadAudit.holders(), "administrator or auditor");
    }
}
