//! How much each repository refers to, for the repositories that may not refer to everything.
//!
//! The sum is measured once and then carried on. Whatever makes it uncertain, a removal or an
//! error, makes it unknown, and the next push measures again.

use std::{
    collections::HashMap,
    io,
    sync::{Mutex, MutexGuard, PoisonError},
};

use mergeyard_types::ImageName;

use crate::error::Error;

#[derive(Default)]
pub(crate) struct Quotas(Mutex<HashMap<ImageName, u64>>);

impl Quotas {
    /// Takes `size` bytes of what the repository may hold, or refuses.
    pub(crate) fn charge(
        &self,
        name: &ImageName,
        size: u64,
        quota: Option<u64>,
        measure: impl FnOnce() -> io::Result<u64>,
    ) -> Result<(), Error> {
        let Some(quota) = quota else { return Ok(()) };
        let mut all = self.lock();
        let used = known(&mut all, name, measure)?;
        match used.checked_add(size).filter(|sum| *sum <= quota) {
            Some(sum) => *used = sum,
            None => return Err(Error::Quota { name: name.clone(), quota, used: *used }),
        }
        Ok(())
    }

    /// How many bytes may still come.
    pub(crate) fn left(
        &self,
        name: &ImageName,
        quota: u64,
        measure: impl FnOnce() -> io::Result<u64>,
    ) -> Result<u64, Error> {
        let used = *known(&mut self.lock(), name, measure)?;
        match quota.saturating_sub(used) {
            0 => Err(Error::Quota { name: name.clone(), quota, used }),
            left => Ok(left),
        }
    }

    pub(crate) fn refund(&self, name: &ImageName, size: u64) {
        if let Some(used) = self.lock().get_mut(name) {
            *used = used.saturating_sub(size);
        }
    }

    pub(crate) fn forget(&self, name: &ImageName) {
        self.lock().remove(name);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<ImageName, u64>> {
        // Each holder does one operation on the map, so a panic cannot leave it half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn known<'a>(
    all: &'a mut HashMap<ImageName, u64>,
    name: &ImageName,
    measure: impl FnOnce() -> io::Result<u64>,
) -> io::Result<&'a mut u64> {
    if !all.contains_key(name) {
        all.insert(name.clone(), measure()?);
    }
    Ok(all.entry(name.clone()).or_default())
}
