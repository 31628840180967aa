//! The documents are correct: their commands run and print what is shown, their links resolve,
//! and the reference of the config has every key.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::{REPLGATE, SOON, free_port, transcript};

/// Ports in the document. They are replaced here, since they may be in use.
const PORTS: [&str; 11] =
    ["6379", "6380", "6381", "6382", "6383", "6390", "6391", "6392", "6393", "7379", "7380"];

/// A folder in which a document's commands run. Programs that they leave running are stopped when
/// it is dropped.
pub struct Terminal {
    pub folder: tempfile::TempDir,
    /// What stands in a document, and what it is here: ports and folders.
    replaced: Vec<(String, String)>,
}

impl Terminal {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, replaced: PORTS.map(|port| (port.to_owned(), free_port().to_string())).to_vec() }
    }

    /// Replaces `shown` in a document by `here`, before all that is replaced already.
    pub fn replace(&mut self, shown: &str, here: impl ToString) {
        self.replaced.insert(0, (shown.to_owned(), here.to_string()));
    }

    /// A terminal in which these folders of a document are below `root`, in its own folder.
    pub fn below(root: &str, folders: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let here = |shown: &&str| ((*shown).to_owned(), format!("{}/{root}{shown}", folder.path().display()));
        let replaced = folders.iter().map(here).collect();
        Self { folder, replaced }
    }

    /// The document's text with the ports and folders of this run. One pass replaces them all, so
    /// that nothing new is replaced again.
    fn here(&self, text: &str) -> String {
        let mut here = String::new();
        let mut rest = text;
        while let Some(next) = rest.chars().next() {
            let found = self.replaced.iter().find(|(shown, _)| rest.starts_with(shown.as_str()));
            match found {
                Some((_, new)) => here += new,
                None => here.push(next),
            }
            rest = &rest[found.map_or(next.len_utf8(), |(shown, _)| shown.len())..];
        }
        here
    }

    /// Runs a command of a document, in the folder of its host if it names one.
    fn run(&self, step: &transcript::Step) -> Output {
        let command = self.here(&step.command);
        match step.host.as_deref() {
            None | Some("ca") => self.execute(&command),
            Some(host) => self.execute(&format!("ssh root@{host} {}", quoted(&command))),
        }
    }

    /// Runs a command as it stands.
    pub fn execute(&self, command: &str) -> Output {
        let programs = Path::new(REPLGATE).parent().expect("it is in a folder").display();
        // Programs of the folder stand in for others, such as ssh.
        let own = self.folder.path().join("bin");
        let path = format!("{}:{programs}:{}", own.display(), std::env::var("PATH").unwrap_or_default());
        // Output goes to files, since a program in the background would keep a pipe open.
        let file = |name: &str| self.folder.path().join(name);
        let (out, err) = (file(".out"), file(".err"));
        let created = |path: &PathBuf| std::fs::File::create(path).expect("the folder is writable");
        let status = Command::new("timeout")
            .args(["60", "bash", "-c", command])
            .current_dir(self.folder.path())
            .env("PATH", path)
            .stdin(std::process::Stdio::null())
            .stdout(created(&out))
            .stderr(created(&err))
            .status()
            .expect("timeout, of coreutils");
        let read = |path: &PathBuf| std::fs::read(path).expect("it was just written");
        Output { status, stdout: read(&out), stderr: read(&err) }
    }
}

/// A word of the shell that is this text.
pub fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}",
                String::from_utf8_lossy(&self.execute("tail -n 30 dc?/log hosts/*/log */redis.log").stdout)
            );
        }
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let place = std::fs::read_link(entry.path().join("cwd")).unwrap_or_default();
            if place.starts_with(self.folder.path()) {
                let _ = Command::new("kill").arg("-KILL").arg(entry.file_name()).status();
            }
        }
    }
}

