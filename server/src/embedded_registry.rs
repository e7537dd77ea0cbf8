//! The registry inside this program: its directory, certificate and own account, and the
//! listener it is served on. `mergeyard serve` and `mergeyard registry serve` both start it here.

use std::{io, net::SocketAddr, path::PathBuf};

use mergeyard_registry as registry;
use mergeyard_run::registry_client::RegistryAccess;
use mergeyard_types::{RegistryHost, Secret, Timestamp};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    config,
    data_dir::DataDir,
    serve::{ServeError, bind},
};

/// The account under which the server itself pushes, and people log in.
pub(crate) const ACCOUNT: &str = "mergeyard";

pub(crate) struct EmbeddedRegistry {
    pub(crate) registry: registry::Registry,
    /// How the program itself reaches it.
    pub(crate) access: RegistryAccess,
    /// The certificate clients have to trust; none when every system trusts it already.
    pub(crate) ca_file: Option<PathBuf>,
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
        let host = host(config, address)?;
        let certificates = certificates(config, data, &host)?;
        let registry = registry::Registry::open(&data.registry(), config.config.clone())?;
        let password = data.registry_password()?;
        registry.set_accounts(vec![account(&password)?]);
        let closed = closing.clone().cancelled_owned();
        let tls = certificates.server_config()?;
        let ca_pem = certificates.ca_pem();
        let ca_file = data.publish_ca(ca_pem.as_deref())?;
        let served = registry::serve(listener, registry.clone(), tls, closed);
        let serving = tokio::spawn(async move {
            tokio::select! {
                ended = served => ended,
                never = certificates.look_after(Timestamp::now) => match never {},
            }
        });
        let access = RegistryAccess {
            host,
            ca_pem: ca_pem.map(String::into_bytes),
            username: ACCOUNT.to_owned(),
            password,
        };
        Ok(Self { registry, access, ca_file, serving })
    }
}

/// What clients call it.
pub(crate) fn host(config: &config::Embedded, address: SocketAddr) -> Result<RegistryHost, ServeError> {
    match &config.host {
        Some(host) => Ok(host.clone()),
        None => address.to_string().parse().map_err(|_| ServeError::Pattern),
    }
}

/// The operator's own certificate, or one that the authority in the data directory signs.
pub(crate) fn certificates(
    config: &config::Embedded,
    data: &DataDir,
    host: &RegistryHost,
) -> Result<registry::Certificates, ServeError> {
    let name = host.host().trim_matches(['[', ']']);
    Ok(match &config.tls {
        Some((cert, key)) => registry::Certificates::files(cert, key, name, Timestamp::now())?,
        None => registry::Certificates::signed_here(&data.tls(), &names(name))?,
    })
}

/// The names this machine's own programs use work too.
fn names(host: &str) -> Vec<String> {
    [host, "localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec()
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
