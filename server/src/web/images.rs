//! What was published, by name.

use askama::Template;
use axum::extract::State;
use mergeyard_types::ImageName;

use super::{Answer, Filter, Page, Pages, Query, Rows, Shell, asked, page};
use crate::store::ImageRow;

const PAGE: u32 = 100;

/// The versions of one image, newest first.
struct Group {
    name: ImageName,
    images: Vec<ImageRow>,
}

#[derive(Template)]
#[template(path = "images.html")]
struct Images {
    shell: Shell,
    name: Option<ImageName>,
    groups: Vec<Group>,
    next: Option<i64>,
    first: bool,
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
    let shell = Shell::new(&pages, "images");
    page(&Images { shell, name, groups: group(rows), next, first: filter.before.is_none() })
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
