//! Which ports are watched: lists, limits, exclusions, ports in use, and those that only seem so.

use std::fmt::Write as _;
use std::io::{ErrorKind, Read as _};

use super::{SYN, blocked};
use crate::bench::{Bench, HOST, address};
use crate::case::Case;
use crate::eventually;

pub(crate) fn cases() -> Vec<Case> {
    let long_list: String = (2000..2070).map(|port| format!(",{port}")).collect();
    let long_list = format!("TCP_PORTS=\"1{long_list}\"");
    vec![
        Case::new("-stcp: a port that is not listed", |bench| {
            bench.start("-stcp", "");
            bench.nmap("-sS", "12");
        }),
        Case::new("-atcp: an excluded port", |bench| {
            bench.start("-atcp", "");
            bench.nmap("-sS", "113");
        }),
        Case::new("-atcp: the last port below ADVANCED_PORTS_TCP", |bench| {
            bench.start("-atcp", "");
            bench.nmap("-sS", "1023");
        })
        .sees(&blocked("atcp", SYN, 1023)),
        Case::new("-atcp: ADVANCED_PORTS_TCP itself", |bench| {
            bench.start("-atcp", "");
            bench.nmap("-sS", "1024");
        }),
        Case::new(
            "-atcp: ADVANCED_PORTS_TCP is obeyed also where nothing is excluded",
            |bench| {
                bench.start("-atcp", "#ADVANCED_EXCLUDE_TCP");
                bench.nmap("-sS", "40000");
            },
        )
        .sees(&blocked("atcp", SYN, 40000))
        .but_ours("the original then watches all ports", ""),
        {
            let long_list = long_list.clone();
            Case::new("-stcp: the 64th port of a list", move |bench| {
                bench.start("-stcp", &long_list);
                bench.nmap("-sS", "2062");
            })
            .sees(&blocked("stcp", SYN, 2062))
        },
        Case::new("-stcp: the 65th port of a list", move |bench| {
            bench.start("-stcp", &long_list);
            bench.nmap("-sS", "2063");
        })
        .but_ours(
            "the original drops all but 64 ports of a list in silence",
            &blocked("stcp", SYN, 2063),
        ),
        Case::new("-stcp: a port in use is told and not watched", |bench| {
            bench.occupy(15);
            bench.configure("TCP_PORTS=\"1,11,15\"");
            bench.start_again("-stcp");
            bench.nmap("-sS", "15");
        })
        .sees(
            "adminalert: PortSentry … is starting.
            adminalert: Going into stealth listen mode on TCP port: 1
            adminalert: Going into stealth listen mode on TCP port: 11
            adminalert: Going into stealth listen mode on TCP port: 15
            adminalert: ERROR: Socket 15 is in use and will not be monitored. Attempting to continue
            adminalert: PortSentry is now active and listening.",
        ),
        Case::new("-sudp: a port in use is told and not watched", |bench| {
            bench.occupy_udp(69);
            bench.configure("UDP_PORTS=\"1,69\"");
            bench.start_again("-sudp");
            bench.nmap("-sU", "69");
        })
        .sees(
            "adminalert: PortSentry … is starting.
            adminalert: Going into stealth listen mode on UDP port: 1
            adminalert: Going into stealth listen mode on UDP port: 69
            adminalert: ERROR: Socket 69 is in use and will not be monitored. Attempting to continue
            adminalert: PortSentry is now active and listening.",
        ),
        Case::new("-audp: a port in use is told and not watched", |bench| {
            bench.occupy_udp(69);
            bench.configure("#ADVANCED_EXCLUDE_UDP");
            bench.start_again("-audp");
            bench.nmap("-sU", "69");
        })
        .sees(
            "adminalert: PortSentry … is starting.
            adminalert: Advanced mode will monitor first 1024 ports
            adminalert: Advanced mode will manually exclude no ports
            adminalert: Advanced Stealth scan detection mode activated. Ignored UDP port: 69
            adminalert: PortSentry is now active and listening.",
        ),
        all_in_use("tcp")
            .sees(
                "adminalert: PortSentry … is starting.
                adminalert: Going into listen mode on TCP port: 1
                adminalert: ERROR: could not bind TCP socket: 1. Attempting to continue
                adminalert: ERROR: could not bind ANY TCP sockets. Shutting down.
                adminalert: ERROR: could not go into PortSentry mode. Shutting down.
                securityalert: PortSentry is shutting down
                adminalert: PortSentry is shutting down
                succeeds: true",
            )
            .but_ours(
                "a port is taken up when it becomes free, the only one too",
                "adminalert: PortSentry … is starting.
                adminalert: Going into listen mode on TCP port: 1
                adminalert: ERROR: could not bind TCP socket: 1. Attempting to continue
                adminalert: PortSentry is now active and listening.
                succeeds: true",
            ),
        all_in_use("stcp")
            .sees(
                "adminalert: PortSentry … is starting.
                adminalert: Going into stealth listen mode on TCP port: 1
                adminalert: ERROR: Socket 1 is in use and will not be monitored. Attempting to continue
                adminalert: ERROR: All supplied TCP sockets are in use and will not be listened to. Shutting down.
                adminalert: ERROR: could not go into PortSentry mode. Shutting down.
                securityalert: PortSentry is shutting down
                adminalert: PortSentry is shutting down
                succeeds: true",
            )
            .but_ours(
                "a port is taken up when it becomes free, the only one too",
                "adminalert: PortSentry … is starting.
                adminalert: Going into stealth listen mode on TCP port: 1
                adminalert: ERROR: Socket 1 is in use and will not be monitored. Attempting to continue
                adminalert: PortSentry is now active and listening.
                succeeds: true",
            ),
        Case::new("-atcp: a port in use is told and not watched", |bench| {
            bench.occupy(15);
            bench.configure("");
            bench.start_again("-atcp");
            bench.nmap("-sS", "15");
        })
        .sees(
            "adminalert: PortSentry … is starting.
            adminalert: Advanced mode will monitor first 1024 ports
            adminalert: Advanced mode will manually exclude port: 113\x20
            adminalert: Advanced mode will manually exclude port: 139\x20
            adminalert: Advanced Stealth scan detection mode activated. Ignored TCP port: 15
            adminalert: Advanced Stealth scan detection mode activated. Ignored TCP port: 113
            adminalert: Advanced Stealth scan detection mode activated. Ignored TCP port: 139
            adminalert: PortSentry is now active and listening.",
        ),
        Case::new(
            "-stcp: a port in use that becomes free is watched",
            |bench| {
                let service = bench.listen(15);
                bench.start("-stcp", "");
                drop(service);
                bench.nmap("-sS", "15");
            },
        )
        .but_ours(
            "ports in use are looked at again",
            &blocked("stcp", SYN, 15),
        ),
        Case::new(
            "-atcp: a port in use that becomes free is watched",
            |bench| {
                let service = bench.listen(15);
                bench.start("-atcp", "");
                drop(service);
                bench.nmap("-sS", "15");
            },
        )
        .but_ours(
            "ports in use are looked at again",
            &blocked("atcp", SYN, 15),
        ),
        Case::new(
            "-atcp: a port that comes into use is not watched",
            |bench| {
                bench.start("-atcp", "");
                bench.occupy(15);
                bench.nmap("-sS", "15");
            },
        ),
        // 1.2 takes it for one in use; ours remembers the service, that may be restarting, for ten minutes.
        Case::new("-stcp: a port in TIME_WAIT is not watched", |bench| {
            bench.start("-stcp", "");
            time_wait(bench, 15);
            bench.nmap("-sS", "15");
        }),
        Case::new(
            "-stcp: a port in TIME_WAIT at the start is watched",
            |bench| {
                time_wait(bench, 15);
                bench.start("-stcp", "");
                bench.nmap("-sS", "15");
            },
        )
        .but_ours(
            "nobody listens on a port in TIME_WAIT",
            &blocked("stcp", SYN, 15),
        ),
        failed_bind("tcp", "-sT"),
        failed_bind("udp", "-sU"),
        Case::new(
            "-tcp: a port in use that becomes free is left to its service",
            |bench| {
                let service = bench.listen(15);
                bench.start("-tcp", "");
                drop(service);
                if bench.is_ours() {
                    eventually("it is seen that the port is free", || {
                        let (_, status) = bench.launch("status");
                        status.contains("tcp 15 not listened on: free again").then_some(())
                    });
                }
                bench.nmap("-sT", "15");
            },
        ),
        a_thousand_in_use("tcp", "-sS"),
        a_thousand_in_use("udp", "-sU"),
        Case::new("-atcp -audp: no port is taken up", |bench| {
            bench.start("-atcp -audp", "");
            let bound = bench.host.run("ss -Htuln");
            bench.report(&bound);
        }),
        unlisted("stcp", "-sS", SYN),
        unlisted("sudp", "-sU", "UDP scan"),
        descriptors("tcp"),
        descriptors("udp"),
        Case::new("-tcp: connections that are held cost no descriptors", |bench| {
            bench.start("-tcp", "");
            let before = bench.sockets();
            // Who is hung up on at once may take that for a failure.
            let held: Vec<_> = (0..100)
                .map(|_| bench.stranger.connect(address(HOST), 11))
                .collect();
            bench.everything_is_judged();
            let more = bench.sockets().saturating_sub(before);
            drop(held);
            bench.report(&format!("{more} more than before"));
        })
        .sees("0 more than before"),
    ]
}

