//! The listening sockets of a gateway, which a reload opens, closes, or gives to another entry.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};

use crate::admin::http::{self, Served, Server};
use crate::config::{Admin, Config, Master, Replica};
use crate::current::Current;
use crate::listener;
use crate::registry::{Kind, Topic, log_throttled, notice};
use crate::sandbox;
use crate::session::replica_listener::{self, ReplicaListener};
use crate::session::{Shared, inbound};
use crate::units::ListenAddress;
use crate::unproven;
use crate::workers::Workers;

/// The sockets on which connections are accepted.
pub(super) struct Listeners {
    shared: Arc<Shared>,
    workers: Arc<Workers>,
    tasks: TaskTracker,
    /// For other sites: its address, and what closes it.
    sites: Option<(SocketAddr, CancellationToken)>,
    /// For replicas here, by address.
    replicas: HashMap<SocketAddr, Serving>,
    /// For those who look at the state.
    admin: Option<Served>,
    /// Their thread, since the first `[admin]`.
    server: Option<Server>,
}

/// A listener for replicas.
struct Serving {
    entry: Arc<Current<ReplicaListener>>,
    close: CancellationToken,
}

/// Sockets that are bound and accept nothing yet.
pub(super) struct Bound {
    tcp: HashMap<SocketAddr, TcpListener>,
    admin: Option<http::Bound>,
}

impl Listeners {
    /// None yet.
    pub(super) fn new(shared: &Arc<Shared>, workers: &Arc<Workers>, tasks: &TaskTracker) -> Self {
        let (shared, workers, tasks) = (Arc::clone(shared), Arc::clone(workers), tasks.clone());
        Self { shared, workers, tasks, sites: None, replicas: HashMap::new(), admin: None, server: None }
    }

    /// Binds every address of `config` that is not bound yet. The error names each that cannot be; then
    /// none of them is.
    pub(super) fn bind(&mut self, config: &Config) -> Result<Bound, Vec<String>> {
        let (mut tcp, mut faults) = (HashMap::new(), Vec::new());
        let sites =
            config.listen.map(|address| (address, self.is_open_for_sites(address), "[tunnel]".to_owned()));
        let replicas = config.replicas.iter().map(|entry| {
            let is_open = self.replicas.contains_key(&entry.listen);
            (entry.listen, is_open, format!("replica {:?}", entry.name))
        });
        for (address, is_open, what) in sites.into_iter().chain(replicas) {
            if is_open {
                continue;
            }
            match listener::bind(address) {
                Ok(listener) => {
                    tcp.insert(address, listener);
                }
                Err(error) => {
                    let hint = self.hint(&error, address);
                    faults.push(format!("{what}: listen on {address}: {error}{hint}"));
                }
            }
        }
        let admin = config.admin.as_ref().filter(|_| faults.is_empty());
        let admin = admin.and_then(|admin| self.bind_admin(admin).transpose()).transpose();
        let admin = admin.map_err(|fault| faults.push(fault)).ok().flatten();
        if faults.is_empty() { Ok(Bound { tcp, admin }) } else { Err(faults) }
    }

    /// Binds the address of `[admin]`, if it is not bound yet, and starts its thread if there is none. This
    /// comes last: who cannot have the other addresses takes away no socket's file.
    fn bind_admin(&mut self, admin: &Admin) -> Result<Option<http::Bound>, String> {
        if self.admin.as_ref().is_some_and(|served| served.is_at(admin)) {
            return Ok(None);
        }
        let fault = |why: String| format!("[admin]: listen on {}: {why}", admin.listen);
        if let ListenAddress::Unix(path) = &admin.listen
            && let Some(folder) = sandbox::outside_for_socket(path)
        {
            return Err(fault(sandbox::words(&folder)));
        }
        if self.server.is_none() {
            let server = Server::start(&self.shared, &self.workers, &self.tasks);
            self.server = Some(server.map_err(|error| fault(format!("start its thread: {error}")))?);
        }
        http::bind(&admin.listen).map(Some).map_err(|why| {
            let own = match &admin.listen {
                ListenAddress::Ip(address) => self.overlaps(*address),
                ListenAddress::Unix(_) => None,
            };
            fault(own.map_or(why, needs_restart))
        })
    }

