//! Rate limits: failed logins by address, requests by account.
//!
//! Who fails to log in is only ever slowed down in failing: a right secret is let in from an
//! address that has failed too often too. The secrets here are random and too long to be found at
//! any rate of guessing, so a lock on the address would stop no attacker that the secrets do not
//! stop already; but it would let one machine behind a shared address keep all others behind it
//! out. What the limit does is tell a program that tries words, or a misconfigured one that never
//! stops, to wait, and keep what it does out of the way of others.
//!
//! Whoever counts strangers must not let them choose how much memory that takes. Addresses
//! therefore share a table of fixed size; two that meet in one place share what they may fail.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    num::NonZeroU32,
    time::Duration,
};

use governor::{
    NotUntil, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
    middleware::NoOpMiddleware,
    state::{InMemoryState, NotKeyed, keyed::HashMapStateStore},
};

use super::{account::Identity, robots::ROBOTS};
use crate::config::Limits;

/// 160 KiB, and so many addresses that two which fail at once seldom share a place.
const PLACES: usize = 4096;

pub(super) struct Throttle<C: Clock = DefaultClock> {
    failures: ByAddress<C>,
    requests: Option<Requests<C>>,
    clock: C,
}

struct Requests<C: Clock> {
    accounts: RateLimiter<String, HashMapStateStore<String>, C, NoOpMiddleware<C::Instant>>,
    anonymous: ByAddress<C>,
}

impl<C: Clock + Clone> Throttle<C> {
    pub(super) fn new(limits: &Limits, clock: C) -> Self {
        let requests = limits.requests_per_minute.map(|most| Requests {
            accounts: RateLimiter::hashmap_with_clock(Quota::per_minute(most), clock.clone()),
            anonymous: ByAddress::new(most, &clock),
        });
        Self { failures: ByAddress::new(limits.failed_logins_per_minute, &clock), requests, clock }
    }

    /// Counts a failed login; too many are told how long to wait.
    pub(super) fn failed_login(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        self.failures.count(address, &self.clock)
    }

    /// Counts a request that is let in. Nobody in particular is told apart by address, so that one
    /// of them does not use up what all others may.
    pub(super) fn request(&self, identity: &Identity, address: Option<IpAddr>) -> Result<(), Duration> {
        let Some(requests) = &self.requests else { return Ok(()) };
        if identity.is_anonymous() {
            return requests.anonymous.count(address, &self.clock);
        }
        // Only proven names get here, but revoked ones would stay for ever.
        if requests.accounts.len() > 2 * ROBOTS {
            requests.accounts.retain_recent();
        }
        requests.accounts.check_key(&identity.name).map_err(|until| wait(&until, &self.clock))
    }
}

/// Failed attempts by address, for who lets others in than this registry's accounts.
pub struct FailedAttempts {
    addresses: ByAddress<DefaultClock>,
    clock: DefaultClock,
}

impl FailedAttempts {
    pub fn per_minute(most: NonZeroU32) -> Self {
        let clock = DefaultClock::default();
        Self { addresses: ByAddress::new(most, &clock), clock }
    }

    /// Counts one more; too many are told how long to wait.
    pub fn count(&self, address: Option<IpAddr>) -> Result<(), Duration> {
        self.addresses.count(address, &self.clock)
    }
}

type Place<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

struct ByAddress<C: Clock> {
    places: Box<[Place<C>]>,
    /// Random, so that nobody can choose an address that shares a place with another.
    hasher: RandomState,
}

impl<C: Clock + Clone> ByAddress<C> {
    fn new(most: NonZeroU32, clock: &C) -> Self {
        let place = || RateLimiter::direct_with_clock(Quota::per_minute(most), clock.clone());
        Self { places: (0..PLACES).map(|_| place()).collect(), hasher: RandomState::new() }
    }

    fn count(&self, address: Option<IpAddr>, clock: &C) -> Result<(), Duration> {
        let at = self.hasher.hash_one(address.map(network)) % PLACES as u64;
        self.places[at as usize].check().map_err(|until| wait(&until, clock))
    }
}