/// The second of the ports that are listed is in use, and the third is probed.
fn failed_bind(mode: &'static str, how: &'static str) -> Case {
    let protocol = mode.to_uppercase();
    let listens =
        |port: u16| format!("adminalert: Going into listen mode on {protocol} port: {port}");
    let seen = |ports: [u16; 4], told: u16| {
        let start: Vec<String> = ports
            .iter()
            .map(|port| match port {
                15 => format!(
                    "{}\nadminalert: ERROR: could not bind {protocol} socket: 15. Attempting to continue",
                    listens(15)
                ),
                port => listens(*port),
            })
            .collect();
        format!(
            "adminalert: PortSentry … is starting.
            {}
            adminalert: PortSentry is now active and listening.
            {}",
            start.join("\n"),
            blocked(mode, "Connect", told)
        )
    };
    let ports = format!("{protocol}_PORTS=\"1,15,11,79\"");
    Case::new(
        format!("-{mode}: a port in use is told, and the others keep their numbers"),
        move |bench| {
            match mode {
                "udp" => bench.occupy_udp(15),
                _ => bench.occupy(15),
            }
            bench.configure(&ports);
            bench.start_again(&format!("-{mode}"));
            bench.nmap(how, "11");
        },
    )
    .sees(&seen([1, 15, 11, 79], 15))
    .but_ours(
        "the original takes 11, the third, for the second, which is not bound",
        &seen([1, 11, 15, 79], 11),
    )
}

