//! The certificate authority of one installation.
//!
//! Nothing here speaks plain HTTP and nothing skips verification, so a machine without a public
//! name needs somebody to sign its certificate. This is that somebody: one key that clients are
//! told to trust once, and short-lived certificates under it that are replaced while serving.
//!
//! | file in the directory | what | mode |
//! | --------------------- | ---- | ---- |
//! | `ca.pem`   | the authority's certificate, what clients are given | 0644 |
//! | `ca.key`   | its key, never leaves this directory                | 0600 |
//! | `leaf.pem` | the server's certificate, and the authority's       | 0644 |
//! | `leaf.key` | its key                                             | 0600 |

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use mergeyard_types::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use uuid::Uuid;

use super::{
    certificate::{Certificate, canonical, certificates, is_signed_by},
    certificates::AUTHORITY_ENDS_SOON,
    shown::Shown,
    trust::provider,
};
use crate::durable;

/// Clients trust it by hand, so it outlives the machines.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3652 * 24 * 60 * 60);

/// Browsers and Apple's libraries refuse certificates that are valid for more than 398 days.
const LEAF_LIFE: Duration = Duration::from_secs(396 * 24 * 60 * 60);

const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A client whose clock is behind must not take a new certificate for one of the future.
const CLOCK_SKEW: Duration = Duration::from_secs(60 * 60);

const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot read or write {}", path.display())]
    File { path: PathBuf, source: io::Error },
    #[error(
        "{} is there but its key {} is not: put the key back, or remove the certificate to make a new authority that every client has to be told to trust",
        ca.display(), key.display()
    )]
    KeyMissing { ca: PathBuf, key: PathBuf },
    #[error("{} does not hold what its name says: {why}", path.display())]
    Content { path: PathBuf, why: String },
    #[error("the authority in {} has expired: remove it to make a new one that every client has to be told to trust", .0.display())]
    Expired(PathBuf),
    #[error("a certificate needs at least one host name or address")]
    NoNames,
    #[error("cannot make the certificate")]
    Certificate(#[from] rcgen::Error),
    #[error("cannot use the certificate")]
    Tls(#[from] rustls::Error),
}

pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: String,
    shown: Arc<Shown>,
}

impl Authority {
    /// Loads or makes the authority in `directory`, and a certificate for the server's `names`.
    pub fn open(directory: &Path, names: &[String]) -> Result<Self, AuthorityError> {
        Self::open_at(directory, names, Timestamp::now())
    }

    pub fn open_at(directory: &Path, names: &[String], now: Timestamp) -> Result<Self, AuthorityError> {
        durable::create_directory(directory).map_err(at(directory))?;
        remove_temporary_files(directory).map_err(at(directory))?;
        let (ca, key) = (directory.join("ca.pem"), directory.join("ca.key"));
        if !ca.exists() {
            create(&ca, &key, now)?;
        }
        if !key.exists() {
            return Err(AuthorityError::KeyMissing { ca, key });
        }
        let pem = fs::read_to_string(&ca).map_err(at(&ca))?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(content(&ca))?;
        let key = read_key(&key)?;
        if not_after(&certificate).map_err(content(&ca))? <= now {
            return Err(AuthorityError::Expired(directory.to_owned()));
        }
        certified(vec![certificate.clone()], &key).map_err(content(&ca))?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key)?;
        let (chain, key) = leaf_paths(directory);
        let authority = Unserved { issuer: &issuer, certificate: &certificate, pem: &pem };
        let leaf = authority.ensure(names, &chain, &key, now)?;
        let shown = Shown::new(leaf.key);
        Ok(Self { directory: directory.to_owned(), issuer, certificate, pem, shown })
    }

    /// The certificate that clients must be told to trust.
    pub fn ca_pem(&self) -> &str {
        &self.pem
    }

    pub fn ca_path(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    pub fn leaf_chain_pem(&self) -> PathBuf {
        leaf_paths(&self.directory).0
    }

    pub fn leaf_key_pem(&self) -> PathBuf {
        leaf_paths(&self.directory).1
    }

    /// Makes a new certificate when the names changed or the old one ends soon, and says whether
    /// it did. Servers that use [`Authority::server_config`] show it from the next connection on.
    pub fn renew(&self, names: &[String], now: Timestamp) -> Result<bool, AuthorityError> {
        if not_after(&self.certificate)? <= now {
            return Err(AuthorityError::Expired(self.directory.clone()));
        }
        let (chain, key) = leaf_paths(&self.directory);
        let leaf = self.unserved().ensure(names, &chain, &key, now)?;
        // Another process may have renewed it, such as `mergeyard registry doctor --fix`.
        let is_other = leaf.is_new || leaf.key.cert != self.shown.get().cert;
        if is_other {
            self.shown.replace(leaf.key);
        }
        Ok(is_other)
    }

    /// Said in time: every client has to be told about the next authority by hand.
    pub fn warning(&self, now: Timestamp) -> Option<String> {
        let authority = Certificate::read(&self.certificate).ok()?;
        authority.ends_within(AUTHORITY_ENDS_SOON, now).then(|| {
            format!(
                "the authority in {} ends in {} days: stop the server, move ca.pem and ca.key away, start it, and give every client the new ca.pem",
                self.directory.display(),
                authority.days_left(now)
            )
        })
    }

    /// A certificate for another server of this installation, in files of its own. One that is
    /// there, has these names and does not end soon is kept; says whether a new one was made.
    pub fn issue(&self, names: &[String], chain: &Path, key: &Path) -> Result<bool, AuthorityError> {
        Ok(self.unserved().ensure(names, chain, key, Timestamp::now())?.is_new)
    }

    /// TLS for a server, with whatever certificate is current when a client connects.
    pub fn server_config(&self) -> Result<Arc<ServerConfig>, AuthorityError> {
        Ok(self.shown.server_config()?)
    }

    fn unserved(&self) -> Unserved<'_> {
        Unserved { issuer: &self.issuer, certificate: &self.certificate, pem: &self.pem }
    }
}

