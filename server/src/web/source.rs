//! Places at the forge, as addresses that a page may link to.

use mergeyard_types::CommitSha;
use url::Url;

/// A repository as a browser looks at it; `None` when nobody said where that is.
#[derive(Debug, Clone)]
pub(super) struct Source(Option<Url>);

impl Source {
    pub(super) fn of(text: Option<&str>) -> Self {
        Self(text.and_then(web_address))
    }

    pub(super) fn commit(&self, commit: CommitSha) -> Option<String> {
        self.0.as_ref().map(|source| format!("{source}/commit/{commit}"))
    }

    pub(super) fn pull(&self, number: Option<u64>) -> Option<String> {
        let number = number?;
        self.0.as_ref().map(|source| format!("{source}/pull/{number}"))
    }

    /// A file of a commit.
    pub(super) fn file(&self, commit: CommitSha, file: &str) -> Option<String> {
        let mut url = self.0.clone()?;
        url.path_segments_mut().ok()?.extend(["blob", &commit.to_string()]).extend(file.split('/'));
        Some(url.into())
    }
}

/// Only addresses of the web become links, and none takes somebody's password along.
/// `Display` of the result has no slash at its end.
fn web_address(text: &str) -> Option<Url> {
    let mut url = Url::parse(text).ok()?;
    let web = matches!(url.scheme(), "http" | "https") && url.has_host();
    let plain = url.username().is_empty() && url.password().is_none();
    if !web || !plain || url.path().len() < 2 {
        return None;
    }
    url.set_query(None);
    url.set_fragment(None);
    let path = url.path().trim_end_matches('/').trim_end_matches(".git").to_owned();
    url.set_path(&path);
    Some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_web_become_links() {
        let link = |text: &str| web_address(text).map(|url| url.to_string());
        assert_eq!(link("https://github.com/acme/clock").unwrap(), "https://github.com/acme/clock");
        assert_eq!(link("http://git.example.org/a/b.git/").unwrap(), "http://git.example.org/a/b");
        for bad in [
            "javascript:alert(1)",
            "data:text/html,x",
            "file:///etc",
            "https://u:p@h/a/b",
            "//h/a",
            "https://h",
            "",
        ] {
            assert_eq!(link(bad), None, "{bad}");
        }
    }
}
