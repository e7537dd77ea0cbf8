//! A network of the engine's whose gateway is an address of this machine: programs here, containers
//! and virtual machines all find each other by it.

use super::docker;

pub(super) struct Bridge {
    name: String,
    /// This machine's.
    pub(super) address: String,
}

impl Bridge {
    /// Below 10.213.0.0/16, which the engine itself takes no networks from, nor one inside of a
    /// virtual machine.
    pub(super) fn new() -> Self {
        let name = format!("mergeyard-bridge-{}", uuid::Uuid::new_v4().simple());
        let first = uuid::Uuid::new_v4().as_bytes()[0];
        for third in (0..=u8::MAX).map(|step| first.wrapping_add(step)) {
            let subnet = format!("10.213.{third}.0/24");
            if !docker(&["network", "create", "--subnet", &subnet, &name]).is_empty() {
                return Self { name, address: format!("10.213.{third}.1") };
            }
        }
        panic!("the engine makes no network below 10.213.0.0/16");
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        docker(&["network", "rm", &self.name]);
    }
}