/// Runs the commands of a document, or of its section under `heading`; each must succeed and print
/// what is shown.
#[track_caller]
pub fn follow(terminal: &Terminal, page: &str, heading: Option<&str>) {
    for step in transcript::steps(&root().join(page), heading) {
        let patience = if step.only_asks() { SOON } else { Duration::ZERO };
        let deadline = Instant::now() + patience;
        loop {
            let output = terminal.run(&step);
            if step.is_shown(&output, |line| terminal.here(line)) {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "{page}:{}: {}\nshown:\n{}\nseen ({}):\n{}{}",
                step.line,
                step.command,
                step.output.join("\n"),
                output.status,
                String::from_utf8_lossy(&output.stdout),
                String::from_utf8_lossy(&output.stderr)
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

#[test]
fn every_command_of_the_tour_of_redis_replication_works() {
    follow(&Terminal::new(), "docs/redis-replication.md", None);
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every Markdown file of the project, in `folder` and below it.
fn documents(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(folder).expect("the folder can be read").flatten() {
        let (path, name) = (entry.path(), entry.file_name());
        let is_ours = !name.to_string_lossy().starts_with('.') && name != "target" && name != "corpus";
        if path.is_dir() && is_ours {
            documents(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
}

/// The lines of a document without its blocks of code.
fn prose(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut is_code = false;
    text.lines().enumerate().filter(move |(_, line)| {
        let is_fence = line.starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence && !line.starts_with("    ")
    })
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for (_, line) in prose(text).filter(|(_, line)| line.starts_with('#')) {
        let heading = line.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|letter| letter.is_alphanumeric() || " -_".contains(*letter));
        let anchor: String = kept.map(|letter| if letter == ' ' { '-' } else { letter }).collect();
        assert!(anchors.insert(anchor.clone()), "two headings have the anchor #{anchor}");
    }
    anchors
}

/// The targets of the links `[text](target)` in a line.
fn links(line: &str) -> impl Iterator<Item = &str> {
    line.split("](").skip(1).filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
}

#[test]
fn every_link_between_documents_resolves() {
    let mut paths = Vec::new();
    documents(root(), &mut paths);
    let (mut checked, mut broken) = (0, Vec::new());
    for path in &paths {
        let page = text(path);
        for (number, line) in prose(&page) {
            for link in links(line).filter(|link| !link.contains("://")) {
                let (file, anchor) = link.split_once('#').map_or((link, None), |(file, at)| (file, Some(at)));
                let target = match file {
                    "" => path.clone(),
                    _ => path.parent().expect("a file is in a folder").join(file),
                };
                let is_good =
                    target.exists() && anchor.is_none_or(|anchor| anchors(&text(&target)).contains(anchor));
                checked += 1;
                if !is_good {
                    broken.push(format!("{}:{}: {link}", path.display(), number + 1));
                }
            }
        }
    }
    assert!(broken.is_empty(), "broken links:\n{}", broken.join("\n"));
    assert!(checked > 50, "only {checked} links were found");
}

#[test]
fn the_readme_is_short_and_lists_every_page() {
    let readme = text(&root().join("README.md"));
    assert!(readme.lines().count() <= 150, "the README has {} lines", readme.lines().count());
    for command in ["    make demo", "`make test`"] {
        assert!(readme.contains(command), "the README lacks {command:?}");
    }
    for entry in std::fs::read_dir(root().join("docs")).expect("the folder can be read").flatten() {
        let page = format!("docs/{}", entry.file_name().to_string_lossy());
        // The page about releasing is for maintainers only.
        let is_listed = page == "docs/releasing.md" || readme.contains(&format!("({page})"));
        assert!(is_listed, "the README does not list {page}");
    }
}

#[test]
fn every_key_of_the_config_is_in_its_reference_with_the_time_at_which_a_change_acts() {
    let sections = [
        ("", "## Top level", "unknown-to-all = 1\nsite = 'dc1'\n"),
        ("[tls]: ", "## `[tls]`", "[tls]\nunknown-to-all = 1\n"),
        ("[tunnel]: ", "## `[tunnel]`", "[tunnel]\nunknown-to-all = 1\n"),
        ("[admin]: ", "## `[admin]`", "[admin]\nunknown-to-all = 1\n"),
        ("master \"m\": ", "## `[[master]]`", "[[master]]\nname = 'm'\nunknown-to-all = 1\n"),
        ("master \"m\" [auth]: ", "### `auth`", "[master.auth]\nunknown-to-all = 1\n"),
        ("master \"m\" [sentinel]: ", "### `sentinel`", "[master.sentinel]\nunknown-to-all = 1\n"),
        ("replica \"r\": ", "## `[[replica]]`", "[[replica]]\nname = 'r'\nunknown-to-all = 1\n"),
        ("replica \"r\" [announce]: ", "### `announce`", "[replica.announce]\nunknown-to-all = 1\n"),
        ("replica \"r\" from: ", "### `from`", "[[replica.from]]\nunknown-to-all = 1\n"),
        ("replica \"r\" [link]: ", "## `[link]`", "[replica.link]\nunknown-to-all = 1\n"),
        ("far_site \"f\": ", "## `[[far_site]]`", "[[far_site]]\nname = 'f'\nunknown-to-all = 1\n"),
        ("far_site \"f\" [link]: ", "## `[link]`", "[far_site.link]\nunknown-to-all = 1\n"),
        ("[link]: ", "## `[link]`", "[link]\nunknown-to-all = 1\n"),
        ("[limits]: ", "## `[limits]`", "[limits]\nunknown-to-all = 1\n"),
        ("[state]: ", "## `[state]`", "[state]\nunknown-to-all = 1\n"),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("gateway.toml");
    std::fs::write(&config, sections.map(|(_, _, lines)| lines).concat()).expect("the folder is writable");
    let output = Command::new(REPLGATE)
        .args(["check", "--offline", "-c"])
        .arg(&config)
        .output()
        .expect("the program runs");
    let faults = String::from_utf8_lossy(&output.stderr);
    let reference = text(&root().join("docs/configuration.md"));
    let (_, acts) = reference.split_once("\n## When a change acts\n").expect("the reference has it");
    let acts = acts.split("\n## ").next().expect("a split has a first part");
    let mut keys = 0;
    for (prefix, heading, _) in sections {
        let fault = format!(" {prefix}unknown key `unknown-to-all`; known here: ");
        let known = faults.lines().find_map(|line| {
            let (place, known) = line.split_once(&fault)?;
            // Only the place comes before it: `FILE:LINE:COLUMN:`.
            place.ends_with(':').then_some(known).filter(|_| !place.contains(": "))
        });
        let known = known.unwrap_or_else(|| panic!("{heading}: no fault tells its keys:\n{faults}"));
        let (_, after) =
            reference.split_once(&format!("\n{heading}\n")).expect("the reference has the section");
        let section = after.split("\n#").next().expect("a split has a first part");
        for key in known.split(", ") {
            keys += 1;
            assert!(
                section.contains(&format!("| `{key}` | ")),
                "docs/configuration.md: {heading} lacks {key}"
            );
            // The tables act by their keys.
            let is_table = ["admin", "tls", "tunnel", "limits", "state"].contains(&key);
            let told = is_table || acts.contains(&format!("`{key}`")) || acts.contains(&format!("[{key}]"));
            assert!(told, "docs/configuration.md: when does a change of {key} act?");
        }
    }
    assert!(keys > 50, "only {keys} keys were found");
}

#[test]
fn every_command_of_replgate_that_a_sentence_names_is_one() {
    let mut paths = Vec::new();
    documents(root(), &mut paths);
    let mut named = BTreeSet::new();
    for path in &paths {
        for (_, line) in prose(&text(path)) {
            // Every other piece between back quotes is code.
            let code = line.split('`').skip(1).step_by(2);
            named.extend(code.filter(|code| code.starts_with("replgate ")).map(str::to_owned));
        }
    }
    for command in &named {
        // With --help nothing is done, and what stands before it must be known.
        let words = command.split_whitespace().skip(1);
        let output = Command::new(REPLGATE).args(words).arg("--help").output().expect("the program runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "`{command}` of the documents: {said}");
    }
    assert!(named.len() > 20, "only {named:?} were found");
}
