//! The registry inside this program: its directory, certificate and own account, and the
//! listener it is served on. `mergeyard serve` and `mergeyard registry serve` both start it here.

use std::{
    collections::HashSet,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use futures_util::FutureExt;
use mergeyard_registry as registry;
use mergeyard_run::{engine::Engine, registry_client::RegistryAccess};
use mergeyard_types::{Digest, RegistryHost, Secret, Timestamp};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    audit::audit,
    config,
    data_dir::DataDir,
    serve::{ServeError, bind},
    store::{Fuse, Store, StoreError},
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
        engine_host: &str,
        closing: &CancellationToken,
    ) -> Result<Self, ServeError> {
        let listener = bind("the registry", config.listen, "registry.listen")?;
        let address = listener.local_addr().unwrap_or(config.listen);
        let host = host(config, address)?;
        let certificates = certificates(config, data, &host)?;
        // Who waits for the authority's certificate finds the password there too.
        data.registry_password()?;
        let ca_file = data.publish_ca(certificates.ca_pem().as_deref())?;
        let registry = registry::Registry::open(&data.registry(), config.config.clone())?;
        let access = access(config, data, address)?;
        registry.set_accounts(vec![account(&access.password)?]);
        registry.set_in_use(in_use(engine_host.to_owned(), data.database()));
        let care = registry::Care { collect_every: config.collect_every, verify_every: config.verify_every };
        let (tls, closed) = (certificates.server_config()?, closing.clone().cancelled_owned());
        let served = registry.clone();
        let serving = tokio::spawn(async move {
            tokio::select! {
                ended = registry::serve(listener, served.clone(), tls, closed) => ended,
                never = certificates.look_after(Timestamp::now) => match never {},
                never = served.care(care) => match never {},
                never = audit(&served) => never,
            }
        });
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

/// How this program reaches the registry that serves at `address`.
pub(crate) fn access(
    config: &config::Embedded,
    data: &DataDir,
    address: SocketAddr,
) -> Result<RegistryAccess, ServeError> {
    let path = data.ca_file();
    let ca_pem = match std::fs::read(&path) {
        Ok(pem) => Some(pem),
        // The operator's own certificate is one that the system trusts.
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(source) => return Err(ServeError::Read { path, source }),
    };
    Ok(RegistryAccess {
        host: host(config, address)?,
        ca_pem,
        username: ACCOUNT.to_owned(),
        password: data.registry_password()?,
    })
}

/// What runs on the engine, and what is live on targets or may have to be again. A registry that is
/// served alone may have no engine beside it, where nothing runs; a server has one, which does not say
/// what runs while its socket is gone.
pub(crate) fn in_use(engine_host: String, database: PathBuf) -> registry::AskInUse {
    Arc::new(move || {
        let (engine, database) = (Engine::at(&engine_host), database.clone());
        async move {
            let mut in_use = deployed(&database).await.map_err(|error| error.to_string())?;
            if database.exists() || engine.socket().is_none_or(|socket| socket.exists()) {
                in_use.extend(engine.running_digests().await.map_err(|error| error.to_string())?);
            }
            Ok(in_use)
        }
        .boxed()
    })
}

/// Asked of the file itself, because a registry may be looked after while no server runs.
async fn deployed(database: &Path) -> Result<HashSet<Digest>, StoreError> {
    if !database.exists() {
        return Ok(HashSet::new());
    }
    let store = Store::open(database, Arc::new(Fuse::endless())).await?;
    let deployed = store.deployed_digests().await;
    store.close().await;
    deployed
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
        is_operator: true,
        expires: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rules of retention remove nothing while nobody knows what runs.
    #[tokio::test]
    async fn only_where_no_server_ever_ran_a_socket_that_is_gone_means_that_nothing_runs() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("mergeyard.sqlite");
        let engine = format!("unix://{}", folder.path().join("none.sock").display());
        let asked = async || in_use(engine.clone(), database.clone())().await;
        assert_eq!(asked().await, Ok(HashSet::new()));
        Store::open(&database, Arc::new(Fuse::endless())).await.unwrap().close().await;
        assert!(asked().await.unwrap_err().contains("engine"));
    }
}
