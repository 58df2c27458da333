//! End-to-end tests: the real programs, the real authorization server, JARs compiled from source.

mod client_auth;
mod cyberark;
mod discovery;
mod dpop;
mod explain;
mod failures;
mod grants;
mod jar_distribution;
mod kill;
mod leak;
mod leak_material;
mod mutual_tls;
mod programs;
mod recovery;
mod replicas;
mod resolvers;
mod revocation;
mod stop;
mod support;
mod surroundings;
mod traces;
mod vaults;
mod whole_chain;
