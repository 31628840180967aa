//! A headless Chromium, driven over its DevTools protocol.
//!
//! Chromium speaks it over two pipes, one JSON text at a time, each with a zero byte behind it. Tests that run at a
//! time share one process; each tab has a context of its own. `scripts/setup test` installs the browser.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::process::Command;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Process, SOON, eventually};

/// Time given to an answer of the browser, which starts slowly on a loaded machine.
const DEADLINE: Duration = Duration::from_secs(60);

/// What the browser has said, by the id of the call or the session of the tab.
#[derive(Default)]
struct Heard {
    answers: HashMap<u64, Value>,
    events: HashMap<String, Vec<Value>>,
    calls: u64,
}

struct Browser {
    to: Mutex<File>,
    heard: Arc<(Mutex<Heard>, Condvar)>,
    /// Killed when the last tab is closed; then its folder is removed.
    _process: Process,
    _folder: TempDir,
}

/// The browser that is running.
static RUNNING: Mutex<Weak<Browser>> = Mutex::new(Weak::new());

impl Browser {
    /// The one that runs, or a new one.
    fn take() -> Arc<Self> {
        let mut running = RUNNING.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        running.upgrade().unwrap_or_else(|| {
            let browser = Arc::new(Self::start());
            *running = Arc::downgrade(&browser);
            browser
        })
    }

    fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("replgate-browser-").tempdir().expect("a folder");
        let pipe = |name: &str| {
            let path = folder.path().join(name);
            let mode = Mode::RUSR | Mode::WUSR;
            mknodat(CWD, &path, FileType::Fifo, mode, 0).expect("a pipe can be made");
            path
        };
        let (to, from) = (pipe("to"), pipe("from"));
        // The shell opens both pipes at the numbers at which Chromium expects them.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec 3<\"$0\" 4>\"$1\"; shift; exec \"$@\""])
            .args([&to, &from])
            .args(["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .args(["--no-first-run", "--disable-extensions", "--disable-background-networking"])
            .args(["--disable-component-update", "--no-proxy-server", "--remote-debugging-pipe"])
            .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
            .arg("about:blank");
        let process = Process::start("chromium", folder.path().join("log"), &mut command);
        // Each blocks until the shell has opened the other end.
        let to = File::options().write(true).open(to).expect("the pipe is there");
        let from = File::open(from).expect("the pipe is there");
        let heard = Arc::default();
        let listens = Arc::clone(&heard);
        std::thread::spawn(move || listen(from, &listens));
        let browser = Self { to: Mutex::new(to), heard, _process: process, _folder: folder };
        browser.call(None, "Browser.getVersion", &json!({}));
        browser
    }

    fn heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.0.lock().expect("no thread panics")
    }

    /// Calls a method of the browser, or of a session, and waits for the result.
    #[track_caller]
    fn call(&self, session: Option<&str>, method: &str, parameters: &Value) -> Value {
        let id = {
            let mut heard = self.heard();
            heard.calls += 1;
            heard.calls
        };
        let mut message = json!({ "id": id, "method": method, "params": parameters });
        if let Some(session) = session {
            message["sessionId"] = json!(session);
        }
        let sent = {
            let mut to = self.to.lock().expect("no thread panics");
            to.write_all(format!("{message}\0").as_bytes())
        };
        sent.unwrap_or_else(|error| panic!("chromium is gone: {error}; run: scripts/setup test"));
        let (deadline, mut heard) = (Instant::now() + DEADLINE, self.heard());
        loop {
            if let Some(answer) = heard.answers.remove(&id) {
                assert!(answer["error"].is_null(), "{method}: {}", answer["error"]);
                return answer["result"].clone();
            }
            let left = deadline.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "chromium does not answer {method}");
            heard = self.heard.1.wait_timeout(heard, left).expect("no thread panics").0;
        }
    }
}

/// Takes in what the browser says until it ends.
fn listen(from: File, heard: &(Mutex<Heard>, Condvar)) {
    let (mut from, mut text) = (BufReader::new(from), Vec::new());
    while from.read_until(0, &mut text).is_ok_and(|count| count > 0) {
        text.pop();
        let message: Value = serde_json::from_slice(&text).expect("chromium says JSON");
        let mut all = heard.0.lock().expect("no thread panics");
        match message["id"].as_u64() {
            Some(id) => {
                all.answers.insert(id, message);
            }
            None => {
                let session = message["sessionId"].as_str().unwrap_or_default().to_owned();
                all.events.entry(session).or_default().push(message);
            }
        }
        heard.1.notify_all();
        text.clear();
    }
}

