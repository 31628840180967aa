//! Whole behaviours against real processes: real redis-server of several
//! versions, real TLS, the real binary. `make test` brings what they need.

mod support;

mod admin;
mod architecture;
mod attacks;
mod breaks;
mod certs;
mod clients;
mod dials;
mod doctor;
mod documents;
mod ends;
mod failover;
mod failover_guide;
mod files;
mod follow;
mod guide;
mod lanes;
mod life;
mod logs;
mod metrics;
mod observer;
mod orders;
mod outages;
mod page;
mod passwords;
mod refusals;
mod reload;
mod renewal;
mod replication;
mod restarts;
mod returns;
mod revocation;
mod rollover;
mod runbooks;
mod sandbox;
mod sentinel;
mod sites;
mod sites_follow;
mod status;
mod trust;
