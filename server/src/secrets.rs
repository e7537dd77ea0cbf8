//! Secrets of pipelines: who has which, and the key that seals them.
//!
//! Values set on the command line lie in the database, sealed with XChaCha20-Poly1305 under the
//! master key. Scope, name and rule are authenticated together with the value, so nobody who can
//! write to the database can move a value to another name or open it to other events. Values
//! named in the configuration are not stored at all, and go over those of the same scope and name.

use std::{
    collections::BTreeSet,
    fmt, io,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use chacha20poly1305::{
    KeyInit, XChaCha20Poly1305, XNonce,
    aead::{Aead, Payload},
};
use mergeyard_plan::{
    event::EventKind,
    secrets::{Level, SecretRule},
};
use mergeyard_types::{RepoName, Secret, Timestamp};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::{
    config::Rules,
    data_dir::DataDir,
    store::{SealedSecret, Store, StoreError},
};

/// Larger values are files that belong elsewhere, and environments have limits of their own.
pub const LARGEST_VALUE: usize = 64 * 1024;

/// A name becomes a variable's; a longer one is a mistake.
const LONGEST_NAME: usize = 100;

const KEY_BYTES: usize = 32;
const KEY_ID_BYTES: usize = 8;
const NONCE_BYTES: usize = 24;

#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("cannot use the master key in {}", path.display())]
    KeyFile { path: PathBuf, source: io::Error },
    #[error("the master key {0} is not 64 hexadecimal digits; make one with `openssl rand -hex 32`")]
    NotAKey(String),
    #[error(
        "there is no master key in {}, and secret `{name}` was sealed with one: put key {sealed} back there, or set the secret anew",
        path.display()
    )]
    NoKey { path: PathBuf, name: String, sealed: String },
    #[error(
        "secret `{name}` was sealed with master key {sealed}, and this server has key {ours}: put that key back, or set the secret anew"
    )]
    OtherKey { name: String, sealed: String, ours: String },
    #[error(
        "secret `{name}` of {scope} does not open: its row was changed or belongs to another name; set the secret anew"
    )]
    Tampered { name: String, scope: Scope },
    #[error("no random bytes can be had: {0}")]
    Random(getrandom::Error),
}

/// Whose a secret is. The nearest to a repository wins.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    Global,
    Organisation(String),
    Repository(RepoName),
}

/// A secret's name: lower case, as the language looks for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct SecretName(String);

/// Who may have a secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rule {
    /// None: every event but pull requests'.
    pub events: Vec<EventKind>,
    /// Plugins that may have it. None: every image.
    pub images: Vec<String>,
}

/// A secret that the configuration names.
#[derive(Debug, Clone)]
pub struct ConfiguredSecret {
    pub scope: Scope,
    pub name: SecretName,
    pub rule: Rule,
    pub value: Secret,
}

/// A secret with its value, for the one step that asked for it.
#[derive(Debug, Clone)]
pub struct Resolved {
    pub scope: Scope,
    pub rule: Rule,
    pub value: Secret,
}

/// A secret without its value.
#[derive(Debug, Clone)]
pub struct Listed {
    pub scope: Scope,
    pub name: SecretName,
    pub rule: Rule,
    /// `None`: the configuration names it.
    pub updated: Option<Timestamp>,
}

/// Every secret that one server knows.
#[derive(Clone)]
pub struct Secrets {
    pub store: Store,
    pub keys: KeySource,
    pub rules: Arc<Rules>,
}

