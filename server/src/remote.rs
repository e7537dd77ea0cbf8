//! Where a repository is fetched from, and with what.

use mergeyard_plan::{
    event::{Forge, Repository},
    policy::Policy,
};
use mergeyard_run::git::{Remote, RemoteUrl};

use mergeyard_types::RepoName;

use crate::yard::Settings;

impl Settings {
    /// The operator's address wins and may be anything git can fetch from; `{owner}` and
    /// `{name}` in it stand for the repository's. An address from a payload must be public
    /// HTTPS, and gets the token only when it leads to the forge the token belongs to.
    pub fn remote(
        &self,
        policy: &Policy,
        name: &RepoName,
        announced: Option<&str>,
    ) -> Result<Remote, String> {
        let configured = policy
            .clone_url
            .as_ref()
            .map(|url| url.replace("{owner}", name.owner()).replace("{name}", name.name()));
        let address = configured.as_deref().or(announced).ok_or_else(|| {
            format!("nothing says where {name} is fetched from; add `clone_url` to its `[[repo]]` in mergeyard.toml")
        })?;
        let (url, embedded) = RemoteUrl::parse(address).map_err(|error| error.to_string())?;
        let forge = self.forge_token.as_ref().filter(|(host, _)| url.host() == Some(host.as_str()));
        let token =
            embedded.filter(|_| configured.is_some()).or_else(|| forge.map(|(_, token)| token.clone()));
        Ok(Remote { url, token, allow_file: configured.is_some() })
    }

    /// A repository that nothing was ever heard of lives at GitHub, unless the operator says
    /// that it is fetched from elsewhere.
    pub fn never_seen(&self, name: RepoName, policy: Option<&Policy>) -> (Forge, Repository) {
        let elsewhere = |url: &String| !url.starts_with(&self.forge_url);
        let forge = match policy.and_then(|policy| policy.clone_url.as_ref()).is_some_and(elsewhere) {
            true => Forge::Git,
            false => Forge::Github,
        };
        let clone_url = Some(format!("{}/{name}.git", self.forge_url)).filter(|_| forge == Forge::Github);
        (forge, Repository { clone_url, ..Repository::named(name) })
    }
}
