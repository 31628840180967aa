//! The code of each finding. A code never changes its level, its subject or its meaning.

use serde::Serialize;

/// How serious a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// It is as it should be.
    Ok,
    /// It works, but may surprise or harm.
    Warn,
    /// It does not work, or must not be.
    Fail,
}

/// What a finding is about. Findings are printed in this order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Subject {
    /// The config and who may change its files.
    Config,
    /// The files of `[tls]`.
    Certificates,
    /// The process that runs with this config.
    Gateway,
    /// The addresses to listen on.
    Listeners,
    /// This host: files, memory, disk, kernel.
    Host,
    /// A `[[master]]` and its Redis.
    Master,
    /// A Redis named by `--replica`.
    Replica,
    /// The way to the far site of a `[[replica]]`.
    FarSite,
}

macro_rules! codes {
    ($($subject:ident { $($level:ident $name:ident = $code:literal,)+ })+) => {
        /// The code of a finding.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub(super) enum Code {
            $($($name,)+)+
        }

        impl Code {
            /// The code as it is printed.
            pub(super) fn name(self) -> &'static str {
                match self { $($(Self::$name => $code,)+)+ }
            }

            /// Its level.
            pub(super) fn level(self) -> Level {
                match self { $($(Self::$name => Level::$level,)+)+ }
            }

            /// Its subject.
            pub(super) fn subject(self) -> Subject {
                match self { $($(Self::$name => Subject::$subject,)+)+ }
            }

            /// All of them.
            #[cfg(test)]
            pub(super) const ALL: &[Self] = &[$($(Self::$name,)+)+];
        }
    };
}

