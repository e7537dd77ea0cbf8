//! Robots: accounts for programs, made and taken away on the command line.
//!
//! They live in one file. Commands change it under a lock, whole; the server that runs notices, see
//! `known_robots.rs`.

use std::{
    collections::HashSet,
    fmt,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    str::FromStr,
};

use mergeyard_types::{Secret, Timestamp};
use serde::{Deserialize, Serialize};

use super::{
    ANONYMOUS,
    account::{Account, Grant, SecretHash},
    token::random,
};
use crate::{durable, store::paths::Paths};

/// Protects the server, which holds all of them in memory and reads them at once.
pub(super) const ROBOTS: usize = 10_000;
const GRANTS: usize = 100;
const FILE_BYTES: u64 = 16 << 20;
const DESCRIPTION_BYTES: usize = 500;
const NAME_BYTES: usize = 64;

/// The server's own account; and who an event is told to be by, when it is by no account.
const RESERVED: [&str; 3] = ["mergeyard", ANONYMOUS, "retention"];

/// The robots of the registry in a directory, whether it is served at the moment or not. Everything
/// here blocks.
pub struct Robots {
    paths: Paths,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Robot {
    pub name: RobotName,
    #[serde(rename = "secret_sha256")]
    secret: SecretHash,
    pub grants: Vec<Grant>,
    pub created: Timestamp,
    /// From this instant on the secret is worth nothing.
    #[serde(default)]
    pub expires: Option<Timestamp>,
    #[serde(default)]
    pub description: Option<String>,
}

/// A robot that is asked for.
#[derive(Debug, Clone)]
pub struct NewRobot {
    pub name: RobotName,
    pub grants: Vec<Grant>,
    pub expires: Option<Timestamp>,
    pub description: Option<String>,
}

/// Lower-case words joined by single `.`, `_` or `-`; it stands in logs, user fields and shells.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RobotName(String);

#[derive(Debug, thiserror::Error)]
pub enum RobotError {
    #[error("there is a robot `{0}` already: rotate its secret, revoke it first, or take another name")]
    Exists(RobotName),
    #[error("there is no robot `{0}`: list them to see which there are")]
    Unknown(RobotName),
    #[error("`{0}` would be robot number {n}, one more than there may be: revoke some", n = ROBOTS + 1)]
    TooMany(RobotName),
    #[error("a robot needs at least one right and may have {GRANTS} grants: name what it may pull or push")]
    Grants,
    #[error("a description is one line of at most {DESCRIPTION_BYTES} characters")]
    Description,
    #[error("{} cannot be understood, and nothing was changed: repair it, or remove it and create the robots anew", path.display())]
    Broken { path: PathBuf, source: FileError },
    #[error("cannot use {}; check that this is the user the server runs as, and that the disk is not full", path.display())]
    Storage { path: PathBuf, source: io::Error },
}

/// What is wrong with the file of robots.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("it is larger than {FILE_BYTES} bytes")]
    Size,
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    #[error("it has more than {ROBOTS} robots")]
    Robots,
    #[error("the robot `{0}` is in it twice")]
    Twice(RobotName),
    #[error("the robot `{0}` has more than {GRANTS} grants, or too long a description")]
    Robot(RobotName),
}

impl Robots {
    /// Of the registry under `root`, which need not have been served yet.
    pub fn open(root: &Path) -> Self {
        Self { paths: Paths::new(root) }
    }

    pub fn list(&self) -> Result<Vec<Robot>, RobotError> {
        let path = self.paths.robots();
        match File::open(&path).map_err(FileError::Io).and_then(|file| read(&file)) {
            Ok(robots) => Ok(robots),
            Err(FileError::Io(error)) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(FileError::Io(source)) => Err(RobotError::Storage { path, source }),
            Err(source) => Err(RobotError::Broken { path, source }),
        }
    }

    /// Makes a robot and returns its secret, which is kept nowhere.
    pub fn create(&self, new: NewRobot, now: Timestamp) -> Result<Secret, RobotError> {
        let NewRobot { name, grants, expires, description } = new;
        if grants.is_empty() || grants.len() > GRANTS {
            return Err(RobotError::Grants);
        }
        if description.as_deref().is_some_and(|text| !is_description(text)) {
            return Err(RobotError::Description);
        }
        self.change(|robots| {
            if robots.iter().any(|robot| robot.name == name) {
                return Err(RobotError::Exists(name));
            }
            if robots.len() >= ROBOTS {
                return Err(RobotError::TooMany(name));
            }
            let (secret, hash) = self.new_secret()?;
            robots.push(Robot { name, secret: hash, grants, created: now, expires, description });
            Ok(secret)
        })
    }

