//! The page at `/` in a real browser: what it shows, what it asks for, and that nobody's words become markup.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;

use crate::support::browser::Tab;
use crate::support::gateway::{Gateway, Lab, Pair, admin, master_config, replica_config};
use crate::support::line::Line;
use crate::support::redis::{Client, Redis, Version};
use crate::support::writer::Writer;
use crate::support::{SOON, eventually, free_port};

/// Colours and widths for which the page is made.
const LOOKS: [(u32, &str); 4] = [(400, "light"), (400, "dark"), (1400, "light"), (1400, "dark")];

/// The texts whose contrast with what is behind them is less than 4.5.
const FAINT: &str = r"(() => {
    const numbers = (colour) => colour.match(/[\d.]+/g).map(Number);
    const light = ([red, green, blue]) => {
        const part = (value) => ((value /= 255) <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
        return 0.2126 * part(red) + 0.7152 * part(green) + 0.0722 * part(blue);
    };
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const colour = numbers(getComputedStyle(element).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return [255, 255, 255];
    };
    const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    const faint = [];
    let seen = 0;
    while (texts.nextNode()) {
        const element = texts.currentNode.parentElement;
        if (!texts.currentNode.data.trim() || !element.checkVisibility() || element.closest('script, svg')) continue;
        const [one, other] = [light(numbers(getComputedStyle(element).color)), light(behind(element))];
        const contrast = (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05);
        seen += 1;
        if (contrast < 4.5) faint.push(`${texts.currentNode.data.trim()}: ${contrast.toFixed(2)}`);
    }
    return seen > 40 ? faint.join('\n') : `only ${seen} texts`;
})()";

fn address(port: u16) -> String {
    format!("http://127.0.0.1:{port}/")
}

/// A page that has nothing to complain about and asked its own gateway alone.
#[track_caller]
fn assert_clean(tab: &Tab, port: u16) {
    assert_eq!(tab.complaints(), [""; 0]);
    let requests = tab.requests();
    let is_own = |url: &String| *url == address(port) || url.starts_with("data:image/svg+xml,");
    assert!(!requests.is_empty() && requests.iter().all(is_own), "{requests:#?}");
}

/// No part of the page is wider than the screen, and every text can be read.
#[track_caller]
fn assert_fits(tab: &Tab) {
    for (width, colours) in LOOKS {
        tab.show_as(width, colours);
        let wide = tab.eval("document.documentElement.scrollWidth").as_u64().expect("a width");
        assert!(wide <= u64::from(width), "at {width} px the page is {wide} px wide");
        assert_eq!(tab.eval(FAINT), "", "at {width} px, {colours}");
    }
}

#[test]
fn the_page_shows_what_streams_and_renews_itself_in_place() {
    let ports = [free_port(), free_port()];
    let line = Line::apart(Version::System, &admin(ports[0]), &admin(ports[1]));
    line.follow();
    line.bravo.wait_equal(&line.alpha);
    let writer = Writer::on(&line.alpha, 300_000);
    let tab = Tab::open(&address(ports[1]));
    tab.wait_text("streaming");
    for words in
        ["All well", "orders", "replicas are here, the master at dc1", "dc2:", "Certificates and lists"]
    {
        tab.wait_text(words);
    }
    assert_eq!(tab.eval("document.title"), "dc2: all well – replgate");
    // The first sample with a rate comes five seconds after the start.
    eventually("the throughput is drawn", SOON, || {
        tab.eval("document.querySelector('article .line.first').getAttribute('d')")
            .as_str()
            .is_some_and(|path| path.contains('L'))
    });
    let drawn = tab.eval("document.querySelector('article svg[role=img] title').textContent");
    assert!(
        drawn.as_str().is_some_and(|words| words.contains("to replicas now ") && words.contains("kB/s")),
        "{drawn}"
    );
    // What is open stays open, with the focus on it, and the page stays where it is.
    tab.show_as(1400, "light");
    tab.eval("document.querySelector('summary').focus()");
    tab.press("Enter", 13);
    tab.wait_text("Replication id");
    tab.show_as(400, "light");
    tab.eval("scrollTo(0, 300); document.querySelector('main').marked = true");
    eventually("the page is another", SOON, || {
        tab.eval("document.querySelector('main').marked === undefined") == true
    });
    let kept = "[scrollY, document.querySelector('details').open, document.activeElement.tagName].join()";
    assert_eq!(tab.eval(kept), "300,true,SUMMARY");
    // What somebody is about to copy stays.
    tab.eval("getSelection().selectAllChildren(document.querySelector('h1')); document.querySelector('main').marked = true");
    tab.wait_text("Not renewed while text is selected.");
    assert_eq!(tab.eval("document.querySelector('main').marked"), true);
    tab.eval("getSelection().removeAllRanges()");
    eventually("the page is another", SOON, || {
        tab.eval("document.querySelector('main').marked === undefined") == true
    });
    assert_eq!(tab.eval("document.getElementById('away').textContent"), "");
    assert_fits(&tab);
    assert_clean(&tab, ports[1]);
    // The other side shows the same replica, and what it lacks.
    let other = Tab::open(&address(ports[0]));
    other.wait_text("the master is here, offered to dc2; syncs since the start: 1 full");
    other.wait_text(&format!("dc2:{}", line.bravo.port));
    assert_clean(&other, ports[0]);
    writer.stop();
}

