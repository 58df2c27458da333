//! `kind = "aws_secrets_manager"`.

use std::path::PathBuf;

use serde::Deserialize;
use url::Url;

use crate::cloud::{SecretFields, default_timeout_ms};

/// `kind = "aws_secrets_manager"`. A credential identifier is a secret's name or ARN.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AwsConfig {
    /// `eu-central-1`, ...
    pub region: String,
    /// In place of the region's public endpoint: a VPC endpoint of one's own, for example.
    #[serde(default)]
    pub endpoint: Option<Url>,
    pub credentials: AwsCredentials,
    /// The client id for secrets that do not bring one.
    #[serde(default)]
    pub client_id: Option<String>,
    /// The names of the fields in a secret's JSON object.
    #[serde(default)]
    pub fields: SecretFields,
    /// Staging label of the version to read; Amazon's default is `AWSCURRENT`.
    #[serde(default)]
    pub version_stage: Option<String>,
    /// Longest look-up, signing in included, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
}

/// Where the MID's own AWS credentials come from. Nothing else is tried: no environment variables, no file in a home
/// folder.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "source", rename_all = "snake_case", deny_unknown_fields)]
pub enum AwsCredentials {
    /// An access key in a file of the form of `~/.aws/credentials`, read anew for each look-up.
    ProfileFile {
        /// Readable by its owner only (0600 or 0400).
        file: PathBuf,
        #[serde(default = "default_profile")]
        profile: String,
    },
    /// A token in a file, exchanged for short-lived credentials of a role (`AssumeRoleWithWebIdentity`).
    WebIdentity {
        /// Readable by its owner only; read whenever new credentials are needed.
        token_file: PathBuf,
        role_arn: String,
        /// Shown in AWS CloudTrail.
        #[serde(default = "default_session_name")]
        session_name: String,
        /// In place of the region's public STS endpoint.
        #[serde(default)]
        sts_endpoint: Option<Url>,
    },
    /// The role of the EC2 instance that the MID runs on (IMDSv2).
    InstanceMetadata {
        /// In place of `http://169.254.169.254`.
        #[serde(default)]
        endpoint: Option<Url>,
    },
}

impl AwsCredentials {
    /// The files that are named, for those who make relative paths absolute.
    pub fn files_mut(&mut self) -> Option<&mut PathBuf> {
        match self {
            Self::ProfileFile { file, .. } | Self::WebIdentity { token_file: file, .. } => Some(file),
            Self::InstanceMetadata { .. } => None,
        }
    }
}

fn default_profile() -> String {
    "default".to_owned()
}

fn default_session_name() -> String {
    "midward".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_source_of_the_credentials_must_be_named() {
        let least = "region = 'eu-central-1'\n[credentials]\nsource = 'instance_metadata'";
        let config: AwsConfig = toml::from_str(least).expect("complete");
        assert_eq!((config.timeout_ms, config.fields.client_id.as_str()), (10_000, "client_id"));
        for bad in [
            "region = 'eu-central-1'",
            "region = 'r'\n[credentials]\nsource = 'environment'",
            "region = 'r'\n[credentials]\nsource = 'profile_file'",
            "region = 'r'\n[credentials]\nsource = 'profile_file'\nfile = '/f'\nsecret_access_key = 'x'",
            "region = 'r'\nregoin = 'r'\n[credentials]\nsource = 'instance_metadata'",
        ] {
            assert!(toml::from_str::<AwsConfig>(bad).is_err(), "{bad}");
        }
    }
}
