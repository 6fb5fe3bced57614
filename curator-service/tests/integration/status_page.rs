//! The status page as a browser shows it: its script has run, and what it shows is how things are.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use curator_harness::EtcdOptions;
use curator_harness::process::{Finished, run};
use curator_harness::which::on_path;

use crate::test_cluster::{Reach, SOON, TTL, TestCluster};

/// A browser without a window.
struct Browser {
    program: PathBuf,
    profile: PathBuf,
}

impl Browser {
    /// The one that is here; says so if there is none.
    fn find(stage: &TestCluster) -> Option<Self> {
        let program = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
            .into_iter()
            .find_map(on_path);
        if program.is_none() {
            println!("SKIPPED: the status page in a browser, for neither chromium nor google-chrome is on PATH");
        }
        Some(Self {
            program: program?,
            profile: stage.scratch.path().join("browser"),
        })
    }

    /// The page's elements once its script has asked a few times for what it shows.
    fn dump(&self, at: SocketAddr) -> String {
        self.open(at, "1280,900", "--dump-dom").stdout
    }

    fn open(&self, at: SocketAddr, window: &str, what: &str) -> Finished {
        let mut command = Command::new(&self.program);
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args(["--hide-scrollbars", "--virtual-time-budget=5000"])
            .arg(format!("--window-size={window}"))
            .arg(format!("--user-data-dir={}", self.profile.display()))
            .args([what, &format!("http://{at}/")]);
        let done = run(command, 3 * SOON).unwrap();
        assert!(done.status.success(), "{}", done.stderr);
        done
    }
}

/// The words within the element with this id, its own elements left out.
fn words(page: &str, id: &str) -> String {
    let (_, rest) = page
        .split_once(&format!("id=\"{id}\""))
        .unwrap_or_else(|| panic!("no {id} in {page}"));
    let (_, rest) = rest.split_once('>').unwrap();
    rest.split('<').next().unwrap().to_owned()
}

/// The cells of the table of terms, row by row.
fn terms(page: &str) -> Vec<Vec<String>> {
    let (_, rest) = page.split_once("id=\"terms\">").unwrap();
    let (body, _) = rest.split_once("</tbody>").unwrap();
    let rows = body.split("<tr>").skip(1);
    rows.map(|row| {
        let cells = row.split("<td").skip(1);
        cells
            .map(|cell| cell.split_once('>').unwrap().1.split('<').next().unwrap().to_owned())
            .collect()
    })
    .collect()
}

#[test]
fn a_browser_shows_who_leads_and_who_led() {
    if crate::test_cluster::done_already() {
        return;
    }
    let (mut stage, leader) = TestCluster::elected("page", Reach::All, TTL, EtcdOptions::default());
    let Some(browser) = Browser::find(&stage) else { return };
    let watching = stage.others(leader)[0];
    let at = stage.curators[watching].observe_address().unwrap();
    let (own, first) = (stage.curators[watching].node_id(), stage.curators[leader].node_id());
    let revision = stage.lock_revision(leader).to_string();

    let page = browser.dump(at);
    assert_eq!(words(&page, "node"), own);
    assert_eq!(words(&page, "role"), "follower");
    assert_eq!(words(&page, "leader"), first);
    assert_eq!(words(&page, "ready"), "yes");
    assert_eq!(words(&page, "stale"), "", "it has been answered");
    let more = words(&page, "leader-more");
    let address = stage.curators[leader].address().to_string();
    for part in [&address, "for ", &format!("term {revision}")] {
        assert!(more.contains(part), "{part} in {more}");
    }
    let shown = terms(&page);
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(shown[0][..2], [first.to_owned(), revision]);
    assert!(shown[0][2].ends_with(" ago") && shown[0][3] == "ongoing", "{shown:?}");
    let by_itself = browser.dump(stage.curators[leader].observe_address().unwrap());
    assert_eq!(words(&by_itself, "role"), "leader");
    assert!(words(&by_itself, "role-more").ends_with("until the term expires unless renewed"));

    // Another one leads, the one that is looked at perhaps.
    let (own, first) = (own.to_owned(), first.to_owned());
    stage.silence(leader);
    stage.curators[leader].terminate().unwrap();
    assert!(stage.curators[leader].wait_exit(SOON).unwrap().success());
    let next = stage.agreed(SOON);
    let page = browser.dump(at);
    let second = stage.curators[next].node_id();
    assert_eq!(words(&page, "leader"), second);
    assert_eq!(words(&page, "role"), if second == own { "leader" } else { "follower" });
    let shown = terms(&page);
    let leaders: Vec<_> = shown.iter().map(|row| row[0].as_str()).collect();
    assert_eq!(leaders, [second, &first], "the newest first");
    assert_eq!(shown[0][1], stage.lock_revision(next).to_string());
    assert_eq!(shown[0][3], "ongoing");
    assert_ne!(shown[1][3], "ongoing", "that term has ended");

    for window in ["1280,900", "390,844"] {
        let picture = stage.scratch.logs().join(format!("page-{window}.png"));
        browser.open(at, window, &format!("--screenshot={}", picture.display()));
        assert!(std::fs::metadata(&picture).unwrap().len() > 1_000, "a picture of it");
    }
}
