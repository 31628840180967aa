//! Long breaks with the default settings, under a steady load: `make soak`. Each test prints a line
//! with its results. In every test the master is watched all the time: it never counts more replicas
//! than there are.

#[allow(dead_code)] // It is shared with other tests.
#[path = "../it/support/mod.rs"]
mod support;

mod any;
mod balancer;
mod breaks;
mod expiry;
mod gap;
mod lanes;
mod load;
mod outages;
mod pauses;
mod restarts;
mod results;
