//! Real programs, most of them a line of shell.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

use super::*;

const LONG: Duration = Duration::from_secs(60);

fn shell(line: &str) -> Job {
    Job {
        id: 1,
        line: CommandLine::Shell(line.to_owned()),
        source: "203.0.113.7".parse().unwrap(),
        port: 23,
        mode: WatchMode::from_name("stcp"),
    }
}

fn argv(words: &[&str]) -> Job {
    Job {
        line: CommandLine::Argv(words.iter().map(|word| (*word).to_owned()).collect()),
        ..shell("")
    }
}

/// How these ended, in order.
fn run(limit: Duration, jobs: Vec<Job>) -> Vec<Ended> {
    let runner = Runner::start(limit).unwrap();
    for job in jobs {
        assert!(runner.run(job));
    }
    runner.stop(LONG)
}

fn trouble(limit: Duration, job: Job) -> Option<String> {
    run(limit, vec![job]).remove(0).trouble
}

#[test]
fn the_exit_status_is_believed() {
    for (line, expected) in [
        ("true", None),
        ("exit 3", Some("exit status 3")),
        (
            "/nonexistent/iptables",
            Some("exit status 127 (no such program): "),
        ),
        ("kill -9 $$", Some("killed by signal 9")),
        ("echo no way >&2; false", Some("exit status 1: no way")),
    ] {
        let trouble = trouble(LONG, shell(line));
        match expected {
            None => assert_eq!(trouble, None, "{line}"),
            Some(expected) => {
                let trouble = trouble.unwrap();
                assert!(trouble.starts_with(expected), "{line}: {trouble}");
            }
        }
    }
    let trouble = trouble(LONG, argv(&["/nonexistent/notify"])).unwrap();
    assert!(
        trouble.starts_with("cannot be run: No such file or directory"),
        "{trouble}"
    );
}

#[test]
fn placeholders_are_filled_in_everywhere() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let words = format!(
        "echo {{source}} {{port}} {{mode}} $PORTSENTRY_SOURCE {{other}} | cat > {}",
        out.display()
    );
    let ended = run(LONG, vec![shell(&words)]).remove(0);
    assert_eq!(
        std::fs::read_to_string(&out).unwrap(),
        "203.0.113.7 23 stcp 203.0.113.7 {other}\n"
    );
    assert!(ended.command.starts_with("echo 203.0.113.7 23 stcp $"));
    let ended = run(LONG, vec![argv(&["/bin/echo", "-{source}-", "$HOME;"])]);
    assert_eq!(ended[0].command, "/bin/echo -203.0.113.7- $HOME;");
    assert_eq!(ended[0].trouble, None);
}

#[test]
fn the_environment_is_clean_and_the_place_is_the_root() {
    let line = r#"test "$PWD" = / && test -z "$CARGO_MANIFEST_DIR" && test "$(env | wc -l)" -le 8"#;
    assert_eq!(trouble(LONG, shell(line)), None);
}

#[test]
fn no_descriptor_of_ours_is_inherited_even_one_that_forgot_to_close() {
    let (kept_open, _other_end) = nix::unistd::pipe().unwrap();
    let number = std::os::fd::AsRawFd::as_raw_fd(&kept_open).to_string();
    let inherited = |path: &str| trouble(LONG, argv(&["/bin/ls", path]));
    assert_eq!(inherited("/proc/self/fd/2"), None);
    let missing = inherited(&format!("/proc/self/fd/{number}")).unwrap();
    assert!(missing.contains("No such file"), "{missing}");
}

#[test]
fn a_program_keeps_the_rights_that_were_there_at_the_start() {
    let runner = Runner::start(LONG).unwrap();
    nix::sys::prctl::set_no_new_privs().unwrap();
    let has_new = ["/bin/grep", "-q", "^NoNewPrivs:.0$", "/proc/self/status"];
    assert!(runner.run(argv(&has_new)));
    assert_eq!(runner.stop(LONG)[0].trouble, None);
    let trouble = trouble(LONG, argv(&has_new));
    assert!(trouble.is_some(), "one that is started later has lost them");
}

#[test]
fn a_program_that_takes_too_long_is_killed_with_all_that_it_started() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let line = format!(
        "sh -c 'trap \"\" TERM; echo $$ > {0}.new; mv {0}.new {0}; while :; do sleep 60; done' & wait",
        pid.display()
    );
    let job = shell(&line);
    let trouble = trouble(Duration::from_millis(1500), job).unwrap();
    assert_eq!(trouble, "did not end within 1s, and was killed");
    let grandchild = std::fs::read_to_string(&pid).unwrap();
    let deadline = Instant::now() + LONG;
    let state = || std::fs::read_to_string(format!("/proc/{}/stat", grandchild.trim()));
    // Until somebody has waited for it, it may be there as a zombie.
    while state().is_ok_and(|stat| !stat.contains(") Z ")) {
        assert!(Instant::now() < deadline, "{grandchild} lives on");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn what_is_left_in_the_background_is_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let pid = dir.path().join("pid");
    let line = format!("sleep 300 & echo $! > {}", pid.display());
    assert_eq!(trouble(LONG, shell(&line)), None);
    let left = std::fs::read_to_string(&pid).unwrap();
    let left = Pid::from_raw(left.trim().parse().unwrap());
    nix::sys::signal::kill(left, Signal::SIGKILL).unwrap();
}

