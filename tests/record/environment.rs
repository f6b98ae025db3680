//! Recordings that are asked for from outside, in a process of its own: this program run again.

use std::process::Command;

use balanceroute::policy::Parameters;
use balanceroute::record::{RecordError, Replay};
use balanceroute::{Request, Router, RouterConfig};

use crate::Folder;

/// What the process does that is run with the variable; nothing without it.
#[test]
#[ignore = "run by the others"]
fn as_somebody_elses_program() {
    let build = || Router::new(RouterConfig::new(2, 2), "level", &Parameters::default());
    match build() {
        Ok(mut first) => {
            let mut second = build().expect("as before");
            first.enqueue(Request::new(1, 100), 0).expect("new");
            first.step(1).expect("sound");
            second.enqueue(Request::new(7, 100), 0).expect("new");
            // Killed, in effect: nothing is dropped.
            std::process::exit(0);
        }
        Err(error) => panic!("refused: {error}"),
    }
}

fn run(record: &std::path::Path) -> std::process::Output {
    Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "environment::as_somebody_elses_program", "--nocapture"])
        .env("BALANCEROUTE_RECORD", record)
        .output()
        .expect("this program runs")
}

#[test]
fn a_variable_records_every_router_of_a_process() {
    let folder = Folder::new();
    for _ in 0..20 {
        assert!(run(folder.path()).status.success());
    }
    let mut folders: Vec<_> = std::fs::read_dir(folder.path())
        .expect("a folder")
        .map(|entry| entry.expect("a file").path())
        .collect();
    folders.sort_unstable();
    // Those of the last process, and sixteen that had ended as its second router began.
    assert_eq!(folders.len(), 18, "{folders:?}");
    let mut calls = Vec::new();
    for own in &folders {
        let mut replay = Replay::open(own).expect("a log");
        while let Some(event) = replay.next_event().expect("whole records") {
            assert!(!event.differs());
        }
        calls.push((replay.calls(), replay.router().running_len()));
    }
    assert!(calls.contains(&(2, 1)) && calls.contains(&(1, 0)), "{calls:?}");
    let several = Replay::open(folder.path()).err();
    assert!(
        matches!(&several, Some(RecordError::Several { folders, .. }) if folders.len() == 18),
        "{several:?}"
    );
}

#[test]
fn a_variable_that_names_no_folder_is_refused_at_once() {
    let folder = Folder::new();
    let file = folder.path().join("file");
    std::fs::write(&file, "no folder").expect("a file");
    let output = run(&file);
    let said =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("refused: BALANCEROUTE_RECORD: cannot"), "{said}");
}