    /// What to do about an address that cannot be bound.
    fn hint(&self, error: &std::io::Error, address: SocketAddr) -> String {
        let own = self.overlaps(address).filter(|_| error.kind() == std::io::ErrorKind::AddrInUse);
        own.map_or_else(|| listener::hint(error, address), |own| format!("; {}", needs_restart(own)))
    }

    /// The address on which this gateway listens already, and which takes this one in, or lies in it.
    fn overlaps(&self, address: SocketAddr) -> Option<SocketAddr> {
        let sites = self.sites.as_ref().map(|(address, _)| *address);
        let admin = self.admin.as_ref().and_then(|served| match served.address() {
            ListenAddress::Ip(address) => Some(*address),
            ListenAddress::Unix(_) => None,
        });
        let mut open = sites.into_iter().chain(self.replicas.keys().copied()).chain(admin);
        open.find(|own| listener::overlap(*own, address))
    }

    fn is_open_for_sites(&self, address: SocketAddr) -> bool {
        self.sites.as_ref().is_some_and(|(sites, _)| *sites == address)
    }

    /// Listens as the config in use says: accepts on the sockets that [`Listeners::bind`] has returned
    /// for it, gives open ones to the entries that have their addresses now, and closes the others.
    pub(super) fn follow(&mut self, bound: Bound) {
        let Bound { mut tcp, admin } = bound;
        let config = self.shared.config();
        if let Some((address, close)) = self.sites.take_if(|(address, _)| Some(*address) != config.listen) {
            info!(kind = notice::NOT_LISTENING, listen = %address, "no longer listening for other sites");
            close.cancel();
        }
        self.replicas.retain(|address, serving| {
            let stays = config.replicas.iter().any(|entry| entry.listen == *address);
            if !stays {
                info!(kind = notice::NOT_LISTENING, replica = %serving.entry.now().replica.name, listen = %address, "no longer listening for replicas");
                serving.close.cancel();
            }
            stays
        });
        if let Some(address) = config.listen
            && let Some(listener) = tcp.remove(&address)
        {
            let close = self.accept_sites(listener, address);
            self.sites = Some((address, close));
        }
        for replica in &config.replicas {
            match self.replicas.get(&replica.listen) {
                Some(serving) => {
                    let now = serving.entry.now();
                    if now.replica != *replica {
                        serving.entry.replace(now.as_changed_to(replica));
                    }
                }
                None => {
                    let Some(listener) = tcp.remove(&replica.listen) else { continue };
                    let serving = self.accept_replicas(listener, replica);
                    self.replicas.insert(replica.listen, serving);
                }
            }
        }
        self.follow_admin(config.admin.as_ref(), admin);
    }

    /// Shows the state where `admin` says, on `bound` if that is a new place.
    fn follow_admin(&mut self, admin: Option<&Admin>, bound: Option<http::Bound>) {
        // A new socket takes the place of the earlier one, also of a lost one at the same address.
        let stays = |served: &mut Served| bound.is_none() && admin.is_some_and(|admin| served.is_at(admin));
        if let Some(served) = self.admin.take_if(|served| !stays(served)) {
            let address = served.address();
            if admin.is_some_and(|admin| admin.listen == *address) {
                info!(kind = notice::LISTENING, listen = %address, "showing the state over HTTP again");
            } else {
                info!(kind = notice::NOT_LISTENING, listen = %address, "no longer showing the state over HTTP");
            }
            served.close();
        }
        let Some(admin) = admin else { return };
        if let Some(served) = &self.admin {
            served.follow(admin);
        } else if let (Some(bound), Some(server)) = (bound, &self.server) {
            self.admin = Some(server.serve(bound, admin, starved(&self.shared)));
        }
    }

    fn accept_sites(&self, listener: TcpListener, address: SocketAddr) -> CancellationToken {
        let (shared, workers) = (Arc::clone(&self.shared), Arc::clone(&self.workers));
        let (close, starved) = (shared.stop.child_token(), starved(&shared));
        let listening = shared.registry.listening(address);
        let room = workers.room();
        let take = move |socket, from: SocketAddr, room| {
            let seat = shared.strangers.enter(unproven::source(from.ip()));
            let shared = Arc::clone(&shared);
            workers.run(room, socket, move |socket| inbound::serve(shared, socket, from, seat));
        };
        let closed = close.clone();
        self.tasks.spawn(async move {
            let _listening = listening;
            listener::accept(listener, closed, room, take, starved).await;
        });
        close
    }