fn leaf_paths(directory: &Path) -> (PathBuf, PathBuf) {
    (directory.join("leaf.pem"), directory.join("leaf.key"))
}

/// The part of an authority that signs, which exists before there is anything to serve.
struct Unserved<'a> {
    issuer: &'a Issuer<'static, KeyPair>,
    certificate: &'a CertificateDer<'static>,
    pem: &'a str,
}

struct Leaf {
    key: CertifiedKey,
    is_new: bool,
}

impl Unserved<'_> {
    fn ensure(
        &self,
        names: &[String],
        chain: &Path,
        key: &Path,
        now: Timestamp,
    ) -> Result<Leaf, AuthorityError> {
        let names: BTreeSet<String> = names.iter().map(|name| canonical(name)).collect();
        if names.is_empty() {
            return Err(AuthorityError::NoNames);
        }
        // Whatever is wrong with the old pair, a new one puts it right.
        if let Some(kept) = self.load(&names, chain, key, now) {
            return Ok(Leaf { key: kept, is_new: false });
        }
        Ok(Leaf { key: self.sign(names, chain, key, now)?, is_new: true })
    }

    fn load(
        &self,
        names: &BTreeSet<String>,
        chain: &Path,
        key: &Path,
        now: Timestamp,
    ) -> Option<CertifiedKey> {
        let pem = fs::read(chain).ok()?;
        let chain = certificates(&pem).ok()?;
        let key = certified(chain.clone(), &read_key(key).ok()?).ok()?;
        let leaf = chain.first()?;
        let (facts, authority) = (Certificate::read(leaf).ok()?, Certificate::read(self.certificate).ok()?);
        // Towards the authority's own end no new certificate would last longer.
        let lasts = !facts.ends_within(RENEW_BEFORE, now) || facts.not_after == authority.not_after;
        // One made while the clock was ahead is no use now that it is right. Before the authority's
        // own beginning it is the clock that is wrong, and the certificate is not.
        let has_begun = !facts.is_from_the_future(now) || authority.is_from_the_future(now);
        let is_ours = is_signed_by(leaf, self.certificate);
        (is_ours && lasts && has_begun && facts.names == *names).then_some(key)
    }

    fn sign(
        &self,
        names: BTreeSet<String>,
        chain_path: &Path,
        key_path: &Path,
        now: Timestamp,
    ) -> Result<CertifiedKey, AuthorityError> {
        let end = not_after(self.certificate).map_err(AuthorityError::Tls)?.min(now.plus(LEAF_LIFE));
        let first = names.first().cloned().unwrap_or_default();
        let mut params = CertificateParams::new(names.into_iter().collect::<Vec<_>>())?;
        // A common name has at most 64 characters; clients read the alternative names.
        params.distinguished_name.push(DnType::CommonName, first.chars().take(64).collect::<String>());
        params.not_before = (system(now) - CLOCK_SKEW).into();
        params.not_after = system(end).into();
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let leaf = params.signed_by(&key, self.issuer)?;
        // Between these two a crash leaves a pair that does not match, which the next start replaces.
        write(key_path, &key.serialize_pem(), PRIVATE)?;
        write(chain_path, &format!("{}{}", leaf.pem(), self.pem), PUBLIC)?;
        Ok(certified(vec![leaf.der().clone(), self.certificate.clone()], &key)?)
    }
}

