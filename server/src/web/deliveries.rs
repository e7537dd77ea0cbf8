//! Deliveries, and what became of each.

use askama::{Template, filters::Safe};
use axum::extract::{Path, State};
use mergeyard_types::DeliveryId;

use super::{Answer, Filter, Page, Pages, Query, Rows, Shell, asked, badge::Badge, named, page};
use crate::store::{DeliveryRow, DeliveryState};

const PAGE: u32 = 50;

pub(super) struct Listed {
    delivery: DeliveryRow,
    badge: Safe<Badge>,
}

impl From<DeliveryRow> for Listed {
    fn from(delivery: DeliveryRow) -> Self {
        Self { badge: Badge::of(delivery.state), delivery }
    }
}

impl Listed {
    fn verdict(&self) -> &str {
        self.delivery.verdict.as_deref().unwrap_or("waiting to be decided")
    }

    fn size(&self) -> String {
        match self.delivery.body_size {
            bytes @ 0..1024 => format!("{bytes} bytes"),
            bytes => format!("{:.1} KiB", bytes as f64 / 1024.0),
        }
    }

    /// Whether asking for it again may end otherwise.
    fn can_be_replayed(&self) -> bool {
        self.delivery.state != DeliveryState::Queued
    }
}

#[derive(Template)]
#[template(path = "deliveries.html")]
struct Deliveries {
    shell: Shell,
    deliveries: Rows<Listed>,
    first: bool,
}

#[derive(Template)]
#[template(path = "delivery.html")]
struct Delivery {
    shell: Shell,
    listed: Listed,
}

pub(super) async fn deliveries(State(pages): State<Pages>, query: Query<Filter>) -> Page {
    let before = asked(query)?.before;
    let rows = pages.store.deliveries(before, PAGE + 1).await?;
    let deliveries =
        Rows::new(rows.into_iter().map(Listed::from).collect(), PAGE, |listed| listed.delivery.row);
    page(&Deliveries { shell: Shell::new(&pages, "deliveries"), deliveries, first: before.is_none() })
}

pub(super) async fn delivery(State(pages): State<Pages>, Path(guid): Path<String>) -> Page {
    let guid: DeliveryId = named(&guid)?;
    let delivery = pages.store.delivery(&guid).await?.ok_or(Answer::NotFound)?;
    page(&Delivery { shell: Shell::new(&pages, "deliveries"), listed: delivery.into() })
}
