//! `mergeyard cancel RUN`.

use std::sync::Arc;

use mergeyard_types::{RunId, Timestamp};

use super::{Failed, operator};
use crate::{
    config::Config,
    data_dir::DataDir,
    store::{Fuse, Store},
};

pub(super) async fn cancel(config: Config, run: RunId, why: &str) -> Result<(), Failed> {
    let store = open(&config).await?;
    let why = format!("{why} ({})", operator());
    match store.cancel_run(run, &why, Timestamp::now()).await? {
        None => Err(Failed::work(format!("there is no run {run}"))),
        Some(false) => Err(Failed::work(format!("run {run} is over already"))),
        Some(true) => {
            say!("run {run} stops");
            Ok(())
        }
    }
}

/// The database of the configured server, which may run meanwhile.
pub(super) async fn open(config: &Config) -> Result<Store, Failed> {
    let data = DataDir::existing(&config.data_dir)?;
    if !data.database().exists() {
        return Err(Failed::work(format!(
            "there is no database in {}; has a server run with this configuration?",
            config.data_dir.display()
        )));
    }
    Ok(Store::open(&data.database(), Arc::new(Fuse::endless())).await?)
}
