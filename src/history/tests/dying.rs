//! What is left when a process is killed.

use super::*;

const CHILD: &str = "HISTORY_TEST_CHILD";

/// This test program again, running `test` alone, with `path` for it to find.
fn again(test: &str, path: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([
            &format!("history::tests::dying::{test}"),
            "--exact",
            "--nocapture",
        ])
        .env(CHILD, path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn what_was_acknowledged_survives_kill_9() {
    if let Some(path) = std::env::var_os(CHILD) {
        let recorder = Recorder::start(
            History::open(Path::new(&path)).unwrap(),
            TextFiles::default(),
        )
        .unwrap();
        for n in (0..).step_by(2) {
            recorder.push(record(nth(n), noon(), None)).unwrap();
            recorder.push(record(nth(n + 1), noon(), None)).unwrap();
            let seq = recorder
                .push(end(nth(n), noon().wall, Ending::Unban))
                .unwrap();
            wait_written(&recorder, seq);
            println!("\nwritten {n}");
        }
    }
    let (_dir, path) = temp();
    for round in 1..=3_u64 {
        let mut child = again("what_was_acknowledged_survives_kill_9", &path);
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut acknowledged = || {
            lines.find_map(|line| {
                line.unwrap()
                    .strip_prefix("written ")
                    .map(|n| n.parse::<u32>().unwrap())
            })
        };
        for _ in 0..20 {
            acknowledged().unwrap();
        }
        child.kill().unwrap();
        let last = std::iter::from_fn(acknowledged).last().unwrap_or(38);
        child.wait().unwrap();
        let history = History::open(&path).unwrap();
        for n in (0..=last).step_by(2) {
            assert!(
                history.running_exact(noon(), nth(n)).unwrap().is_none(),
                "{n} in round {round}"
            );
            assert!(history.running_exact(noon(), nth(n + 1)).unwrap().is_some());
        }
    }
}

#[test]
fn the_lock_names_its_holder_and_goes_with_it() {
    if let Some(path) = std::env::var_os(CHILD) {
        let _lock = StateLock::acquire(Path::new(&path)).unwrap();
        println!("\nlocked");
        let _ = std::io::stdin().read(&mut [0]);
        loop {
            thread::park();
        }
    }
    let (dir, path) = temp();
    assert_eq!(lock::holder(&path).unwrap(), None);
    let mut child = again("the_lock_names_its_holder_and_goes_with_it", &path);
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    lines
        .find(|line| line.as_ref().is_ok_and(|line| line == "locked"))
        .unwrap()
        .unwrap();
    let holder = lock::holder(&path).unwrap().unwrap();
    assert_eq!(holder.pid, Some(child.id()));
    let said = StateLock::acquire(&path).unwrap_err().to_string();
    let expected = format!(
        "another portsentry holds {}.lock: pid {} (portsentry-",
        path.display(),
        child.id()
    );
    assert!(said.starts_with(&expected), "{said}");
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(lock::holder(&path).unwrap(), None);
    let lock = StateLock::acquire(&path).unwrap();
    let file = dir.path().join("history.db.lock");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        format!("{}\n", std::process::id())
    );
    assert!(matches!(
        StateLock::acquire(&path),
        Err(LockError::Held { .. })
    ));
    drop(lock);
    assert_eq!(fs::read_to_string(&file).unwrap(), "");
    StateLock::acquire(&path).unwrap();
}
