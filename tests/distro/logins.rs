//! Who is logged in, through a real sshd: not banned while that lasts, banned like anybody afterwards. Who only waits at sshd's door
//! is nobody.

use std::fs;
use std::io::Read as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Child, Stdio};
use std::time::Duration;

use tempfile::TempDir;

use crate::machine::{Machine, Release};
use crate::worlds::{Pair, at};
use crate::{eventually, on_each_debian, unit};

on_each_debian!(
    who_is_logged_in_is_not_banned_until_logged_out,
    without_logind_a_connection_that_outlasts_the_time_to_log_in_is_a_login,
    who_waits_at_sshds_door_is_banned_like_anybody,
);

/// Somebody's ssh, from the stranger. Ends the login on drop.
pub(crate) struct Login {
    ssh: Child,
    _key: TempDir,
}

impl Login {
    /// Logs in as root, who has a key to this machine from now on.
    pub(crate) fn to(machine: &Machine) -> Self {
        machine.run(
            "test -e /root/key || ssh-keygen -q -t ed25519 -N '' -f /root/key
            mkdir -p -m 700 /root/.ssh && cp /root/key.pub /root/.ssh/authorized_keys",
        );
        let dir = tempfile::tempdir().expect("there is a directory for such");
        let key = dir.path().join("key");
        fs::write(&key, machine.read("/root/key")).expect("the directory is ours");
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).expect("it is ours");
        let mut ssh = machine.net.stranger.command("ssh");
        ssh.args("-F none -o BatchMode=yes -o StrictHostKeyChecking=no".split(' '))
            .args("-o UserKnownHostsFile=/dev/null -o LogLevel=ERROR -i".split(' '))
            .arg(&key)
            // What runs on after the logout does not make it one that is still there.
            .args([
                &format!("root@{}", Pair::HOST),
                "echo welcome; exec sleep infinity",
            ])
            .stdout(Stdio::piped());
        let mut ssh = ssh
            .spawn()
            .expect("ssh is there: run packaging/setup --distro");
        let mut said = [0; 8];
        let told = ssh.stdout.as_mut().expect("it was asked for above");
        told.read_exact(&mut said).expect("sshd lets root in");
        assert_eq!(&said, b"welcome\n");
        Self { ssh, _key: dir }
    }
}

impl Drop for Login {
    fn drop(&mut self) {
        let _ = self.ssh.kill();
        let _ = self.ssh.wait();
    }
}

/// Our unit beside sshd, which leaves `grace` seconds for logging in.
fn with_sshd(release: Release, grace: u32) -> Machine {
    let machine = unit::running(release);
    machine.write(
        "/etc/ssh/sshd_config.d/local.conf",
        &format!("LoginGraceTime {grace}\n"),
    );
    machine.run("systemctl enable --now ssh");
    machine
}

/// Scans from one of the stranger's addresses.
fn scan_from(machine: &Machine, address: &str) {
    let how = format!("-sS -S {address} -e eth0");
    machine.net.stranger.nmap(&how, "1-21", Pair::HOST);
}

fn explain(machine: &Machine) -> String {
    machine.run(&format!("portsentry explain {}", Pair::STRANGER))
}

fn is_listed(machine: &Machine, address: &str) -> bool {
    machine.run("portsentry list").contains(address)
}

/// Scans, and is not banned for `reason`; the stranger's other address is.
fn is_spared(machine: &Machine, reason: &str) {
    scan_from(machine, Pair::STRANGER);
    let told = format!("10.77.0.2 scans, and is not banned: {reason}");
    eventually(&format!("the journal has \"{told}\""), || {
        let entries = machine.journal();
        entries
            .iter()
            .any(|entry| {
                let message = entry["MESSAGE"].as_str();
                message.is_some_and(|message| message.starts_with(&told))
            })
            .then_some(())
    });
    scan_from(machine, Pair::OTHER);
    machine.is_banned(Pair::OTHER);
    assert!(!is_listed(machine, "10.77.0.2 "));
    let refused = machine.fails(&format!("portsentry ban {}", Pair::STRANGER));
    assert!(refused.contains(reason), "{refused}");
    let friends = machine.run("nft list set inet portsentry ignored4");
    assert!(friends.contains(Pair::STRANGER), "{friends}");
}

/// A scan gets the stranger banned, once what has been told of his scans before is a while ago.
fn is_banned_again(machine: &Machine) {
    eventually("whoever has logged out can be banned", || {
        scan_from(machine, Pair::STRANGER);
        is_listed(machine, "10.77.0.2 ").then_some(())
    });
    assert!(!machine.net.stranger.reaches(at(Pair::HOST), 22));
}

fn who_is_logged_in_is_not_banned_until_logged_out(release: Release) {
    let machine = with_sshd(release, 120);
    let login = Login::to(&machine);
    is_spared(&machine, "root is logged in from 10.77.0.2 (session ");
    // Over a restart of ours too.
    machine.run("systemctl restart portsentry");
    let told = explain(&machine);
    assert!(
        told.contains("is never banned: root is logged in"),
        "{told}"
    );
    drop(login);
    is_banned_again(&machine);
    machine.run("pgrep -x sleep");
}

fn without_logind_a_connection_that_outlasts_the_time_to_log_in_is_a_login(release: Release) {
    let machine = with_sshd(release, 2);
    machine.run("systemctl mask --now systemd-logind && rm -rf /run/systemd/sessions");
    let login = Login::to(&machine);
    assert!(!explain(&machine).contains("is never banned"));
    eventually("the connection is older than the time to log in", || {
        explain(&machine).contains("is never banned").then_some(())
    });
    is_spared(
        &machine,
        "somebody is logged in from 10.77.0.2 (over SSH, to port 22)",
    );
    drop(login);
    is_banned_again(&machine);
}

fn who_waits_at_sshds_door_is_banned_like_anybody(release: Release) {
    let machine = with_sshd(release, 2);
    let connect = || {
        let connection = machine.net.stranger.connect(at(Pair::HOST), 22);
        connection.expect("sshd takes connections")
    };
    // One says nothing, one begins to talk.
    let mut waiting = [connect(), connect()];
    std::io::Write::write_all(&mut waiting[1], b"SSH-2.0-stranger\r\n").expect("it is connected");
    eventually("sshd has hung up on both", || {
        let told = explain(&machine);
        assert!(!told.contains("is never banned"), "{told}");
        waiting.iter_mut().all(hung_up).then_some(())
    });
    let _waiting = connect();
    unit::scan(&machine);
    assert!(!machine.net.stranger.reaches(at(Pair::HOST), 22));
}

/// Whether the other end has nothing more to say.
fn hung_up(connection: &mut TcpStream) -> bool {
    connection
        .set_read_timeout(Some(Duration::from_millis(100)))
        .expect("longer than zero");
    let mut said = [0; 4096];
    loop {
        match connection.read(&mut said) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return false,
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => return true,
            Err(error) => panic!("{error}"),
        }
    }
}