#[test]
fn a_full_sync_is_a_bar_and_a_held_link_is_not_well() {
    let ports = [free_port(), free_port()];
    let lab = Lab::new();
    // Such a master states the size of its snapshot.
    let alpha = Redis::start(
        Version::System,
        lab.path(),
        "alpha",
        &["--repl-diskless-sync", "no", "--rdbcompression", "no"],
    );
    let bravo = lab.redis("bravo");
    alpha.ask(&["DEBUG", "POPULATE", "4000", "key", "10000"]);
    let line = Line::between(lab, alpha, bravo, &admin(ports[0]), &admin(ports[1]));
    line.path.limit(Some(4_000_000));
    line.follow();
    let tab = Tab::open(&address(ports[1]));
    eventually("the bar grows", SOON, || {
        let share = tab.eval("Number(document.querySelector('article progress')?.value ?? 0)");
        share.as_f64().is_some_and(|share| share > 0.0 && share < 100.0)
    });
    tab.wait_text("full sync");
    assert!(tab.text().contains(" % of"), "the memory has a share: {}", tab.text());
    let told = tab.eval("document.querySelector('article progress + .doing')?.textContent ?? ''");
    let told = told.as_str().unwrap_or_default();
    assert!(told.contains(" %, ") && told.contains(" MB of 4"), "{told:?}");
    line.path.limit(None);
    line.bravo.wait_equal(&line.alpha);
    tab.wait_text("streaming");
    line.path.silence(true);
    tab.wait_text("The link of orders with dc1 is held");
    for words in ["Not well", "gives up in", "repair the path between the sites"] {
        tab.wait_text(words);
    }
    assert_eq!(tab.eval("document.title"), "dc2: the link of orders with dc1 is held – replgate");
    assert_fits(&tab);
    line.path.silence(false);
    tab.wait_text("All well");
    tab.wait_text(" survived, ");
    assert_clean(&tab, ports[1]);
}

#[test]
fn without_scripts_the_page_is_whole_and_loads_itself_anew() {
    let port = free_port();
    let lab = Lab::new();
    let alpha = lab.redis("alpha");
    let Pair { first: _first, second, entry, .. } = lab.pair_with(alpha.port, "", &admin(port));
    let tab = Tab::open_without_scripts(&address(port));
    for words in
        ["All well", "no replica is connected", "Certificates and lists", "Without scripts this page"]
    {
        assert!(tab.text().contains(words), "{words}: {}", tab.text());
    }
    let _bravo = lab.replica("bravo", entry, &alpha);
    tab.wait_text("streaming");
    assert!(tab.text().contains(&second.process.child.id().to_string()), "{}", tab.text());
    assert_fits(&tab);
    // The policy has no exception for the script that does not run.
    assert_eq!(tab.eval("document.querySelectorAll('script').length"), 1);
}

#[test]
fn a_gateway_that_is_gone_is_told_and_so_is_its_return() {
    let port = free_port();
    let lab = Lab::new();
    let mut gateway = lab.gateway("dc2", &replica_config("dc2", free_port(), 1, &admin(port)));
    let tab = Tab::open(&address(port));
    tab.wait_text("All well");
    let before = tab.eval("document.querySelector('main').dataset.at");
    gateway.kill();
    tab.wait_text("No answer since ");
    let note = tab.eval("document.getElementById('away').textContent");
    let note = note.as_str().unwrap_or_default();
    assert!(note.ends_with(" UTC; the picture below is from then."), "{note}");
    let since = note["No answer since ".len()..].split(' ').next().unwrap_or_default();
    assert!(since.len() == 8 && since >= before.as_str().unwrap_or_default(), "{since} {before}");
    assert!(tab.text().contains("All well"), "the last picture stays");
    assert_eq!(tab.eval("document.title"), "no answer – dc2: all well – replgate");
    assert_fits(&tab);
    gateway.start_again();
    let pid = gateway.process.child.id().to_string();
    tab.wait_text(&pid);
    assert_eq!(tab.eval("document.getElementById('away').textContent"), "");
    assert_eq!(tab.eval("document.title"), "dc2: all well – replgate");
}

/// A master that answers a sync with these words, and everything else with OK.
fn rude_master(words: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("it is bound").port();
    std::thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut out, lines) = (&socket, BufReader::new(&socket).lines());
                for line in lines.map_while(Result::ok) {
                    let answer = match line.to_ascii_uppercase().as_str() {
                        "PING" => "+PONG\r\n".to_owned(),
                        "REPLCONF" => "+OK\r\n".to_owned(),
                        "PSYNC" => format!("-ERR {words}\r\n"),
                        _ => continue,
                    };
                    if out.write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

#[test]
fn words_of_a_far_side_stay_words() {
    const RUDE: &str =
        "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">";
    let ports = [free_port(), free_port()];
    let lab = Lab::new();
    let (wan, entry) = (free_port(), free_port());
    let master = rude_master(RUDE);
    let config = master_config("dc1", wan, &[("orders", master)], "") + &admin(ports[0]);
    let _first: Gateway = lab.gateway("dc1", &config);
    let _second = lab.gateway("dc2", &replica_config("dc2", entry, wan, &admin(ports[1])));
    let mut replica = Client::connect(entry).expect("the gateway listens");
    for command in [&["PING"][..], &["REPLCONF", "listening-port", "6399"], &["REPLCONF", "capa", "psync2"]] {
        replica.ask(command);
    }
    let said = replica.ask(&["PSYNC", "?", "-1"]).text();
    assert!(said.contains("<script>"), "the replica hears the master's words: {said}");
    for port in ports {
        let tab = Tab::open(&address(port));
        tab.wait_text("<script>document.title='owned'</script><img src=x onerror=");
        assert_eq!(tab.eval("document.querySelectorAll('main script, main img').length"), 0);
        assert!(tab.eval("document.title").as_str().is_some_and(|title| !title.contains("owned")));
        assert_clean(&tab, port);
        assert_fits(&tab);
    }
}