/// Makes a new authority. A key without a certificate is what a crash between the two leaves; it
/// is used, because nobody else can have it.
fn create(ca: &Path, key_path: &Path, now: Timestamp) -> Result<(), AuthorityError> {
    let key = match key_path.exists() {
        true => read_key(key_path)?,
        false => KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?,
    };
    write(key_path, &key.serialize_pem(), PRIVATE)?;
    let mut params = CertificateParams::default();
    // Libraries look an issuer up by its name: two authorities must not have the same.
    let name = format!("mergeyard authority {:.8}", Uuid::new_v4().simple().to_string());
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (system(now) - CLOCK_SKEW).into();
    params.not_after = (system(now) + AUTHORITY_LIFE).into();
    write(ca, &params.self_signed(&key)?.pem(), PUBLIC)
}

fn certified(chain: Vec<CertificateDer<'static>>, key: &KeyPair) -> Result<CertifiedKey, rustls::Error> {
    let key =
        PrivateKeyDer::try_from(key.serialize_der()).map_err(|why| rustls::Error::General(why.to_owned()))?;
    CertifiedKey::from_der(chain, key, &provider())
}

fn not_after(certificate: &CertificateDer<'_>) -> Result<Timestamp, rustls::Error> {
    let read = Certificate::read(certificate);
    Ok(read.map_err(|error| rustls::Error::General(error.to_string()))?.not_after)
}

fn read_key(path: &Path) -> Result<KeyPair, AuthorityError> {
    let pem = fs::read_to_string(path).map_err(at(path))?;
    KeyPair::from_pem(&pem).map_err(content(path))
}

fn write(path: &Path, pem: &str, mode: u32) -> Result<(), AuthorityError> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    durable::create_directory(directory).map_err(at(directory))?;
    durable::write(directory, path, pem.as_bytes(), mode).map_err(at(path))
}

