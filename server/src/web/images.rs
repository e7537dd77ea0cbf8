//! What was published by runs, and what the registry holds whoever pushed it.

use askama::Template;
use axum::extract::State;
use mergeyard_registry::{Registry, Tagged};
use mergeyard_types::ImageName;

use super::{Answer, Filter, Page, Pages, Query, Rows, Shell, asked, page};
use crate::store::ImageRow;

const PAGE: u32 = 100;

/// Keeps a registry with very many repositories from being walked for one page.
const REPOSITORIES: usize = 200;

/// The versions of one image, newest first.
struct Group {
    name: ImageName,
    images: Vec<ImageRow>,
}

/// One repository of the registry.
struct Repository {
    name: ImageName,
    newest: Tagged,
    tags: usize,
}

#[derive(Template)]
#[template(path = "images.html")]
struct Images {
    shell: Shell,
    name: Option<ImageName>,
    groups: Vec<Group>,
    next: Option<i64>,
    first: bool,
    repositories: Vec<Repository>,
    tags: Vec<Tagged>,
}

impl Images {
    fn path(&self) -> String {
        self.name.as_ref().map_or_else(|| "/images?".to_owned(), |name| format!("/images?name={name}&"))
    }
}

pub(super) async fn images(State(pages): State<Pages>, query: Query<Filter>) -> Page {
    let filter = asked(query)?;
    let name = filter.name.as_deref().map(str::parse).transpose();
    let name: Option<ImageName> = name.map_err(|error| Answer::BadRequest(format!("{error}")))?;
    let rows = match &name {
        Some(name) => pages.store.images_of(name, filter.before, PAGE + 1).await?,
        None => pages.store.images(filter.before, PAGE + 1).await?,
    };
    let Rows { rows, next } = Rows::new(rows, PAGE, |image| image.row);
    let first = filter.before.is_none();
    let (mut repositories, mut tags) = (Vec::new(), Vec::new());
    match (pages.registry.as_ref().filter(|_| first), &name) {
        (Some(registry), None) => repositories = overview(registry).await?,
        (Some(registry), Some(name)) => {
            tags = registry.newest_tags(name).await?;
            tags.truncate(PAGE as usize);
        }
        (None, _) => {}
    }
    let shell = Shell::new(&pages, "images");
    page(&Images { shell, name, groups: group(rows), next, first, repositories, tags })
}

/// The repositories that were pushed to last.
async fn overview(registry: &Registry) -> Result<Vec<Repository>, Answer> {
    let mut repositories = Vec::new();
    for name in registry.repositories().await?.into_iter().take(REPOSITORIES) {
        let mut tags = registry.newest_tags(&name).await?;
        if !tags.is_empty() {
            repositories.push(Repository { name, tags: tags.len(), newest: tags.swap_remove(0) });
        }
    }
    repositories.sort_by_key(|repository| std::cmp::Reverse(repository.newest.pushed));
    Ok(repositories)
}

/// In the order of each group's newest image.
fn group(rows: Vec<ImageRow>) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for image in rows {
        match groups.iter_mut().find(|group| group.name == image.image.name) {
            Some(group) => group.images.push(image),
            None => groups.push(Group { name: image.image.name.clone(), images: vec![image] }),
        }
    }
    groups
}
