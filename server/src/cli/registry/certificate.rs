//! `mergeyard registry certificate`: what a registry elsewhere needs.

use std::{
    fs::OpenOptions,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use clap::Args;
use mergeyard_registry::Authority;

use crate::{cli::Failed, data_dir::secret_file};

#[derive(Args)]
pub(in crate::cli) struct Certificate {
    /// The folder the files are written to
    #[arg(long)]
    out: PathBuf,
    /// A host name or address the certificate is for; may be repeated
    #[arg(long = "name", required = true)]
    names: Vec<String>,
    /// The user that may log in
    #[arg(long, default_value = "mergeyard")]
    user: String,
}

pub(super) fn certificate(asked: Certificate) -> Result<(), Failed> {
    let Certificate { out, names, user } = asked;
    if user.is_empty() || user.contains([':', '\n']) {
        return Err(Failed::Usage("a user name must not be empty or hold `:`".into()));
    }
    std::fs::create_dir_all(&out)?;
    let authority = Authority::open(&out.join("authority"), &names)?;
    authority.issue(&names, &out.join("cert.pem"), &out.join("key.pem"))?;
    std::fs::write(out.join("ca.pem"), authority.ca_pem())?;
    let password = secret_file(&out.join("password"))?;
    let htpasswd = out.join("htpasswd");
    if !is_for(&htpasswd, &user, password.expose()) {
        let hash = bcrypt::hash(password.expose(), bcrypt::DEFAULT_COST)?;
        let mut file =
            OpenOptions::new().create(true).truncate(true).write(true).mode(0o640).open(&htpasswd)?;
        writeln!(file, "{user}:{hash}")?;
    }
    say!("{} has ca.pem, cert.pem, key.pem, htpasswd and password for {}", out.display(), names.join(", "));
    Ok(())
}

/// Whether the file lets this user in with this password.
fn is_for(htpasswd: &Path, user: &str, password: &str) -> bool {
    let text = std::fs::read_to_string(htpasswd).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.split_once(':'));
    lines.any(|(name, hash)| name == user && bcrypt::verify(password, hash).unwrap_or(false))
}