codes! {
    Config {
        Ok Config = "config",
        Ok ConfigIncluded = "config-included",
        Warn ConfigDoubtful = "config-doubtful",
        Ok Writers = "writers",
        Fail WritableByAll = "writable-by-all",
        Warn WritableByGroup = "writable-by-group",
        Ok NoCaKey = "no-ca-key",
        Fail CaKey = "ca-key",
        Ok PasswordFile = "password-file",
        Warn PasswordFileOpen = "password-file-open",
        Fail PasswordFileUnusable = "password-file-unusable",
    }
    Certificates {
        Ok Certificates = "certificates",
        Warn CertificatesDoubtful = "certificates-doubtful",
        Fail CertificatesUnusable = "certificates-unusable",
        Warn LearntListUnusable = "learnt-list-unusable",
        Warn Expires = "expires",
        Warn ExpiresIn14Days = "expires-in-14-days",
        Fail ExpiresIn3Days = "expires-in-3-days",
        Warn StaleIn3Days = "stale-in-3-days",
    }
    Gateway {
        Ok NotRunning = "not-running",
        Ok Running = "running",
        Warn NoStatus = "no-status",
        Warn OtherConfig = "other-config",
        Warn OtherVersion = "other-version",
        Warn ProgramReplaced = "program-replaced",
        Ok OtherUser = "other-user",
        Ok Descriptors = "descriptors",
        Warn DescriptorsFew = "descriptors-few",
        Ok OutageCovered = "outage-covered",
        Warn OutageNotCovered = "outage-not-covered",
    }
    Listeners {
        Ok Listens = "listens",
        Ok PortFree = "port-free",
        Warn NotListening = "not-listening",
        Fail PortTaken = "port-taken",
        Fail SocketFolderMissing = "socket-folder-missing",
    }
    Host {
        Ok Memory = "memory",
        Warn MemoryTight = "memory-tight",
        Ok StateFolder = "state-folder",
        Warn StateFolderFull = "state-folder-full",
        Warn StateFolderUnusable = "state-folder-unusable",
        Ok HistoryFolder = "history-folder",
        Warn HistoryNotKept = "history-not-kept",
        Ok Kernel = "kernel",
        Warn TcpBuffersSmall = "tcp-buffers-small",
        Warn CongestionMissing = "congestion-missing",
    }
    Master {
        Warn CommandsAny = "commands-any",
        Warn AllowsItself = "allows-itself",
        Warn FilterWeakened = "filter-weakened",
        Ok ListedAs = "listed-as",
        Warn SiteNameLong = "site-name-long",
        Warn AcceptsAnnounced = "accepts-announced",
        Ok Sentinel = "sentinel",
        Warn SentinelDown = "sentinel-down",
        Fail SentinelLogin = "sentinel-login",
        Fail SentinelRights = "sentinel-rights",
        Fail SentinelUnknownMaster = "sentinel-unknown-master",
        Fail NoSentinel = "no-sentinel",
        Warn SentinelDeaf = "sentinel-deaf",
        Ok SentinelsAgree = "sentinels-agree",
        Fail SentinelsNoMajority = "sentinels-no-majority",
        Fail SentinelsNameOther = "sentinels-name-other",
        Warn SentinelsFew = "sentinels-few",
        Warn SentinelsNotAll = "sentinels-not-all",
        Ok MasterFound = "master-found",
        Ok MasterElsewhere = "master-elsewhere",
        Fail NoMaster = "no-master",
        Warn MastersSeveral = "masters-several",
        Warn FirstUnproven = "first-unproven",
        Ok CandidateReplica = "candidate-replica",
        Warn CandidateDown = "candidate-down",
        Fail RedisDown = "redis-down",
        Fail RedisLogin = "redis-login",
        Ok RedisLoggedIn = "redis-logged-in",
        Warn RedisOpen = "redis-open",
        Warn RedisWantsPassword = "redis-wants-password",
        Warn RedisOdd = "redis-odd",
        Fail RightsMissing = "rights-missing",
        Warn SettingsUnread = "settings-unread",
        Warn GrantMissing = "grant-missing",
        Ok RedisMaster = "redis-master",
        Ok Chain = "chain",
        Warn ChainDown = "chain-down",
        Warn ChainWritable = "chain-writable",
        Fail RedisCluster = "redis-cluster",
        Fail RedisSentinel = "redis-sentinel",
        Ok Version = "version",
        Warn VersionUntried = "version-untried",
        Ok Hold = "hold",
        Warn HoldLong = "hold-long",
        Ok PingPeriod = "ping-period",
        Warn PingPeriodLong = "ping-period-long",
        Ok WriteRate = "write-rate",
        Ok Backlog = "backlog",
        Warn BacklogShort = "backlog-short",
        Ok OutputBuffer = "output-buffer",
        Warn OutputBufferSmall = "output-buffer-small",
        Ok Persistence = "persistence",
        Warn NoPersistence = "no-persistence",
        Warn PersistenceFailing = "persistence-failing",
        Ok DisklessSync = "diskless-sync",
        Warn DisklessDelayLong = "diskless-delay-long",
        Ok MaxMemory = "maxmemory",
        Warn MaxMemoryTight = "maxmemory-tight",
        Ok MinReplicas = "min-replicas",
        Warn MinReplicasLacking = "min-replicas-lacking",
        Warn ListsItself = "lists-itself",
        Fail Loop = "loop",
        Warn ThroughItself = "through-itself",
        Fail Ring = "ring",
        Ok BothWays = "both-ways",
        Warn MasterNameSlow = "master-name-slow",
        Warn MasterNameChanges = "master-name-changes",
        Warn MasterNotReached = "master-not-reached",
    }
    Replica {
        Fail ReplicaDown = "replica-down",
        Warn ReplicaSettingsUnread = "replica-settings-unread",
        Warn ReplicaGrantMissing = "replica-grant-missing",
        Ok ReplicaFollows = "replica-follows",
        Warn ReplicaFollowsNobody = "replica-follows-nobody",
        Warn ReplicaElsewhere = "replica-elsewhere",
        Warn ReplicaLinkDown = "replica-link-down",
        Warn ReplicaOtherHistory = "replica-other-history",
        Fail MasterauthMissing = "masterauth-missing",
        Ok ReplicaHold = "replica-hold",
        Warn ReplicaHoldLong = "replica-hold-long",
        Ok ReplicaAnnounces = "replica-announces",
        Warn ReplicaWritable = "replica-writable",
        Ok ReplicaStale = "replica-stale",
        Warn ReplicaEmptyFirst = "replica-empty-first",
        Ok ReplicaTwoConnections = "replica-two-connections",
        Ok ReplicaVersion = "replica-version",
        Warn ReplicaVersionUntried = "replica-version-untried",
        Warn ReplicaNotReached = "replica-not-reached",
    }
    FarSite {
        Fail TlsUnusable = "tls-unusable",
        Ok Peer = "peer",
        Warn PeerUnreached = "peer-unreached",
        Ok PeerNoMaster = "peer-no-master",
        Warn PeerUntold = "peer-untold",
        Warn SiteUnreached = "site-unreached",
        Warn SitesSeveral = "sites-several",
        Warn SiteDoubt = "site-doubt",
        Fail NoWay = "no-way",
        Ok Clock = "clock",
        Warn ClockDiffers = "clock-differs",
        Ok RoundTrip = "round-trip",
        Warn RoundTripLong = "round-trip-long",
        Warn WindowSmall = "window-small",
        Warn ReceiveBufferSmall = "receive-buffer-small",
        Warn PeerNameLoopback = "peer-name-loopback",
        Warn PeerNameSlow = "peer-name-slow",
        Warn PeerNameChanges = "peer-name-changes",
        Fail PeerIsTunnel = "peer-is-tunnel",
        Fail PeerIsListener = "peer-is-listener",
        Warn NotReached = "not-reached",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_code_is_explained_with_its_level_under_its_subject_and_no_other_is() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/check.md");
        let page = std::fs::read_to_string(path).unwrap();
        let (_, tables) = page.split_once("\n## Codes\n").unwrap();
        let mut subject = String::new();
        let mut rows = HashSet::new();
        for line in tables.lines().take_while(|line| !line.starts_with("## ")) {
            if let Some((code, _)) = line.strip_prefix("### `").and_then(|heading| heading.split_once('`')) {
                code.clone_into(&mut subject);
            }
            let mut cells = line.split('|').map(str::trim).skip(1);
            if let (Some(code), Some(level), Some(says), Some(advice)) =
                (cells.next(), cells.next(), cells.next(), cells.next())
                && let Some(code) = code.strip_prefix('`').and_then(|code| code.strip_suffix('`'))
            {
                assert!(!says.is_empty(), "{code} is not explained");
                assert!(level == "ok" || !advice.is_empty(), "{code}: what to do?");
                assert!(rows.insert(format!("{subject} {code} {level}")), "{code} is there twice");
            }
        }
        let known: HashSet<String> = Code::ALL
            .iter()
            .map(|code| format!("{} {} {}", word(code.subject()), code.name(), word(code.level())))
            .collect();
        let difference: Vec<_> = known.symmetric_difference(&rows).collect();
        assert!(difference.is_empty(), "docs/check.md and the codes differ in {difference:#?}");
        let names: HashSet<_> = Code::ALL.iter().map(|code| code.name()).collect();
        assert!(names.len() == Code::ALL.len() && names.len() > 80, "each name is used once");
    }

    /// What JSON shows for a value.
    fn word(value: impl Serialize) -> String {
        serde_json::to_value(value).unwrap().as_str().unwrap().to_owned()
    }
}