/// A crash in the middle of a write leaves a file named by a UUID; it may hold a key.
fn remove_temporary_files(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if Uuid::try_parse(&entry.file_name().to_string_lossy()).is_ok() {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn system(time: Timestamp) -> SystemTime {
    UNIX_EPOCH + Duration::from_millis(u64::try_from(time.0).unwrap_or(0))
}

fn at(path: &Path) -> impl FnOnce(io::Error) -> AuthorityError {
    move |source| AuthorityError::File { path: path.to_owned(), source }
}

fn content<E: std::fmt::Display>(path: &Path) -> impl FnOnce(E) -> AuthorityError {
    move |error| AuthorityError::Content { path: path.to_owned(), why: error.to_string() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 60 * 60);
    const NOW: Timestamp = Timestamp(1_800_000_000_000);

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn leaf(authority: &Authority) -> Vec<u8> {
        fs::read(authority.leaf_chain_pem()).unwrap()
    }

    #[test]
    fn an_authority_is_made_once_and_its_keys_are_private() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = names(&["registry.example.org", "127.0.0.1", "::1"]);
        let first = Authority::open_at(directory.path(), &wanted, NOW).unwrap();
        let again = Authority::open_at(directory.path(), &wanted, NOW.plus(DAY)).unwrap();
        assert_eq!(first.ca_pem(), again.ca_pem());
        assert_eq!(leaf(&first), leaf(&again));
        for (file, mode) in [("ca.pem", 0o644), ("ca.key", 0o600), ("leaf.pem", 0o644), ("leaf.key", 0o600)] {
            let metadata = fs::metadata(directory.path().join(file)).unwrap();
            assert_eq!(metadata.permissions().mode() & 0o777, mode, "{file}");
        }
        let der = CertificateDer::from_pem_slice(&leaf(&first)).unwrap();
        let read = Certificate::read(&der).unwrap();
        let life = read.not_after.since(read.not_before);
        assert!(life <= 397 * DAY, "{life:?}");
        assert_eq!(read.names, wanted.into_iter().collect());
    }

    #[test]
    fn a_leaf_is_replaced_when_its_names_change_when_it_ends_soon_and_when_it_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let (one, two) = (names(&["a.example.org"]), names(&["a.example.org", "b.example.org"]));
        let authority = Authority::open_at(directory.path(), &one, NOW).unwrap();
        let shown = || authority.shown.get().cert[0].clone();
        let first = shown();
        assert!(!authority.renew(&one, NOW.plus(365 * DAY)).unwrap());
        assert!(authority.renew(&two, NOW).unwrap());
        let second = shown();
        assert_ne!(first, second);
        assert!(authority.renew(&two, NOW.plus(367 * DAY)).unwrap());
        assert_ne!(second, shown());
        fs::copy(directory.path().join("ca.key"), directory.path().join("leaf.key")).unwrap();
        assert!(authority.renew(&two, NOW.plus(367 * DAY)).unwrap());
        assert!(!authority.renew(&two, NOW.plus(367 * DAY)).unwrap());
    }

    #[test]
    fn towards_its_own_end_an_authority_warns_and_does_not_sign_the_same_again_and_again() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = names(&["a.example.org"]);
        let authority = Authority::open_at(directory.path(), &wanted, NOW).unwrap();
        let end = NOW.plus(AUTHORITY_LIFE);
        let before = |days: u64| Timestamp(end.0 - (u32::try_from(days).unwrap() * DAY).as_millis() as i64);
        assert_eq!(authority.warning(before(91)), None);
        let warning = authority.warning(before(89)).unwrap();
        assert!(warning.contains("ends in 89 days") && warning.contains("ca.pem"), "{warning}");
        assert!(authority.renew(&wanted, before(20)).unwrap());
        assert!(!authority.renew(&wanted, before(10)).unwrap());
        assert!(matches!(authority.renew(&wanted, end), Err(AuthorityError::Expired(_))));
    }

    #[test]
    fn a_certificate_made_while_the_clock_was_ahead_is_replaced_and_one_is_kept_while_it_is_behind() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = names(&["a.example.org"]);
        let authority = Authority::open_at(directory.path(), &wanted, NOW).unwrap();
        assert!(!authority.renew(&wanted, Timestamp(0)).unwrap());
        assert!(authority.renew(&wanted, NOW.plus(1000 * DAY)).unwrap());
        assert!(authority.renew(&wanted, NOW).unwrap());
        assert!(!authority.renew(&wanted, NOW).unwrap());
    }

    #[test]
    fn what_another_process_renewed_is_shown_too() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = names(&["a.example.org"]);
        let serving = Authority::open_at(directory.path(), &wanted, NOW).unwrap();
        let later = NOW.plus(380 * DAY);
        let other = Authority::open_at(directory.path(), &wanted, later).unwrap();
        assert_ne!(serving.shown.get().cert, other.shown.get().cert);
        assert!(serving.renew(&wanted, later).unwrap());
        assert_eq!(serving.shown.get().cert, other.shown.get().cert);
    }

    #[test]
    fn another_authoritys_leaf_is_not_kept() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let wanted = names(&["a.example.org"]);
        let first = Authority::open_at(one.path(), &wanted, NOW).unwrap();
        let second = Authority::open_at(two.path(), &wanted, NOW).unwrap();
        for file in ["leaf.pem", "leaf.key"] {
            fs::copy(one.path().join(file), two.path().join(file)).unwrap();
        }
        assert_ne!(first.ca_pem(), second.ca_pem());
        assert!(second.renew(&wanted, NOW).unwrap());
    }

    #[test]
    fn crashes_and_losses_end_in_a_sound_authority_or_a_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let wanted = names(&["a.example.org"]);
        drop(Authority::open_at(directory.path(), &wanted, NOW).unwrap());
        let orphan = directory.path().join(Uuid::new_v4().to_string());
        fs::write(&orphan, "half a key").unwrap();
        fs::remove_file(directory.path().join("ca.pem")).unwrap();
        drop(Authority::open_at(directory.path(), &wanted, NOW).unwrap());
        assert!(!orphan.exists());
        let expired = Authority::open_at(directory.path(), &wanted, NOW.plus(AUTHORITY_LIFE));
        assert!(matches!(expired, Err(AuthorityError::Expired(_))));
        fs::remove_file(directory.path().join("ca.key")).unwrap();
        let missing = Authority::open_at(directory.path(), &wanted, NOW);
        assert!(matches!(missing, Err(AuthorityError::KeyMissing { .. })));
        assert!(matches!(
            Authority::open_at(tempfile::tempdir().unwrap().path(), &[], NOW),
            Err(AuthorityError::NoNames)
        ));
    }

    #[test]
    fn a_named_certificate_goes_to_its_own_files() {
        let directory = tempfile::tempdir().unwrap();
        let authority = Authority::open(directory.path(), &names(&["a.example.org"])).unwrap();
        let (chain, key) = (directory.path().join("web/cert.pem"), directory.path().join("web/key.pem"));
        assert!(authority.issue(&names(&["web"]), &chain, &key).unwrap());
        assert!(!authority.issue(&names(&["web"]), &chain, &key).unwrap());
        assert!(authority.issue(&names(&["web", "127.0.0.1"]), &chain, &key).unwrap());
        assert_eq!(fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
    }
}