impl Secrets {
    /// The value that `name` has for a repository, from the nearest level that has one: its rule
    /// is the nearest's too, even when a farther one would allow more. `repo` is the name under
    /// which the repository is known, as in [`crate::store::RunRow`]'s policy.
    pub async fn resolve(&self, repo: &RepoName, name: &SecretName) -> Result<Option<Resolved>, SecretError> {
        let scopes = Scope::of(repo);
        let words: Vec<String> = scopes.iter().map(Scope::word).collect();
        let rows = self.store.secrets(Some(&words)).await?;
        for scope in scopes {
            let here = self.rules.pipeline_secrets.iter().find(|s| s.scope == scope && s.name == *name);
            if let Some(ConfiguredSecret { rule, value, .. }) = here {
                return Ok(Some(Resolved { scope, rule: rule.clone(), value: value.clone() }));
            }
            let word = scope.word();
            let row = rows.iter().map(|row| &row.secret).find(|s| s.scope == word && s.name == name.0);
            if let Some(row) = row {
                let value = self.keys.for_opening(row)?.open(row)?;
                return Ok(Some(Resolved { scope, rule: Rule::of(row), value }));
            }
        }
        Ok(None)
    }

    /// Every secret that a repository could be given, as the planner asks for them. Nothing is opened.
    pub async fn rules_of(&self, repo: &RepoName) -> Result<Vec<SecretRule>, StoreError> {
        let scopes = Scope::of(repo);
        let words: Vec<String> = scopes.iter().map(Scope::word).collect();
        let rows = self.store.secrets(Some(&words)).await?;
        let mut rules = Vec::new();
        for scope in &scopes {
            let level = scope.level();
            let here = self.rules.pipeline_secrets.iter().filter(|secret| secret.scope == *scope);
            rules.extend(here.map(|secret| secret.rule.named(&secret.name.0, level)));
            let word = scope.word();
            let stored = rows.iter().map(|row| &row.secret).filter(|row| row.scope == word);
            rules.extend(stored.map(|row| Rule::of(row).named(&row.name, level)));
        }
        // The configuration's come first, and of two of one level only they count.
        let mut seen = BTreeSet::new();
        rules.retain(|rule| seen.insert((rule.level, rule.name.clone())));
        Ok(rules)
    }

    pub async fn set(
        &self,
        scope: &Scope,
        name: &SecretName,
        rule: Rule,
        value: &Secret,
        now: Timestamp,
    ) -> Result<(), SecretError> {
        let key = self.keys.for_sealing()?;
        Ok(self.store.set_secret(&key.seal(scope, name, rule, value)?, now).await?)
    }

    pub async fn list(&self) -> Result<Vec<Listed>, SecretError> {
        let mut listed: Vec<Listed> = self.rules.pipeline_secrets.iter().map(Listed::configured).collect();
        for row in self.store.secrets(None).await? {
            let (scope, name) = (Scope::read(&row.secret.scope), SecretName(row.secret.name.clone()));
            listed.push(Listed { scope, name, rule: Rule::of(&row.secret), updated: Some(row.updated) });
        }
        listed.sort_by(|one, other| (&one.scope, &one.name).cmp(&(&other.scope, &other.name)));
        Ok(listed)
    }
}

impl Listed {
    fn configured(secret: &ConfiguredSecret) -> Self {
        let ConfiguredSecret { scope, name, rule, value: _ } = secret.clone();
        Self { scope, name, rule, updated: None }
    }
}

/// Where the master key comes from. A file is read at each use, so that one made meanwhile by the
/// command line is the server's too.
#[derive(Debug, Clone)]
pub enum KeySource {
    Configured(Arc<MasterKey>),
    File(PathBuf),
}

impl KeySource {
    pub fn new(configured: Option<Arc<MasterKey>>, data: &DataDir) -> Self {
        configured.map_or_else(|| KeySource::File(data.master_key()), KeySource::Configured)
    }

    fn for_opening(&self, row: &SealedSecret) -> Result<Arc<MasterKey>, SecretError> {
        match self {
            KeySource::Configured(key) => Ok(key.clone()),
            KeySource::File(path) => match MasterKey::read(path)? {
                Some(key) => Ok(Arc::new(key)),
                None => {
                    let sealed = hex::encode(row.sealed.get(..KEY_ID_BYTES).unwrap_or_default());
                    Err(SecretError::NoKey { path: path.clone(), name: row.name.clone(), sealed })
                }
            },
        }
    }

