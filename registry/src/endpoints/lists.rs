//! Lists, a page at a time: the tags of a repository, and the repositories of the registry.

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::header;
use mergeyard_types::ImageName;
use serde::Deserialize;
use serde_json::json;

use super::Call;
use crate::{
    access::Right,
    error::{Error, insert},
    store::lists::tag_order,
};

#[derive(Deserialize)]
pub(super) struct Page {
    n: Option<String>,
    last: Option<String>,
}

impl Call<'_> {
    pub(super) async fn tags(&self, name: ImageName) -> Result<Response, Error> {
        let page: Page = self.query()?;
        let wanted = name.clone();
        let tags = self
            .registry
            .read(move |store| store.is_found(&wanted)?.then(|| store.tags(&wanted)).transpose())
            .await?;
        let tags = tags.ok_or_else(|| Error::NameUnknown(name.clone()))?;
        // A `last` that is no tag lies between none, and begins the list as an empty one does.
        let last = page.last.as_deref().and_then(|last| last.parse().ok()).map(|last| tag_order(&last));
        let after = tags.iter().filter(|tag| last.as_ref().is_none_or(|last| tag_order(tag) > *last));
        let (tags, more) = self.cut(&page, after.map(ToString::to_string))?;
        let next = more.then(|| link(&format!("/v2/{name}/tags/list"), &tags));
        Ok(listed(json!({"name": name, "tags": tags}), next))
    }

    /// Only what this account may pull; the others do not exist for it.
    pub(super) async fn catalog(&self) -> Result<Response, Error> {
        let page: Page = self.query()?;
        let names = self.registry.repositories().await?;
        let visible = names.iter().filter(|name| self.identity.holds(Right::Pull, name));
        let after = visible.filter(|name| page.last.as_deref().is_none_or(|last| name.as_str() > last));
        let (names, more) = self.cut(&page, after.map(ToString::to_string))?;
        let next = more.then(|| link("/v2/_catalog", &names));
        Ok(listed(json!({"repositories": names}), next))
    }

    /// The first `n` entries, and whether there are more of them to ask for.
    pub(super) fn cut(
        &self,
        page: &Page,
        entries: impl Iterator<Item = String>,
    ) -> Result<(Vec<String>, bool), Error> {
        let most = self.registry.config.limits.page_entries;
        let n = match page.n.as_deref() {
            None => most,
            Some(text) if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) => {
                text.parse().map_or(most, |n: usize| n.min(most))
            }
            Some(text) => return Err(Error::Query(format!("n=`{}` is not a number", text.escape_debug()))),
        };
        let mut page: Vec<String> = entries.take(n + 1).collect();
        let more = n > 0 && page.len() > n;
        page.truncate(n);
        Ok((page, more))
    }
}

/// Names and tags need no encoding in a query. The page's size is part of the next page's address.
fn link(path: &str, entries: &[String]) -> String {
    let last = entries.last().map_or("", String::as_str);
    format!("<{path}?n={}&last={last}>; rel=\"next\"", entries.len())
}

fn listed(list: serde_json::Value, next: Option<String>) -> Response {
    let mut response = Json(list).into_response();
    if let Some(next) = next {
        insert(response.headers_mut(), header::LINK, next);
    }
    response
}
