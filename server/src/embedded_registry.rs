//! The registry inside this program: its directory, certificate and own account, and the
//! listener it is served on. `mergeyard serve` and `mergeyard registry serve` both start it here.

use std::{io, path::PathBuf};

use mergeyard_registry as registry;
use mergeyard_run::registry_client::RegistryAccess;
use mergeyard_types::Secret;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    data_dir::DataDir,
    serve::{ServeError, bind},
};

/// The account under which the server itself pushes, and people log in.
const ACCOUNT: &str = "mergeyard";

pub(crate) struct EmbeddedRegistry {
    pub(crate) registry: registry::Registry,
    /// How the program itself reaches it.
    pub(crate) access: RegistryAccess,
    /// The certificate clients have to trust.
    pub(crate) ca_file: PathBuf,
    pub(crate) serving: JoinHandle<io::Result<()>>,
}

impl EmbeddedRegistry {
    pub(crate) fn start(
        config: &config::Embedded,
        data: &DataDir,
        closing: &CancellationToken,
    ) -> Result<Self, ServeError> {
        let listener = bind("the registry", config.listen, "registry.listen")?;
        let address = listener.local_addr().unwrap_or(config.listen);
        let host = match &config.host {
            Some(host) => host.clone(),
            None => address.to_string().parse().map_err(|_| ServeError::Pattern)?,
        };
        let names = [host.host().trim_matches(['[', ']']), "localhost", "127.0.0.1", "::1"];
        let authority = registry::Authority::open(&data.tls(), &names.map(str::to_owned))?;
        let registry = registry::Registry::open(&data.registry(), config.config.clone())?;
        let password = data.registry_password()?;
        registry.set_accounts(vec![account(&password)?]);
        let closed = closing.clone().cancelled_owned();
        let tls = authority.server_config()?;
        let serving = tokio::spawn(registry::serve(listener, registry.clone(), tls, closed));
        let access = RegistryAccess {
            host,
            ca_pem: Some(authority.ca_pem().as_bytes().to_vec()),
            username: ACCOUNT.to_owned(),
            password,
        };
        Ok(Self { registry, access, ca_file: data.publish_ca(authority.ca_pem())?, serving })
    }
}

fn account(password: &Secret) -> Result<registry::Account, ServeError> {
    use registry::Right;
    let all = registry::Grant::new("**", &[Right::Pull, Right::Push, Right::Delete])
        .map_err(|_| ServeError::Pattern)?;
    Ok(registry::Account {
        name: ACCOUNT.to_owned(),
        secret: registry::SecretHash::of(password),
        grants: vec![all],
        expires: None,
    })
}