    fn accept_replicas(&self, listener: TcpListener, replica: &Arc<Replica>) -> Serving {
        let entry = Arc::new(Current::new(ReplicaListener::new(Arc::clone(replica))));
        let (shared, workers, current) =
            (Arc::clone(&self.shared), Arc::clone(&self.workers), Arc::clone(&entry));
        let (close, starved) = (shared.stop.child_token(), starved(&shared));
        let listening = shared.registry.listening(replica.listen);
        let room = workers.room();
        let take = move |socket, from: SocketAddr, room| {
            let listener = current.now();
            let replica = &listener.replica;
            if replica.admits(from.ip()) {
                let (shared, listener) = (Arc::clone(&shared), Arc::clone(&listener));
                workers.run(room, socket, move |socket| {
                    replica_listener::serve_replica(shared, listener, socket, from)
                });
                return;
            }
            let topic = Topic::replica(Kind::NotAClient, replica);
            let words = format!("{} is not in `clients`", from.ip());
            log_throttled!(warn, shared.registry, topic, &words; link = %replica.name, %from, "connection refused: {words}");
        };
        let closed = close.clone();
        self.tasks.spawn(async move {
            let _listening = listening;
            listener::accept(listener, closed, room, take, starved).await;
        });
        Serving { entry, close }
    }
}

/// Why an address cannot be bound beside an own one.
fn needs_restart(own: SocketAddr) -> String {
    format!(
        "this gateway itself listens on {own}, and closes that only once the new address is bound: the change needs a restart"
    )
}

/// Logs that connections cannot be accepted.
fn starved(shared: &Arc<Shared>) -> impl Fn(&std::io::Error) + use<> {
    let shared = Arc::clone(shared);
    move |failed| {
        log_throttled!(error, shared.registry, Topic::of(Kind::Starved), &failed.to_string();
            "connections cannot be accepted: {failed}; raise the limit of open files (LimitNOFILE=, ulimit -n)");
    }
}

/// Logs what is offered to other sites and to replicas here, as far as `before` did not offer the same.
pub(super) fn tell_offers(config: &Config, before: Option<&Config>) {
    let masters = |config: &Config| {
        config
            .masters
            .iter()
            .map(|master| (master.name.clone(), Arc::clone(master)))
            .collect::<HashMap<_, _>>()
    };
    let (old_masters, old_replicas) = before.map_or_else(Default::default, |before| {
        let replicas: HashMap<_, _> =
            before.replicas.iter().map(|replica| (replica.name.clone(), Arc::clone(replica))).collect();
        (masters(before), replicas)
    });
    for master in config.masters.iter().filter(|master| old_masters.get(&master.name) != Some(master)) {
        offers(config, master);
    }
    if let Some(admin) = config.admin.as_ref()
        && before.is_none_or(|before| before.admin.as_ref() != Some(admin))
    {
        let shown =
            if admin.public { "/live, /ready, /metrics" } else { "/, /status, /live, /ready, /metrics" };
        info!(kind = notice::LISTENING, listen = %admin.listen, "showing the state over HTTP: {shown}");
    }
    for replica in config.replicas.iter().filter(|replica| old_replicas.get(&replica.name) != Some(replica)) {
        info!(kind = notice::LISTENING, replica = %replica.name, site = %replica.sites(), master = %replica.master, listen = %replica.listen, "waiting for replicas: REPLICAOF {} {}", replica.listen.ip(), replica.listen.port());
    }
}

fn offers(config: &Config, master: &Master) {
    if master.is_plain() {
        warn!(kind = notice::CONFIG_WARNING, master = %master.name, "commands = \"any\": every command of the sites in `allow` reaches this Redis, also FLUSHALL and CONFIG");
    }
    if config.allowed_to_itself().any(|other| other.name == master.name) {
        warn!(kind = notice::CONFIG_WARNING, master = %master.name, "`allow` names this site itself, {}, but a gateway dials only other sites; name the site of the replicas", config.site);
    }
    for danger in master.dangers() {
        warn!(kind = notice::CONFIG_WARNING, master = %master.name, "{danger}");
    }
    info!(kind = notice::OFFERING, master = %master.name, redis = %master.places(), allow = %master.allow.join(","), listen = %config.listen.expect("a master needs it"), "offering a master");
}
