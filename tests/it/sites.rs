//! Many sites and masters, in the files that a config includes.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use replgate::internal::config::{Config, Source};

use crate::support::gateway::{Lab, tls};
use crate::support::{free_port, replgate};

const SITES: u8 = 20;
const MASTERS: u8 = 30;

/// Writes a file into the lab's `conf.d`.
fn include(lab: &Lab, name: &str, text: &str) {
    let folder = lab.path().join("conf.d");
    std::fs::create_dir_all(&folder).expect("the lab is writable");
    std::fs::write(folder.join(name), text).expect("the lab is writable");
}

fn far_site(name: &str, peer: u16) -> String {
    format!("[[far_site]]\nname = \"{name}\"\npeers = [\"127.0.0.1:{peer}\"]\n")
}

fn replica(name: &str, master: &str, listen: SocketAddr, site: &str) -> String {
    format!(
        "[[replica]]\nname = \"{name}\"\nmaster = \"{master}\"\nlisten = \"{listen}\"\nsite = \"{site}\"\n"
    )
}

#[test]
fn a_gateway_of_twenty_sites_with_thirty_masters_each_listens_at_every_address_and_replicates() {
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let (wan, nobody, port) = (free_port(), free_port(), free_port());
    // The hub: its thirty masters are in a file of their own, and the seventh is real.
    let masters = (0..MASTERS).map(|master| {
        let redis = if master == 7 { alpha.port } else { nobody };
        format!("[[master]]\nname = \"m{master}\"\nredis = \"127.0.0.1:{redis}\"\nallow = [\"dc2\"]\n")
    });
    include(&lab, "dc1-masters.toml", &masters.collect::<String>());
    let including = "include = [\"conf.d/dc1-*.toml\"]\n";
    let hub =
        lab.gateway("dc1", &format!("{including}{}[tunnel]\nlisten = \"127.0.0.1:{wan}\"\n", tls("dc1")));
    // The other end: twenty sites, of which the first is there. Its listeners share a port, each at
    // an address of its own.
    let mut listeners = Vec::new();
    for site in 0..SITES {
        let name = if site == 0 { "dc1".to_owned() } else { format!("far{site}") };
        let mut text = far_site(&name, if site == 0 { wan } else { nobody });
        for master in 0..MASTERS {
            let listen = SocketAddr::from(match (site, master) {
                (0, 7) => ([127, 0, 0, 1], port),
                _ => ([127, 7, site, master], port),
            });
            text += &replica(&format!("{name}-m{master}"), &format!("m{master}"), listen, &name);
            listeners.push(listen);
        }
        include(&lab, &format!("dc2-{name}.toml"), &text);
    }
    let second = lab.gateway("dc2", &format!("include = [\"conf.d/dc2-*.toml\"]\n{}", tls("dc2")));
    let mut listens = second.status()["listeners"].as_array().expect("a list").clone();
    listens.sort_by_key(ToString::to_string);
    let mut expected: Vec<_> =
        listeners.iter().map(|address| serde_json::json!(address.to_string())).collect();
    expected.sort_by_key(ToString::to_string);
    assert_eq!((listens.len(), listens), (600, expected));
    for address in listeners {
        TcpStream::connect(address).unwrap_or_else(|error| panic!("{address}: {error}"));
    }
    assert_eq!(hub.status()["masters"].as_array().map(Vec::len), Some(30));
    let bravo = lab.replica("bravo", port, &alpha);
    alpha.ask(&["SET", "through", "a far site's peers"]);
    bravo.wait_equal(&alpha);
}

