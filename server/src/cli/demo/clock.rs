//! The clock application, started from what the registry holds.

use std::{collections::HashMap, time::Duration};

use mergeyard_run::engine::{Engine, RegistryCredentials, Service};
use mergeyard_types::{ImageRef, Timestamp};
use uuid::Uuid;

use super::super::Failed;
use crate::{serve::Server, store::RunPage};

/// The port both halves of the clock listen on inside their containers.
const PORT: u16 = 8080;

/// A container that takes longer to answer than this does not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// It exists from the start of the demo, so that however the demo ends, what it made is known.
pub(super) struct Clock {
    engine: Engine,
    /// Tells this demo's containers from another's.
    name: String,
    images: Vec<ImageRef>,
    port: u16,
}

impl Clock {
    pub(super) fn new(engine: &str) -> Self {
        let name = format!("mergeyard-demo-{}", &Uuid::new_v4().simple().to_string()[..8]);
        Self { engine: Engine::at(engine), name, images: Vec::new(), port: 0 }
    }

    /// Forgets what the build left in the engine and fetches both images by their digests,
    /// as a machine elsewhere would.
    pub(super) async fn pull(&mut self, server: &Server, page: &RunPage) -> Result<(), Failed> {
        let access = &server.registry;
        let credentials =
            RegistryCredentials { username: access.username.clone(), password: access.password.clone() };
        for image in &page.images {
            self.engine.remove_image(&image.image.to_string()).await?;
            let image = image.image.by_digest(image.digest);
            self.images.push(image.clone());
            self.engine.pull(&image, &credentials).await?;
        }
        Ok(())
    }

    pub(super) async fn start(&mut self) -> Result<(), Failed> {
        let labels = HashMap::from([("mergeyard.demo".to_owned(), self.name.clone())]);
        self.engine.create_network(&self.name, labels.clone()).await?;
        let backend = Service {
            name: self.backend_name(),
            image: self.image("clock-backend")?,
            environment: vec![],
            network: self.name.clone(),
            publish: None,
            labels,
        };
        let frontend = Service {
            name: self.frontend_name(),
            image: self.image("clock-frontend")?,
            environment: vec![("CLOCK_BACKEND".to_owned(), format!("{}:{PORT}", backend.name))],
            publish: Some(PORT),
            ..backend.clone()
        };
        self.engine.start(&backend).await?;
        let port = self.engine.start(&frontend).await?;
        self.port = port.ok_or_else(|| Failed::work("the engine gave the clock no port"))?;
        Ok(())
    }

    fn image(&self, name: &str) -> Result<ImageRef, Failed> {
        let image = self.images.iter().find(|image| image.name.as_str() == name);
        image.cloned().ok_or_else(|| Failed::work(format!("the run published no {name}")))
    }

    /// The time must come through the page's server from the backend, and be now.
    pub(super) async fn check(&self) -> Result<(), Failed> {
        let client = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(5)).build()?;
        let address = format!("{}clock", self.url());
        let answer = tokio::time::timeout(PATIENCE, async {
            loop {
                match client.get(&address).send().await.and_then(reqwest::Response::error_for_status) {
                    Ok(answer) => return answer.text().await,
                    Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                }
            }
        });
        let text = answer.await.map_err(|_| Failed::work(format!("{address} did not answer in time")))??;
        let told: f64 = text
            .trim()
            .parse()
            .map_err(|_| Failed::work(format!("{address} answered `{text}`, which is no time")))?;
        let now = Timestamp::now().0 as f64 / 1000.0;
        if (now - told).abs() > 60.0 {
            return Err(Failed::work(format!("the clock says {told}, but it is {now}")));
        }
        Ok(())
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}/", self.port)
    }

    /// Leaves nothing behind; what is gone already is none of its concern.
    pub(super) async fn remove(&self) {
        let _ = self.engine.remove_container(&self.frontend_name()).await;
        let _ = self.engine.remove_container(&self.backend_name()).await;
        let _ = self.engine.remove_network(&self.name).await;
        // Nobody could pull them again: their registry goes too.
        for image in &self.images {
            let _ = self.engine.remove_image(&image.to_string()).await;
        }
    }

    fn backend_name(&self) -> String {
        format!("{}-backend", self.name)
    }

    fn frontend_name(&self) -> String {
        format!("{}-frontend", self.name)
    }
}