    fn for_sealing(&self) -> Result<Arc<MasterKey>, SecretError> {
        match self {
            KeySource::Configured(key) => Ok(key.clone()),
            KeySource::File(path) => Ok(Arc::new(MasterKey::read_or_make(path)?)),
        }
    }
}

/// The key all values are sealed with. Its id is made of its hash and tells no more than which it is.
pub struct MasterKey {
    id: [u8; KEY_ID_BYTES],
    cipher: XChaCha20Poly1305,
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MasterKey({})", hex::encode(self.id))
    }
}

impl MasterKey {
    /// From 64 hexadecimal digits; `place` is what a refusal calls them.
    pub fn parse(digits: &Secret, place: &str) -> Result<Self, SecretError> {
        let mut bytes = [0; KEY_BYTES];
        hex::decode_to_slice(digits.expose().trim(), &mut bytes)
            .map_err(|_| SecretError::NotAKey(place.to_owned()))?;
        let hash = Sha256::new().chain_update(b"mergeyard master key\0").chain_update(bytes).finalize();
        let mut id = [0; KEY_ID_BYTES];
        id.copy_from_slice(&hash[..KEY_ID_BYTES]);
        Ok(Self { id, cipher: XChaCha20Poly1305::new(&bytes.into()) })
    }

    fn read(path: &Path) -> Result<Option<Self>, SecretError> {
        match std::fs::read_to_string(path) {
            Ok(digits) => Self::parse(&Secret::new(digits), &format!("in {}", path.display())).map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(SecretError::KeyFile { path: path.to_owned(), source }),
        }
    }

    fn read_or_make(path: &Path) -> Result<Self, SecretError> {
        if let Some(key) = Self::read(path)? {
            return Ok(key);
        }
        let mut bytes = [0; KEY_BYTES];
        getrandom::fill(&mut bytes).map_err(SecretError::Random)?;
        let failed = |source| SecretError::KeyFile { path: path.to_owned(), source };
        place_once(path, &hex::encode(bytes)).map_err(failed)?;
        // Another process may have been first, and then its key is the one.
        Self::read(path)?.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))
    }

    fn seal(
        &self,
        scope: &Scope,
        name: &SecretName,
        rule: Rule,
        value: &Secret,
    ) -> Result<SealedSecret, SecretError> {
        let Rule { events, images } = rule;
        let mut row =
            SealedSecret { scope: scope.word(), name: name.0.clone(), sealed: Vec::new(), events, images };
        let mut nonce = [0; NONCE_BYTES];
        getrandom::fill(&mut nonce).map_err(SecretError::Random)?;
        let aad = row.authenticated();
        let payload = Payload { msg: value.expose().as_bytes(), aad: &aad };
        let ciphertext = self
            .cipher
            .encrypt(&XNonce::from(nonce), payload)
            .expect("values are far below the cipher's limit of 256 GiB");
        row.sealed = [&self.id[..], &nonce[..], &ciphertext].concat();
        Ok(row)
    }

    fn open(&self, row: &SealedSecret) -> Result<Secret, SecretError> {
        let tampered = || SecretError::Tampered { name: row.name.clone(), scope: Scope::read(&row.scope) };
        let (id, rest) = row.sealed.split_at_checked(KEY_ID_BYTES).ok_or_else(tampered)?;
        if id != self.id {
            let (sealed, ours) = (hex::encode(id), hex::encode(self.id));
            return Err(SecretError::OtherKey { name: row.name.clone(), sealed, ours });
        }
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE_BYTES>().ok_or_else(tampered)?;
        let payload = Payload { msg: ciphertext, aad: &row.authenticated() };
        let value = self.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| tampered())?;
        String::from_utf8(value).map(Secret::new).map_err(|_| tampered())
    }
}