#[test]
fn included_files_are_checked_with_the_rest_and_a_change_in_one_is_a_change_of_the_config() {
    let lab = Lab::new();
    // `check` fails where the CA's key is readable.
    std::fs::remove_dir_all(lab.path().join("certs/ca")).expect("the CA's folder is there");
    let config = lab.path().join("dc2.toml");
    let listen = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let sites = far_site("dc1", free_port()) + &far_site("dc9", free_port());
    include(&lab, "sites.toml", &sites);
    include(&lab, "orders.toml", &replica("orders", "orders", listen, "dc1"));
    let patterns = "include = [\"conf.d/*.toml\", \"more.d/*.toml\"]\n";
    let gateway = lab.gateway("dc2", &format!("{patterns}{}", tls("dc2")));
    for warning in [
        "dc2.toml:1:29: include: \"more.d/*.toml\" matches no file",
        "conf.d/sites.toml:4:1: far_site \"dc9\": no [[replica]] is of this site, so it has no effect",
    ] {
        assert_eq!(gateway.lines("WARN", warning), 1, "{warning}\n{}", gateway.log());
    }
    let check = |more: &[&str]| {
        let name = config.to_string_lossy();
        replgate(Path::new("/"), &[&["check", "-c", &name], more].concat())
    };
    let (code, out, _) = check(&["--offline"]);
    let folder = lab.path().display();
    for line in [
        &format!("ok    config {folder}/conf.d/orders.toml: included\n"),
        &format!("ok    config {folder}/conf.d/sites.toml: included\n"),
        &format!("warn  {folder}/conf.d/sites.toml:4:1: far_site \"dc9\""),
        &format!("warn  {folder}/dc2.toml:1:29: include: \"more.d/*.toml\""),
    ] {
        assert!(code == 0 && out.contains(line), "{line}\n{out}");
    }
    // An address changes in one line, which the running gateway has not read.
    let other = "uses other contents of this config";
    assert!(!check(&[]).1.contains(other));
    include(&lab, "sites.toml", &far_site("dc1", free_port()));
    assert!(check(&[]).1.contains(other));
    // Whoever can write an included file can change the config.
    let chmod = |name: &str, mode| {
        let mode = std::fs::Permissions::from_mode(mode);
        std::fs::set_permissions(lab.path().join(name), mode).expect("it is the test's own");
    };
    for (name, mode, usual) in [("conf.d/orders.toml", 0o666, 0o644), ("conf.d", 0o1777, 0o755)] {
        chmod(name, mode);
        let (code, out, _) = check(&["--offline"]);
        let line = format!("fail  {folder}/{name}: mode {mode:04o} lets every user of this host change it");
        assert!(code == 1 && out.contains(&line), "{line}\n{out}");
        chmod(name, usual);
    }
    // Faults of all files come together, and the config is wrong as a whole.
    include(&lab, "orders.toml", &(replica("orders", "orders", listen, "dc1") + "x = 1\n[limits]\n"));
    include(&lab, "stock.toml", &replica("orders", "orders", listen, "dc1"));
    let (code, _, err) = check(&["--offline"]);
    let faults: Vec<_> = err.lines().map(|line| line.replace(&format!("{folder}/"), "")).collect();
    assert_eq!(code, 2);
    for (fault, start) in faults.iter().zip([
        "conf.d/orders.toml:6:1: replica \"orders\": unknown key `x`; ",
        "conf.d/orders.toml:7:2: limits: this belongs in dc2.toml, ",
        "conf.d/stock.toml:2:8: replica \"orders\" is there twice, first at conf.d/orders.toml:2:8; ",
        "conf.d/stock.toml:4:10: listen: ",
        "replgate: 4 faults in the config",
    ]) {
        assert!(fault.starts_with(start), "{start}\n{err}");
    }
    assert_eq!(faults.len(), 5, "{err}");
}

#[test]
fn the_example_of_many_sites_in_the_documents_is_a_config() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/configuration.md");
    let document = std::fs::read_to_string(path).expect("the document is there");
    let (_, section) = document.split_once("\n## Many sites and masters\n").expect("it has the section");
    let section = section.split("\n## ").next().expect("a split has a first part");
    let blocks = section.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let names = ["gateway.toml", "conf.d/dc1.toml"];
    let sources: Vec<_> = names.iter().zip(blocks).map(|(name, text)| Source::new(*name, text)).collect();
    let config = Config::parse(&sources).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!((config.replicas.len(), config.warnings.len(), config.included.len()), (2, 0, 1));
    assert!(config.replicas.iter().all(|replica| replica.peers.len() == 2 && replica.link.lanes == 2));
}