/// A tab with a page, closed when it is dropped.
pub struct Tab {
    browser: Arc<Browser>,
    context: String,
    session: String,
}

impl Tab {
    /// Opens a page, and waits until it is loaded.
    #[track_caller]
    pub fn open(url: &str) -> Self {
        Self::with(url, true)
    }

    /// Opens a page whose scripts do not run.
    #[track_caller]
    pub fn open_without_scripts(url: &str) -> Self {
        Self::with(url, false)
    }

    #[track_caller]
    fn with(url: &str, scripts: bool) -> Self {
        let browser = Browser::take();
        let text = |value: &Value| value.as_str().expect("an id").to_owned();
        let context =
            text(&browser.call(None, "Target.createBrowserContext", &json!({}))["browserContextId"]);
        let target = json!({ "url": "about:blank", "browserContextId": context });
        let target = text(&browser.call(None, "Target.createTarget", &target)["targetId"]);
        let attach = json!({ "targetId": target, "flatten": true });
        let session = text(&browser.call(None, "Target.attachToTarget", &attach)["sessionId"]);
        let tab = Self { browser, context, session };
        for domain in ["Page", "Runtime", "Log", "Network"] {
            tab.call(&format!("{domain}.enable"), &json!({}));
        }
        tab.call("Emulation.setScriptExecutionDisabled", &json!({ "value": !scripts }));
        tab.call("Page.navigate", &json!({ "url": url }));
        eventually(&format!("{url} is loaded"), SOON, || {
            tab.eval("document.readyState === 'complete' && location.href !== 'about:blank'") == true
        });
        tab
    }

    #[track_caller]
    fn call(&self, method: &str, parameters: &Value) -> Value {
        self.browser.call(Some(&self.session), method, parameters)
    }

    /// The value of an expression.
    #[track_caller]
    pub fn eval(&self, script: &str) -> Value {
        let parameters = json!({ "expression": script, "returnByValue": true, "awaitPromise": true });
        let answer = self.call("Runtime.evaluate", &parameters);
        assert!(answer["exceptionDetails"].is_null(), "{script}: {}", answer["exceptionDetails"]);
        answer["result"]["value"].clone()
    }

    /// The text that is shown.
    #[track_caller]
    pub fn text(&self) -> String {
        self.eval("document.body?.innerText ?? ''").as_str().unwrap_or_default().to_owned()
    }

    /// Waits until the page shows these words.
    #[track_caller]
    pub fn wait_text(&self, words: &str) {
        let deadline = Instant::now() + SOON;
        while !self.text().contains(words) {
            assert!(Instant::now() < deadline, "the page does not show {words:?}:\n{}", self.text());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Shows the page this wide, in the colours `light` or `dark`.
    pub fn show_as(&self, width: u32, colours: &str) {
        let size = json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.call("Emulation.setDeviceMetricsOverride", &size);
        let colours = json!({ "features": [{ "name": "prefers-color-scheme", "value": colours }] });
        self.call("Emulation.setEmulatedMedia", &colours);
    }

    /// Presses a key.
    pub fn press(&self, key: &str, code: u32) {
        for kind in ["keyDown", "keyUp"] {
            let text = if key == "Enter" && kind == "keyDown" { "\r" } else { "" };
            let event =
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code, "text": text });
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    fn events(&self, method: &str) -> Vec<Value> {
        let heard = self.browser.heard();
        let events = heard.events.get(&self.session).map_or(&[][..], Vec::as_slice);
        events.iter().filter(|event| event["method"] == method).map(|event| event["params"].clone()).collect()
    }

    /// Errors and warnings on the console: of scripts, of the policy, of the network.
    pub fn complaints(&self) -> Vec<String> {
        let of_scripts = self.events("Runtime.exceptionThrown");
        let calls = self.events("Runtime.consoleAPICalled");
        let entries =
            self.events("Log.entryAdded").into_iter().filter(|entry| entry["entry"]["level"] != "verbose");
        of_scripts.iter().chain(&calls).cloned().chain(entries).map(|event| event.to_string()).collect()
    }

    /// The address of each request so far.
    pub fn requests(&self) -> Vec<String> {
        let requests = self.events("Network.requestWillBeSent");
        requests.iter().filter_map(|event| event["request"]["url"].as_str().map(str::to_owned)).collect()
    }
}

impl Drop for Tab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        self.browser.call(None, "Target.disposeBrowserContext", &json!({ "browserContextId": self.context }));
        self.browser.heard().events.remove(&self.session);
    }
}
