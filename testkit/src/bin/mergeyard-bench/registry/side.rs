//! The registries that are compared, each in an empty folder with TLS and a login.

use std::path::Path;

use mergeyard_registry::Authority;
use tokio::process::Command;

use super::client::Client;
use crate::{
    Bench, Failed,
    process::{PATIENCE, Program, free},
    until,
};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Mergeyard,
    /// Debian's, with a login from an htpasswd file.
    Debian,
    /// Debian's when it lets everybody in who names a password, whichever it is.
    DebianUnchecked,
}

/// The cheapest there is. With the usual costs docker-registry does little else than to check
/// the same password over and over, and that is not what is compared.
const BCRYPT_COST: u32 = 4;

pub(super) struct Served {
    pub(super) program: Program,
    pub(super) client: Client,
}

impl Side {
    pub(super) async fn serve(self, bench: &Bench, folder: &Path) -> Result<Served, Failed> {
        std::fs::create_dir_all(folder)?;
        let address = free()?;
        let (command, password, ca) = match self {
            Side::Mergeyard => {
                let config = folder.join("mergeyard.toml");
                let data = folder.join("data");
                let text = format!("data_dir = {data:?}\n[registry]\nlisten = \"{address}\"\n");
                std::fs::write(&config, text)?;
                let mut command = bench.mergeyard();
                command.args(["registry", "serve", "--config"]).arg(&config);
                (command, data.join("registry-password"), data.join("ca/ca.crt"))
            }
            Side::Debian | Side::DebianUnchecked => {
                let names = ["127.0.0.1".to_owned()];
                let authority = Authority::open(&folder.join("authority"), &names)?;
                let (chain, key) = (folder.join("cert.pem"), folder.join("key.pem"));
                authority.issue(&names, &chain, &key)?;
                std::fs::write(folder.join("ca.pem"), authority.ca_pem())?;
                let config = folder.join("config.yml");
                std::fs::write(&config, self.debian_config(folder, &address.to_string())?)?;
                let mut command = Command::new("docker-registry");
                command.arg("serve").arg(&config);
                (command, folder.join("password"), folder.join("ca.pem"))
            }
        };
        let mut program = Program::start(command, folder.join("log"))?;
        program.listens(address).await?;
        // It listens a moment before it has written down whom to trust.
        let read = || async { Ok(std::fs::read(&ca).ok().filter(|pem| pem.ends_with(b"-----\n"))) };
        let ca =
            reqwest::Certificate::from_pem(&until("the authority's certificate", PATIENCE, read).await?)?;
        // What `docker push` speaks; both sides would speak HTTP/2 as well.
        let http = reqwest::Client::builder().no_proxy().http1_only().tls_certs_only([ca]).build()?;
        let password = std::fs::read_to_string(password)?.trim().to_owned();
        Ok(Served { program, client: Client { http, base: format!("https://{address}"), password } })
    }

    /// As Debian's own configuration has it, with its cache, and without a log of each request.
    fn debian_config(self, folder: &Path, address: &str) -> Result<String, Failed> {
        let password = uuid::Uuid::new_v4().simple().to_string();
        std::fs::write(folder.join("password"), &password)?;
        let hash = bcrypt::hash(&password, BCRYPT_COST)?;
        std::fs::write(folder.join("htpasswd"), format!("mergeyard:{hash}\n"))?;
        let path = folder.display();
        let auth = match self {
            Side::DebianUnchecked => r#"{"silly": {"realm": "images", "service": "images"}}"#.to_owned(),
            _ => format!(r#"{{"htpasswd": {{"realm": "images", "path": "{path}/htpasswd"}}}}"#),
        };
        Ok(format!(
            r#"{{"version": "0.1", "log": {{"level": "warn", "accesslog": {{"disabled": true}}}},
                "storage": {{"cache": {{"blobdescriptor": "inmemory"}},
                    "filesystem": {{"rootdirectory": "{path}/images"}}}},
                "http": {{"addr": "{address}",
                    "tls": {{"certificate": "{path}/cert.pem", "key": "{path}/key.pem"}}}},
                "auth": {auth}}}"#
        ))
    }
}
