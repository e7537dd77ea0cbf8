//! Where a repository is fetched from, checked before any program sees it.

use std::fmt;

use mergeyard_types::Secret;
use url::{Host, Url};

use super::GitError;

/// The address and, apart from it, the credential. The credential is never part of the address.
#[derive(Debug, Clone)]
pub struct Remote {
    pub url: RemoteUrl,
    /// Sent as the password of HTTP basic authentication with the user `x-access-token`, as GitHub wants it.
    pub token: Option<Secret>,
    /// The operator configured this address, so it may be a folder of this machine or plain HTTP.
    pub allow_file: bool,
}

impl Remote {
    /// Whether git may be sent there at all.
    pub(super) fn check(&self) -> Result<(), GitError> {
        match self.url.needs_permission().filter(|_| !self.allow_file) {
            Some(why) => Err(GitError::Refused(format!("{}: {why}", self.url))),
            None => Ok(()),
        }
    }
}

/// An address git may be given: no options, no commands, no credentials in it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct RemoteUrl(Url);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not a usable clone address: {why}")]
pub struct RemoteUrlError {
    text: String,
    why: &'static str,
}

impl RemoteUrl {
    /// Also hands back the password the text carried, if it did: it belongs into [`Remote::token`].
    pub fn parse(text: &str) -> Result<(RemoteUrl, Option<Secret>), RemoteUrlError> {
        let refuse = |why| RemoteUrlError { text: masked(text), why };
        if text.len() > 2000 {
            return Err(refuse("it is longer than 2000 characters"));
        }
        if text.starts_with('-') {
            return Err(refuse("it begins with `-`, as an option would"));
        }
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return Err(refuse("it has a blank or a control character in it"));
        }
        if text.contains("::") && !text.contains("://[") {
            return Err(refuse("`transport::address` would run a program"));
        }
        let mut url = Url::parse(text).map_err(|_| refuse("it must read `https://host/owner/name.git`"))?;
        check(&url).map_err(refuse)?;
        let secret =
            url.password().or(Some(url.username()).filter(|u| !u.is_empty() && url.scheme() != "ssh"));
        let secret = secret.map(|s| Secret::new(percent_decoded(s)));
        if url.scheme() != "ssh" {
            let _ = url.set_username("");
        }
        let _ = url.set_password(None);
        Ok((RemoteUrl(url), secret))
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn host(&self) -> Option<&str> {
        self.0.host_str()
    }

    pub fn scheme(&self) -> &str {
        self.0.scheme()
    }

    /// Needs the operator's word: a folder of this machine, or HTTP without TLS to another one.
    fn needs_permission(&self) -> Option<&'static str> {
        match self.0.scheme() {
            "file" => Some("a `file://` address is only used when the operator configured it as `clone_url`"),
            "http" if !is_loopback(&self.0) => Some(
                "plain `http://` to another machine is only used when the operator configured it as `clone_url`",
            ),
            _ => None,
        }
    }
}

impl std::str::FromStr for RemoteUrl {
    type Err = RemoteUrlError;

    fn from_str(text: &str) -> Result<Self, RemoteUrlError> {
        match RemoteUrl::parse(text)? {
            (url, None) => Ok(url),
            (_, Some(_)) => {
                Err(RemoteUrlError { text: masked(text), why: "credentials do not belong into the address" })
            }
        }
    }
}

fn check(url: &Url) -> Result<(), &'static str> {
    match url.scheme() {
        "https" | "http" | "ssh" => match url.host_str() {
            None | Some("") => Err("it names no host"),
            Some(host) if host.starts_with('-') => Err("its host begins with `-`, as an option would"),
            Some(_) if url.username().starts_with('-') => Err("its user begins with `-`, as an option would"),
            Some(_) if url.query().is_some() || url.fragment().is_some() => {
                Err("it has a query or a fragment")
            }
            Some(_) => Ok(()),
        },
        "file" if url.host().is_some() => Err("a `file://` address cannot name a host"),
        "file" => Ok(()),
        _ => Err("only https, http, ssh and file addresses are fetched"),
    }
}

fn is_loopback(url: &Url) -> bool {
    match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    }
}

fn percent_decoded(text: &str) -> String {
    url::form_urlencoded::parse(text.replace('+', "%2B").as_bytes())
        .map(|(key, _)| key.into_owned())
        .collect()
}

/// The address as it may be shown: what stands between `//` and `@` is taken out.
fn masked(text: &str) -> String {
    let shown = match (text.find("//"), text.rfind('@')) {
        (Some(start), Some(end)) if start + 2 < end => format!("{}****{}", &text[..start + 2], &text[end..]),
        _ => text.to_owned(),
    };
    shown.chars().take(200).flat_map(char::escape_debug).collect()
}

impl fmt::Display for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

impl fmt::Debug for RemoteUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_run_or_smuggle_something_are_refused() {
        for bad in [
            "",
            "-u",
            "--upload-pack=id",
            "ext::sh -c id",
            "ext::sh%20-c%20id",
            "fd::17",
            "https://-oProxyCommand=id/x",
            "ssh://-oProxyCommand=id/x",
            "https://host/a\nb",
            "https://host/a b",
            "git://host/x",
            "ftp://host/x",
            "/etc",
            "../x",
            "file://host/x",
            "https://host/x?y",
            "javascript:1",
            "host:path",
        ] {
            assert!(RemoteUrl::parse(bad).is_err(), "{bad:?} was taken for a clone address");
        }
    }

    #[test]
    fn credentials_are_taken_out_of_the_address() {
        let (url, token) = RemoteUrl::parse("https://bot:p%40ss+1@git.example.org/a/b.git").unwrap();
        assert_eq!(url.as_str(), "https://git.example.org/a/b.git");
        assert_eq!(token.unwrap().expose(), "p@ss+1");
        let (url, token) = RemoteUrl::parse("https://ghp_abcdef@github.com/a/b").unwrap();
        assert_eq!((url.as_str(), token.unwrap().expose()), ("https://github.com/a/b", "ghp_abcdef"));
        let error = RemoteUrl::parse("https://bot:hunter22@host/x?y").unwrap_err().to_string();
        assert!(!error.contains("hunter22"), "{error}");
        assert_eq!("ssh://git@host/a/b.git".parse::<RemoteUrl>().unwrap().as_str(), "ssh://git@host/a/b.git");
    }

    #[test]
    fn only_the_operator_allows_folders_and_plain_http_to_others() {
        let needs = |text: &str| text.parse::<RemoteUrl>().unwrap().needs_permission().is_some();
        assert!(
            needs("file:///srv/git/a.git") && needs("http://git.example.org/a") && needs("http://10.0.0.1/a")
        );
        assert!(
            !needs("http://127.0.0.1:3000/a")
                && !needs("http://[::1]/a")
                && !needs("https://git.example.org/a")
        );
    }
}
