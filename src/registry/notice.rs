//! The kinds of log lines that are not throttled; [`super::Kind`] has those that are.
//!
//! Every line at info and above has a field `kind`, so that scripts and `replgate events` need not read
//! words. A test looks for lines without one.

use super::events::Class;

macro_rules! notices {
    ($($(#[$doc:meta])* $name:ident = $code:literal: $class:ident;)+) => {
        $($(#[$doc])* pub const $name: &str = $code;)+

        /// The code of every kind.
        pub const CODES: &[&str] = &[$($code,)+];

        /// The class of a kind of this file.
        pub(super) fn class(code: &str) -> Class {
            match code { $($code => Class::$class,)+ _ => Class::Gateway }
        }
    };
}

notices! {
    /// A link is up: its sync has begun.
    UP = "up": Link;
    /// A link that was up has ended.
    DOWN = "down": Link;
    /// A replica that had data of a master gets all of it again.
    FULL_RESYNC = "full-resync": Link;
    /// A replica that came again got what it lacked from memory.
    CONTINUED = "continued": Link;
    /// Another Redis of a master is followed from now on.
    MASTER_FOLLOWED = "master-followed": Link;
    /// The Redis that was followed is not the master any more.
    MASTER_LOST = "master-lost": Link;
    /// The Redis of a master are replicas of another site from now on.
    MASTER_STANDBY = "master-standby": Link;
    /// Another site is followed for a `[[replica]]` from now on.
    SITE_FOLLOWED = "site-followed": Link;
    /// The site that was followed does not have the master any more.
    SITE_LOST = "site-lost": Link;
    /// The gateway has started.
    START = "start": Gateway;
    /// The gateway stops.
    STOP = "stop": Gateway;
    /// A master is offered to other sites.
    OFFERING = "offering": Gateway;
    /// Replicas here may connect to an address.
    LISTENING = "listening": Gateway;
    /// An address is not listened on any more, since the config does not name it any more.
    NOT_LISTENING = "not-listening": Gateway;
    /// A reload that somebody has asked for: what it changes.
    RELOAD = "reload": Gateway;
    /// Such a reload was refused.
    RELOAD_REFUSED = "reload-refused": Gateway;
    /// Files of trust have changed and are in use.
    TRUST = "trust": Gateway;
    /// Files of trust have changed and are not used.
    TRUST_REFUSED = "trust-refused": Gateway;
    /// Something about the files of trust that needs attention.
    TRUST_WARNING = "trust-warning": Gateway;
    /// A revocation list was learnt from another site.
    LIST_LEARNT = "list-learnt": Gateway;
    /// The state folder cannot be written.
    STATE = "state": Gateway;
    /// A certificate, a CA or a revocation list ends soon, or has ended.
    EXPIRY = "expiry": Gateway;
    /// The config permits something dangerous, or something that has no effect.
    CONFIG_WARNING = "config-warning": Gateway;
    /// A file can be read or changed by too many users.
    LOOSE_FILE = "loose-file": Gateway;
    /// What the process may still read, or why it is not locked in.
    SANDBOX = "sandbox": Gateway;
    /// The name of the status socket is taken.
    STATUS_SOCKET = "status-socket": Gateway;
    /// A person has ordered something of the running gateway.
    ORDER = "order": Gateway;
    /// A thread hangs.
    HANG = "hang": Gateway;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Kind;

    #[test]
    fn the_operators_document_lists_every_kind_and_no_code_has_two_meanings() {
        let document = include_str!("../../docs/logs.md");
        for code in CODES {
            assert!(document.contains(&format!("| `{code}` |")), "{code}");
            assert_eq!(Kind::of(code), None, "{code} is a throttled kind too");
        }
    }
}