    /// Gives a robot another secret; the one it had, and the tokens fetched with it, are void.
    pub fn rotate(&self, name: &RobotName) -> Result<Secret, RobotError> {
        self.change(|robots| {
            let robot = robots.iter_mut().find(|robot| robot.name == *name);
            let robot = robot.ok_or_else(|| RobotError::Unknown(name.clone()))?;
            let (secret, hash) = self.new_secret()?;
            robot.secret = hash;
            Ok(secret)
        })
    }

    pub fn revoke(&self, name: &RobotName) -> Result<(), RobotError> {
        self.change(|robots| {
            let before = robots.len();
            robots.retain(|robot| robot.name != *name);
            if robots.len() < before { Ok(()) } else { Err(RobotError::Unknown(name.clone())) }
        })
    }

    /// Reads, changes and writes while nobody else does.
    fn change<T>(
        &self,
        change: impl FnOnce(&mut Vec<Robot>) -> Result<T, RobotError>,
    ) -> Result<T, RobotError> {
        let path = self.paths.robots();
        let failed = |source| RobotError::Storage { path: path.clone(), source };
        let _lock = self.lock().map_err(failed)?;
        let mut robots = self.list()?;
        let changed = change(&mut robots)?;
        let mut json =
            serde_json::to_vec_pretty(&RobotsFile { robots }).map_err(|error| failed(error.into()))?;
        json.push(b'\n');
        durable::write(&self.paths.access_incoming(), &path, &json, 0o600).map_err(failed)?;
        Ok(changed)
    }

    /// The temporary files of commands have a place of their own: a server that starts removes what
    /// it finds in the registry's.
    fn lock(&self) -> io::Result<File> {
        let incoming = self.paths.access_incoming();
        durable::create_directory(&incoming)?;
        let lock = File::options().create(true).append(true).open(self.paths.access_lock())?;
        lock.lock()?;
        for orphan in fs::read_dir(&incoming)? {
            fs::remove_file(orphan?.path())?;
        }
        Ok(lock)
    }

    /// 256 random bits in letters and digits, because engines and shells disagree about everything else.
    fn new_secret(&self) -> Result<(Secret, SecretHash), RobotError> {
        let bytes = random().map_err(|source| RobotError::Storage { path: self.paths.robots(), source })?;
        let secret = Secret::new(hex::encode(bytes));
        let hash = SecretHash::of(&secret);
        Ok((secret, hash))
    }
}

impl Robot {
    pub(super) fn account(self) -> Account {
        let Robot { name, secret, grants, expires, created: _, description: _ } = self;
        Account { name: name.0, secret, grants, is_operator: false, expires }
    }
}

/// What is in `robots.json`.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RobotsFile {
    robots: Vec<Robot>,
}

pub(super) fn read(file: &File) -> Result<Vec<Robot>, FileError> {
    let mut json = Vec::new();
    file.take(FILE_BYTES + 1).read_to_end(&mut json)?;
    if json.len() as u64 > FILE_BYTES {
        return Err(FileError::Size);
    }
    parse(&json)
}

fn parse(json: &[u8]) -> Result<Vec<Robot>, FileError> {
    let RobotsFile { robots } = serde_json::from_slice(json)?;
    if robots.len() > ROBOTS {
        return Err(FileError::Robots);
    }
    let mut names = HashSet::new();
    for robot in &robots {
        if !names.insert(&robot.name) {
            return Err(FileError::Twice(robot.name.clone()));
        }
        if robot.grants.len() > GRANTS || robot.description.as_deref().is_some_and(|d| !is_description(d)) {
            return Err(FileError::Robot(robot.name.clone()));
        }
    }
    Ok(robots)
}

fn is_description(text: &str) -> bool {
    text.len() <= DESCRIPTION_BYTES && !text.chars().any(char::is_control)
}

impl RobotName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RobotName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RobotNameError {
    #[error(
        "a robot's name is 1 to {NAME_BYTES} lower-case letters and digits, joined by single `.`, `_` or `-`"
    )]
    Grammar,
    #[error("`{0}` is the registry's own: take another name")]
    Reserved(String),
}

impl FromStr for RobotName {
    type Err = RobotNameError;

    fn from_str(text: &str) -> Result<Self, RobotNameError> {
        let word = |word: &str| {
            !word.is_empty() && word.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        };
        if text.len() > NAME_BYTES || !text.split(['.', '_', '-']).all(word) {
            return Err(RobotNameError::Grammar);
        }
        match RESERVED.contains(&text) {
            true => Err(RobotNameError::Reserved(text.to_owned())),
            false => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for RobotName {
    type Error = RobotNameError;

    fn try_from(text: String) -> Result<Self, RobotNameError> {
        text.parse()
    }
}

impl From<RobotName> for String {
    fn from(name: RobotName) -> Self {
        name.0
    }
}
