//! `midward-mid jar`: what needs no running MID Server.

use midward_core::{Failure, Hop};
use midward_resolvers::JarDigest;
use serde::Serialize;

use crate::args::JarCommand;
use crate::output::{Format, print};

#[derive(Serialize)]
struct Hashed {
    sha256: String,
}

pub(crate) fn jar(command: &JarCommand, format: Format) -> Result<(), Failure> {
    let JarCommand::Hash { jar, lib_dir } = command;
    let digest = JarDigest::of(jar, lib_dir.as_deref()).map_err(|error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { "jar_missing" } else { "jar_unreadable" };
        let detail = format!("{}: {error}", jar.display());
        Failure::permanent(Hop::Resolver, code, detail, "Name a JAR and a folder that can be read.")
    })?;
    print(&Hashed { sha256: digest.as_str().to_owned() }, format, |hashed| vec![hashed.sha256.clone()]);
    Ok(())
}
