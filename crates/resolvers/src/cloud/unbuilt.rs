//! For the kinds that this build lacks.

use midward_core::{Failure, Hop};

/// The kind is known, but this build has no such resolver.
pub(crate) fn not_built(kind: &str, feature: &str) -> Failure {
    Failure::permanent(
        Hop::Resolver,
        "resolver_not_built",
        format!("this midward-mid was built without the cargo feature `{feature}`, which `kind = \"{kind}\"` needs"),
        format!("Use a midward-mid that was built with `--features {feature}`."),
    )
}
