//! A registry under care, wherever it is: served by a program that runs, or a directory that nobody
//! serves just now.

use std::path::PathBuf;

use futures_util::TryStreamExt;
use mergeyard_registry::{OpenError, Registry};
use mergeyard_run::registry_client::RegistryAccess;
use serde::de::DeserializeOwned;
use tokio::io::AsyncBufReadExt;
use tokio_util::io::StreamReader;

use super::configured;
use crate::{cli::Failed, config::Embedded, data_dir::DataDir, embedded_registry};

pub(super) enum Reached {
    Running(Running),
    Directory(Registry),
}

/// The registry of a program that runs, asked over verified TLS as its operator.
pub(super) struct Running {
    http: reqwest::Client,
    access: RegistryAccess,
}

impl Reached {
    pub(super) fn open(file: Option<PathBuf>) -> Result<Self, Failed> {
        let alone = configured(file)?;
        let config = alone.embedded().map_err(|error| Failed::Usage(Box::new(error)))?;
        let data = DataDir::at(&alone.data_dir);
        if !data.registry().exists() {
            return Err(Failed::work(format!(
                "there is no registry in {}; has one been served with this configuration?",
                alone.data_dir.display()
            )));
        }
        match Registry::open(&data.registry(), config.config.clone()) {
            Ok(registry) => {
                let in_use = embedded_registry::in_use(alone.engine_host.clone(), data.database());
                registry.set_in_use(in_use);
                Ok(Reached::Directory(registry))
            }
            Err(OpenError::InUse(_)) => Ok(Reached::Running(Running::new(config, &data)?)),
            Err(error) => Err(error.into()),
        }
    }
}

impl Running {
    fn new(config: &Embedded, data: &DataDir) -> Result<Self, Failed> {
        let access = embedded_registry::access(config, data, config.listen)?;
        // Its name may lead elsewhere from here, to a proxy or to nothing at all.
        let mut address = config.listen;
        if address.ip().is_unspecified() {
            address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
        }
        let name = access.host.host().trim_matches(['[', ']']);
        let mut http = reqwest::Client::builder().https_only(true).no_proxy().resolve(name, address);
        if let Some(pem) = &access.ca_pem {
            http = http.tls_certs_merge(reqwest::Certificate::from_pem_bundle(pem)?);
        }
        Ok(Self { http: http.build()?, access })
    }

    /// Asks for a work that answers in lines, and hands over each as it comes.
    pub(super) async fn lines<T: DeserializeOwned>(
        &self,
        path: &str,
        mut each: impl FnMut(T) -> Result<(), Failed>,
    ) -> Result<(), Failed> {
        let RegistryAccess { host, username, password, .. } = &self.access;
        let asked = self.http.post(format!("https://{host}{path}"));
        let answer = asked.basic_auth(username, Some(password.expose())).send().await?;
        if !answer.status().is_success() {
            let (status, why) = (answer.status(), answer.text().await?);
            return Err(Failed::work(format!("the registry at {host} answered {status}: {why}")));
        }
        let body = StreamReader::new(answer.bytes_stream().map_err(std::io::Error::other));
        let mut lines = body.lines();
        while let Some(line) = lines.next_line().await? {
            each(serde_json::from_str(&line)?)?;
        }
        Ok(())
    }
}