/// Writes a line that only its owner may read, unless the file is there already.
fn place_once(path: &Path, line: &str) -> io::Result<()> {
    use io::Write;
    let draft = path.with_extension(format!("{}.new", Uuid::new_v4().simple()));
    let mut file = std::fs::OpenOptions::new().create_new(true).write(true).mode(0o600).open(&draft)?;
    let placed = writeln!(file, "{line}").and_then(|()| file.sync_all()).and_then(|()| {
        // A link is never made over a file that is there, which a rename would be.
        match std::fs::hard_link(&draft, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        }
    });
    std::fs::remove_file(&draft)?;
    placed?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

impl SealedSecret {
    /// What must not change without the value: each part with its length before it, so that no
    /// two rows read the same.
    fn authenticated(&self) -> Vec<u8> {
        let Self { scope, name, sealed: _, events, images } = self;
        let events: Vec<&str> = events.iter().map(|event| event.as_str()).collect();
        let mut text = Vec::new();
        for part in [scope.as_str(), name.as_str()] {
            append(&mut text, part.as_bytes());
        }
        for list in [events, images.iter().map(String::as_str).collect()] {
            text.extend_from_slice(&(list.len() as u64).to_be_bytes());
            list.iter().for_each(|part| append(&mut text, part.as_bytes()));
        }
        text
    }
}

fn append(text: &mut Vec<u8>, part: &[u8]) {
    text.extend_from_slice(&(part.len() as u64).to_be_bytes());
    text.extend_from_slice(part);
}

impl Rule {
    fn named(&self, name: &str, level: Level) -> SecretRule {
        SecretRule { name: name.to_owned(), level, events: self.events.clone(), images: self.images.clone() }
    }

    fn of(row: &SealedSecret) -> Self {
        Self { events: row.events.clone(), images: row.images.clone() }
    }
}

impl Scope {
    /// Those that count for a repository, the nearest first.
    fn of(repo: &RepoName) -> [Scope; 3] {
        let repo = lower(repo);
        // Of nested groups the outermost is the organisation.
        let owner = repo.as_str().split('/').next().unwrap_or_default().to_owned();
        [Scope::Repository(repo), Scope::Organisation(owner), Scope::Global]
    }

    fn level(&self) -> Level {
        match self {
            Scope::Repository(_) => Level::Repository,
            Scope::Organisation(_) => Level::Organisation,
            Scope::Global => Level::Global,
        }
    }

    /// An organisation's name reads as a repository's first half does.
    pub fn organisation(name: &str) -> Result<Self, String> {
        let readable = format!("{name}/x").parse::<RepoName>().is_ok();
        match readable && !name.contains('/') {
            true => Ok(Scope::Organisation(name.to_ascii_lowercase())),
            false => Err(format!("`{name}` is not the name of an organisation")),
        }
    }

    pub fn repository(name: &RepoName) -> Self {
        Scope::Repository(lower(name))
    }

    pub fn word(&self) -> String {
        match self {
            Scope::Global => String::new(),
            Scope::Organisation(name) => name.clone(),
            Scope::Repository(name) => name.as_str().to_owned(),
        }
    }

    fn read(word: &str) -> Self {
        match word.parse() {
            Ok(name) => Scope::Repository(name),
            Err(_) if word.is_empty() => Scope::Global,
            Err(_) => Scope::Organisation(word.to_owned()),
        }
    }
}

/// Forges take names in any case for the same.
fn lower(name: &RepoName) -> RepoName {
    name.as_str().to_ascii_lowercase().parse().unwrap_or_else(|_| name.clone())
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Scope::Global => f.write_str("everybody"),
            Scope::Organisation(name) => f.write_str(name),
            Scope::Repository(name) => f.write_str(name.as_str()),
        }
    }
}

impl SecretName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for SecretName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        match text.len() {
            1..=LONGEST_NAME if text.bytes().all(plain) => Ok(Self(text.to_ascii_lowercase())),
            _ => Err(format!(
                "`{}` is not a name of a secret: write up to {LONGEST_NAME} letters, digits, `_`, `-` or `.`",
                text.escape_debug()
            )),
        }
    }
}

