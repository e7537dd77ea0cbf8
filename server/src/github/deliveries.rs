//! GitHub's own list of what it sent, and the request to send it again.
//!
//! GitHub never retries by itself. What is on its list and not in our inbox was lost on
//! the way, and is asked for anew: it then arrives under the same id.

use http::{HeaderMap, Method, header};
use mergeyard_types::{DeliveryId, RepoName, Timestamp};
use serde::{Deserialize, Deserializer, de};
use url::Url;

use super::{Github, GithubError, error::Task, hooks};

/// GitHub's largest page.
const PAGE: u8 = 100;

/// A look back reads at most this many pages. It protects GitHub's rate limit from a
/// repository that sends without end; the next look back continues with what is newer.
const MOST_PAGES: usize = 50;

/// One attempt to deliver. An attempt asked for by hand has an id of its own and the guid
/// of the first one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct HookDelivery {
    pub id: u64,
    pub guid: DeliveryId,
    #[serde(deserialize_with = "time")]
    pub delivered_at: Timestamp,
    #[serde(default)]
    pub redelivery: bool,
    /// What our side answered; GitHub writes 0 or a 5xx of its own when it got no answer.
    #[serde(default)]
    pub status_code: u16,
    pub event: String,
    pub action: Option<String>,
}

impl HookDelivery {
    pub fn arrived(&self) -> bool {
        (200..300).contains(&self.status_code)
    }
}

impl Github {
    /// The attempts made at or after `since`, newest first.
    pub async fn deliveries(
        &self,
        repo: &RepoName,
        hook_id: u64,
        since: Timestamp,
    ) -> Result<Vec<HookDelivery>, GithubError> {
        let (mut found, mut cursor) = (Vec::new(), None);
        for _ in 0..MOST_PAGES {
            let (page, next) = self.delivery_page(repo, hook_id, PAGE, cursor).await?;
            let passed = page.last().is_none_or(|oldest| oldest.delivered_at < since);
            found.extend(page.into_iter().filter(|delivery| delivery.delivered_at >= since));
            if passed || next.is_none() {
                return Ok(found);
            }
            cursor = next;
        }
        tracing::warn!(%repo, hook_id, "github lists more than {} deliveries: older ones are not looked at", found.len());
        Ok(found)
    }

    /// Asks GitHub to send a delivery again. It arrives later, or not.
    pub async fn redeliver(
        &self,
        repo: &RepoName,
        hook_id: u64,
        delivery_id: u64,
    ) -> Result<(), GithubError> {
        let what = format!("send delivery {delivery_id} of {repo} again");
        let task = Task { what, permission: hooks::PERMISSION };
        let route = format!("/repos/{repo}/hooks/{hook_id}/deliveries/{delivery_id}/attempts");
        self.call(&task, Method::POST, &route, None).await.map(|_| ())
    }

    /// One page, and where the next one begins.
    pub(super) async fn delivery_page(
        &self,
        repo: &RepoName,
        hook_id: u64,
        length: u8,
        cursor: Option<String>,
    ) -> Result<(Vec<HookDelivery>, Option<String>), GithubError> {
        let what = format!("list the deliveries of webhook {hook_id} of {repo}");
        let task = Task { what, permission: hooks::PERMISSION };
        let cursor = cursor.as_deref().map(|cursor| ("cursor", cursor));
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("per_page", &length.to_string())
            .extend_pairs(cursor)
            .finish();
        let route = format!("/repos/{repo}/hooks/{hook_id}/deliveries?{query}");
        let answer = self.call(&task, Method::GET, &route, None).await?;
        Ok((answer.read(&task)?, next_cursor(&answer.headers)))
    }
}

/// Only the cursor is taken from the link and not the address, so that no header decides
/// where the token is sent.
fn next_cursor(headers: &HeaderMap) -> Option<String> {
    let links = headers.get(header::LINK)?.to_str().ok()?;
    let next = links.split(',').find(|link| link.contains("rel=\"next\""))?;
    let (address, _) = next.split_once('<')?.1.split_once('>')?;
    let address = Url::parse(address).ok()?;
    address.query_pairs().find(|(name, _)| name == "cursor").map(|(_, cursor)| cursor.into_owned())
}

fn time<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
    let time: jiff::Timestamp = String::deserialize(deserializer)?.parse().map_err(de::Error::custom)?;
    Ok(Timestamp(time.as_millisecond()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_a_cursor_and_never_an_address() {
        let cursor = |link: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::LINK, link.parse().unwrap());
            next_cursor(&headers)
        };
        let next = r#"<https://evil.example.org/x?per_page=100&cursor=v1_7%26a>; rel="next""#;
        assert_eq!(cursor(next).as_deref(), Some("v1_7&a"));
        assert_eq!(
            cursor(&format!(r#"<https://a.example.org/?cursor=1>; rel="prev", {next}"#)).as_deref(),
            Some("v1_7&a")
        );
        for none in [
            "",
            "next",
            r#"<https://a.example.org/>; rel="next""#,
            r#"<not an address?cursor=1>; rel="next""#,
        ] {
            assert_eq!(cursor(none), None, "{none}");
        }
    }
}