fn wait<C: Clock>(until: &NotUntil<C::Instant>, clock: &C) -> Duration {
    until.wait_time_from(clock.now())
}

/// Who has one IPv6 address has the 2^64 beside it.
fn network(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits() >> 64 << 64,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use governor::clock::FakeRelativeClock;

    use super::*;
    use crate::{
        access::{Account, SecretHash},
        config::Config,
    };

    fn limits(requests: Option<u32>, failures: u32) -> Limits {
        Limits {
            requests_per_minute: requests.and_then(NonZeroU32::new),
            failed_logins_per_minute: NonZeroU32::new(failures).unwrap(),
            ..Limits::default()
        }
    }

    fn address(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    #[test]
    fn failures_are_counted_by_address_and_forgiven_with_time() {
        let clock = FakeRelativeClock::default();
        let throttle = Throttle::new(&limits(None, 3), clock.clone());
        let fail = |from: &str| throttle.failed_login(address(from));
        for _ in 0..3 {
            assert_eq!(fail("192.0.2.1"), Ok(()));
        }
        assert_eq!(fail("192.0.2.1"), Err(Duration::from_secs(20)));
        assert_eq!(fail("::ffff:192.0.2.1"), Err(Duration::from_secs(20)));
        assert_eq!(fail("192.0.2.2"), Ok(()));
        clock.advance(Duration::from_secs(20));
        assert_eq!(fail("192.0.2.1"), Ok(()));
        assert!(fail("192.0.2.1").is_err());
    }

    #[test]
    fn an_ipv6_network_is_one_address() {
        let throttle = Throttle::new(&limits(None, 2), FakeRelativeClock::default());
        assert!(throttle.failed_login(address("2001:db8::1")).is_ok());
        assert!(throttle.failed_login(address("2001:db8::ffff:1:2:3")).is_ok());
        assert!(throttle.failed_login(address("2001:db8::2")).is_err());
        assert!(throttle.failed_login(address("2001:db8:0:1::2")).is_ok());
    }

    #[test]
    fn a_hundred_thousand_addresses_take_no_more_memory_than_one() {
        let throttle = Throttle::new(&limits(Some(5), 1), FakeRelativeClock::default());
        let failed =
            (0..100_000u32).filter(|n| throttle.failed_login(Some(IpAddr::V4((*n).into()))).is_err());
        assert!(failed.count() >= 100_000 - PLACES);
        assert_eq!(throttle.failures.places.len(), PLACES);
    }

    #[test]
    fn one_account_that_asks_too_much_costs_no_other() {
        let clock = FakeRelativeClock::default();
        let throttle = Throttle::new(&limits(Some(2), 1), clock.clone());
        let config = Arc::new(Config::default());
        let account = |name: &str| {
            let account = Account {
                name: name.into(),
                secret: SecretHash::NOBODY,
                grants: Vec::new(),
                is_operator: false,
                expires: None,
            };
            Identity::account(Arc::new(account), &config)
        };
        let (ci, other, nobody) = (account("ci"), account("other"), Identity::anonymous(&config));
        let ask = |who: &Identity, from: &str| throttle.request(who, address(from));
        assert!(ask(&ci, "192.0.2.1").is_ok() && ask(&ci, "192.0.2.2").is_ok());
        assert_eq!(ask(&ci, "192.0.2.3"), Err(Duration::from_secs(30)));
        assert!(ask(&other, "192.0.2.1").is_ok());
        assert!(ask(&nobody, "192.0.2.1").is_ok() && ask(&nobody, "192.0.2.1").is_ok());
        assert!(ask(&nobody, "192.0.2.1").is_err());
        clock.advance(Duration::from_secs(30));
        assert!(ask(&ci, "192.0.2.3").is_ok());
        let unlimited = Throttle::new(&limits(None, 1), clock);
        assert!((0..1000).all(|_| unlimited.request(&ci, None).is_ok()));
    }
}