impl fmt::Display for SecretName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Refuses what could not be handed to a program.
pub fn check_value(value: &str) -> Result<(), String> {
    match value {
        "" => Err("the value is empty".to_owned()),
        _ if value.len() > LARGEST_VALUE => Err(format!(
            "the value has {} bytes, more than the {LARGEST_VALUE} a secret may have",
            value.len()
        )),
        _ if value.contains('\0') => {
            Err("the value holds a zero byte, which no environment can carry".to_owned())
        }
        _ => Ok(()),
    }
}

/// Why a value will be read in logs, if it will be.
pub fn unmaskable(value: &str) -> Option<String> {
    let shortest = mergeyard_run::log::MIN_SECRET_BYTES;
    (value.trim().len() < shortest).then(|| {
        format!("the value has fewer than {shortest} characters, so it cannot be masked in logs without blanking ordinary words")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(fill: &str) -> MasterKey {
        MasterKey::parse(&Secret::new(fill.repeat(32)), "of the test").unwrap()
    }

    fn sealed(key: &MasterKey) -> SealedSecret {
        let rule = Rule { events: vec![EventKind::Push], images: vec!["plugins/docker".into()] };
        let scope = Scope::repository(&"Acme/Clock".parse().unwrap());
        key.seal(&scope, &"API_Key".parse().unwrap(), rule, &Secret::new("hunter22")).unwrap()
    }

    #[test]
    fn a_sealed_value_opens_as_it_was_and_no_two_seals_are_alike() {
        let key = key("ab");
        let (one, other) = (sealed(&key), sealed(&key));
        assert_eq!((one.scope.as_str(), one.name.as_str()), ("acme/clock", "api_key"));
        assert_eq!(key.open(&one).unwrap().expose(), "hunter22");
        assert_ne!(one.sealed, other.sealed);
        assert!(!one.sealed.windows(8).any(|part| part == b"hunter22"));
    }

    #[test]
    fn another_key_says_which_one_is_wanted() {
        let said = key("cd").open(&sealed(&key("ab"))).unwrap_err().to_string();
        assert!(
            said.contains("`api_key` was sealed with master key") && said.contains("set the secret anew")
        );
        assert!(!said.contains("abab"), "{said}");
    }

    #[test]
    fn a_row_that_was_changed_in_any_part_does_not_open() {
        let key = key("ab");
        let changes: [fn(&mut SealedSecret); 8] = [
            |row| row.scope = "acme/other".into(),
            |row| row.scope = String::new(),
            |row| row.name = "other".into(),
            |row| row.events.clear(),
            |row| row.events.push(EventKind::PullRequest),
            |row| row.images = vec!["evil".into()],
            |row| *row.sealed.last_mut().unwrap() ^= 1,
            |row| row.sealed.truncate(KEY_ID_BYTES + 3),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut row = sealed(&key);
            change(&mut row);
            let said = key.open(&row).expect_err(&at.to_string()).to_string();
            assert!(said.contains("does not open") && !said.contains("hunter22"), "{said}");
        }
    }

    #[test]
    fn a_key_file_is_made_once_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("mergeyard-{}", Uuid::new_v4()));
        std::fs::create_dir(&folder).unwrap();
        let path = folder.join("master.key");
        let ids: Vec<_> = std::thread::scope(|scope| {
            let makers: Vec<_> =
                (0..8).map(|_| scope.spawn(|| MasterKey::read_or_make(&path).unwrap().id)).collect();
            makers.into_iter().map(|maker| maker.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 1);
        std::fs::write(&path, "not a key").unwrap();
        let said = MasterKey::read_or_make(&path).unwrap_err().to_string();
        assert!(said.contains("64 hexadecimal digits") && !said.contains("not a key\n"), "{said}");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn names_are_lower_case_and_plain() {
        assert_eq!("Deploy_KEY".parse::<SecretName>().unwrap().as_str(), "deploy_key");
        for bad in ["", "a b", "a\nb", "ä", &"a".repeat(101)] {
            assert!(bad.parse::<SecretName>().is_err(), "{bad}");
        }
        assert!(Scope::organisation("acme").is_ok());
        for bad in ["", "acme/clock", "a b", ".."] {
            assert!(Scope::organisation(bad).is_err(), "{bad}");
        }
    }
}