/// So many ports in use that the original's list of them, which has 64 places, ends far behind its end.
fn a_thousand_in_use(protocol: &'static str, how: &'static str) -> Case {
    Case::new(
        format!("-a{protocol}: a thousand ports in use"),
        move |bench| {
            for port in 1025..2025 {
                match protocol {
                    "udp" => bench.occupy_udp(port),
                    _ => bench.occupy(port),
                }
            }
            let key = format!("ADVANCED_PORTS_{}", protocol.to_uppercase());
            bench.start(&format!("-a{protocol}"), &format!("{key}=\"2048\""));
            bench.nmap(how, "11");
            let end = bench.recorded_or_ended();
            bench.report(&end);
        },
    )
    .sees("killed by signal 11")
    .but_ours("the original writes beyond an array of 64", "recorded")
}

/// One of the ports that are listed is in use. The original looks at as many places of its list as there are ports, also at
/// those it has not written for want of a port; they happen to be zero.
fn unlisted(mode: &'static str, how: &'static str, kind: &str) -> Case {
    let name = format!("-{mode}: port 0, which nobody has listed, where a port is in use");
    Case::new(name, move |bench| {
        match mode {
            "sudp" => bench.occupy_udp(69),
            _ => bench.occupy(15),
        }
        bench.start(&format!("-{mode}"), "");
        bench.nmap(how, "0");
    })
    .sees(&blocked(mode, kind, 0))
    .but_ours(
        "the original takes memory that it has not written for ports",
        "",
    )
}

/// Nearly all ports that are listed are in use; what they cost, compared with a list of one that is not.
fn descriptors(mode: &'static str) -> Case {
    const IN_USE: std::ops::Range<u16> = 2000..2060;
    Case::new(
        format!("-{mode}: ports in use cost no descriptors"),
        move |bench| {
            let key = format!("{}_PORTS", mode.to_uppercase());
            bench.start(&format!("-{mode}"), &format!("{key}=\"1\""));
            let before = bench.sockets();
            bench.stop();
            let mut list = String::from("1");
            for port in IN_USE {
                match mode {
                    "udp" => bench.occupy_udp(port),
                    _ => bench.occupy(port),
                }
                write!(list, ",{port}").expect("a string takes it");
            }
            bench.start(&format!("-{mode}"), &format!("{key}=\"{list}\""));
            bench.forget_notes();
            let more = bench.sockets().saturating_sub(before);
            bench.report(&format!("{more} more for {} ports", IN_USE.len()));
        },
    )
    .sees("60 more for 60 ports")
    .but_ours(
        "a socket that could not be bound is closed",
        "0 more for 60 ports",
    )
}

/// The one port that is listed is in use. The original has succeeded when it finds that out.
fn all_in_use(mode: &'static str) -> Case {
    Case::new(format!("-{mode}: all ports in use"), move |bench| {
        bench.occupy(1);
        bench.configure("TCP_PORTS=\"1\"");
        let (status, _) = bench.launch(&format!("-{mode}"));
        bench.note(format!("succeeds: {}", status == 0));
        bench.until("adminalert: PortSentry is …");
    })
}

/// Leaves a socket of the host in TIME_WAIT on this port: the side that hangs up first has it.
fn time_wait(bench: &mut Bench, port: u16) {
    let service = bench.listen(port);
    let mut client = bench
        .stranger
        .connect(address(HOST), port)
        .expect("the service listens");
    let (served, _) = service.accept().expect("the client has connected");
    drop(served);
    eventually("the host hangs up", || match client.read(&mut [0]) {
        Ok(0) => Some(()),
        Err(error) if error.kind() == ErrorKind::Interrupted => None,
        other => panic!("the service says nothing: {other:?}"),
    });
    drop(client);
    // What was sent to a service is judged while it is there.
    bench.everything_is_judged();
    drop(service);
    eventually("the socket waits", || {
        bench
            .host
            .run("ss -tan state time-wait")
            .contains(&format!("{HOST}:{port}"))
            .then_some(())
    });
}