#[test]
fn a_child_can_be_ended_though_we_block_signals() {
    let blocked = nix::sys::signal::SigSet::from_iter([Signal::SIGTERM, Signal::SIGINT]);
    blocked.thread_block().unwrap();
    assert_eq!(
        trouble(LONG, shell("kill -TERM $$; sleep 60")).unwrap(),
        "killed by signal 15"
    );
    // The shell unblocks signals itself: this one does not.
    let unblocked = ["/bin/grep", "-q", "^SigBlk:.0*$", "/proc/self/status"];
    assert_eq!(trouble(LONG, argv(&unblocked)), None);
}

#[test]
fn they_run_one_after_the_other() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    let job = |n: u64| Job {
        id: n,
        ..shell(&format!(
            "echo {n}a >> {0}; sleep 0.01; echo {n}b >> {0}",
            out.display()
        ))
    };
    let ended = run(LONG, (1..=5).map(job).collect());
    let ids: Vec<u64> = ended.iter().map(|ended| ended.id).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5]);
    let expected: String = (1..=5).map(|n| format!("{n}a\n{n}b\n")).collect();
    assert_eq!(std::fs::read_to_string(out).unwrap(), expected);
}

#[test]
fn output_is_cut_and_disarmed() {
    let line = "head -c 10000000 /dev/zero | tr '\\0' x; printf '\\033[31mlast'; exit 1";
    let trouble = trouble(LONG, shell(line)).unwrap();
    assert!(trouble.starts_with("exit status 1: …xxx"), "{trouble}");
    assert!(trouble.ends_with(r"x\u{1b}[31mlast"), "{trouble}");
    assert!(trouble.len() < 1000, "{}", trouble.len());
}

#[test]
fn a_command_is_cut_and_disarmed_too() {
    let line = format!(": '\u{1b}' {}", "x".repeat(3000));
    let command = run(LONG, vec![shell(&line)]).remove(0).command;
    assert!(command.starts_with(r": '\u{1b}' xxx"), "{command}");
    assert!(command.ends_with("x…"), "{command}");
}

#[test]
fn a_full_queue_takes_no_more_and_a_stop_does_not_wait_for_it() {
    let runner = Runner::start(LONG).unwrap();
    let taken = (0..Runner::QUEUE + 10)
        .filter(|_| runner.run(shell("sleep 60")))
        .count();
    assert!(
        (Runner::QUEUE..=Runner::QUEUE + 1).contains(&taken),
        "{taken}"
    );
    let ended = runner.stop(Duration::from_millis(10));
    assert!(ended.len() <= 1, "{ended:?}");
}

#[test]
fn a_stop_ends_what_still_runs_and_says_so() {
    let runner = Runner::start(LONG).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let begun = dir.path().join("begun");
    let line = format!("echo half way; : > {}; sleep 600", begun.display());
    assert!(runner.run(shell(&line)));
    let deadline = Instant::now() + LONG;
    while !begun.exists() {
        assert!(Instant::now() < deadline, "it never began");
        thread::sleep(Duration::from_millis(1));
    }
    let ended = runner.stop(Duration::ZERO);
    assert_eq!(
        ended[0].trouble.as_deref(),
        Some("had not ended when portsentry stopped, and was killed: half way")
    );
}

#[test]
fn its_end_rings() {
    let runner = Runner::start(LONG).unwrap();
    assert!(runner.run(shell("true")));
    let mut fds = [PollFd::new(runner.fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, 60_000_u16), Ok(1));
    assert_eq!(runner.ended().len(), 1);
    let mut fds = [PollFd::new(runner.fd(), PollFlags::POLLIN)];
    assert_eq!(poll(&mut fds, PollTimeout::ZERO), Ok(0));
}

#[test]
fn a_starter_that_ignores_its_children_takes_no_exit_status_from_us() {
    let this = std::env::current_exe().unwrap();
    let test = concat!(module_path!(), "::the_exit_status_is_believed");
    let (_, test) = test.split_once("::").unwrap();
    let output = Command::new("env")
        .arg("--ignore-signal=CHLD")
        .arg(this)
        .args(["--exact", test])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("1 passed"), "{said}");
}
