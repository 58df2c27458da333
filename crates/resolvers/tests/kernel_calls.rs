//! Kernel calls that Java has no words for, made by perl in the trampoline's sandbox.

use std::process::Command;

const FASTOPEN: i64 = libc::MSG_FASTOPEN as i64;
/// More than any call number: the x32 variant of a call on `x86_64`.
#[cfg(target_arch = "x86_64")]
const X32: i64 = 0x4000_0000;

/// The error number of a call, 0 when it worked.
fn errno(options: &[&str], call: i64, arguments: &[i64]) -> i32 {
    let words: Vec<_> = std::iter::once(call).chain(arguments.iter().copied()).map(|word| word.to_string()).collect();
    let script = format!("my $r = syscall({}); print $r < 0 ? $!+0 : 0", words.join(", "));
    let output = Command::new(env!("CARGO_BIN_EXE_jar-host-exec"))
        .args(options)
        .args(["/usr/bin/perl", "-e", &script])
        .output()
        .expect("the trampoline");
    assert!(output.status.success(), "{call} {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("text").parse().expect("a number")
}

fn socket(options: &[&str], family: i32, kind: i32, protocol: i32) -> i32 {
    let options: Vec<_> = std::iter::once("--sandbox=required").chain(options.iter().copied()).collect();
    errno(&options, libc::SYS_socket, &[family.into(), kind.into(), protocol.into()])
}

#[test]
fn calls_that_reach_past_the_sandbox_are_refused() {
    let own = i64::from(std::process::id());
    let calls: &[(i64, &[i64])] = &[
        (libc::SYS_ptrace, &[16, own, 0, 0]),
        (libc::SYS_process_vm_readv, &[own, 0, 0, 0, 0, 0]),
        (libc::SYS_process_vm_writev, &[own, 0, 0, 0, 0, 0]),
        (libc::SYS_pidfd_getfd, &[0, 0, 0]),
        (libc::SYS_kcmp, &[own, own, 0, 0, 0]),
        (libc::SYS_perf_event_open, &[0, 0, 0, 0, 0]),
        (libc::SYS_bpf, &[0, 0, 0]),
        (libc::SYS_userfaultfd, &[0]),
        (libc::SYS_io_uring_setup, &[1, 0]),
        (libc::SYS_keyctl, &[0, 0, 0]),
        (libc::SYS_add_key, &[0, 0, 0, 0, 0]),
        (libc::SYS_mount, &[0, 0, 0, 0, 0]),
        (libc::SYS_open_tree, &[0, 0, 0]),
        (libc::SYS_unshare, &[libc::CLONE_NEWUSER.into()]),
        (libc::SYS_setns, &[0, 0]),
        (libc::SYS_chroot, &[0]),
        (libc::SYS_memfd_create, &[0, 0]),
        (libc::SYS_open_by_handle_at, &[0, 0, 0]),
        (libc::SYS_clone, &[libc::CLONE_NEWUSER.into(), 0, 0, 0, 0]),
        (libc::SYS_clone, &[(libc::CLONE_NEWNET | libc::SIGCHLD).into(), 0, 0, 0, 0]),
        (libc::SYS_listen, &[0, 1]),
        (libc::SYS_sendto, &[0, 0, 0, FASTOPEN, 0, 0]),
        (libc::SYS_sendmsg, &[0, 0, FASTOPEN]),
        (libc::SYS_sendmmsg, &[0, 0, 0, FASTOPEN]),
        (libc::SYS_socketpair, &[libc::AF_UNIX.into(), libc::SOCK_DGRAM.into(), 0, 0]),
        // What a process of the same user may otherwise do to another one.
        (libc::SYS_prlimit64, &[own, libc::RLIMIT_NOFILE.into(), 0, 0]),
        (libc::SYS_setpriority, &[0, own, 19]),
        (libc::SYS_setpriority, &[2, 0, 19]),
        (libc::SYS_sched_setaffinity, &[own, 0, 0]),
        (libc::SYS_sched_setscheduler, &[own, 0, 0]),
        (libc::SYS_ioprio_set, &[1, own, 0]),
        (libc::SYS_migrate_pages, &[own, 0, 0, 0]),
        #[cfg(target_arch = "x86_64")]
        (libc::SYS_getpid + X32, &[]),
    ];
    for (call, arguments) in calls {
        assert_eq!(errno(&["--sandbox=required"], *call, arguments), libc::EPERM, "call {call} {arguments:?}");
    }
    assert_eq!(errno(&["--sandbox=required"], libc::SYS_clone3, &[0, 0]), libc::ENOSYS);
    assert_eq!(errno(&["--sandbox=required"], libc::SYS_openat2, &[0, 0, 0, 0]), libc::ENOSYS);
    assert_ne!(errno(&["--sandbox=required"], libc::SYS_prlimit64, &[0, 0, 0, 0]), libc::EPERM, "its own limits");
    let unlimited = [
        (libc::SYS_kcmp, vec![own, own, 0, 0, 0]),
        (libc::SYS_listen, vec![0, 1]),
        (libc::SYS_memfd_create, vec![0, 0]),
    ];
    for (call, arguments) in unlimited {
        assert_ne!(errno(&[], call, &arguments), libc::EPERM, "it is the sandbox that refuses call {call}");
    }
}

#[test]
fn sockets_are_what_the_configuration_allows() {
    let refused = libc::EPERM;
    for options in [&[][..], &["--connect", "443"], &["--udp"], &["--connect", "443", "--udp", "--unix-sockets"]] {
        let has = |option| options.contains(&option);
        let expected = |open: bool| if open { 0 } else { refused };
        for family in [libc::AF_INET, libc::AF_INET6] {
            for flags in [0, libc::SOCK_CLOEXEC, libc::SOCK_NONBLOCK] {
                assert_eq!(
                    socket(options, family, libc::SOCK_STREAM | flags, 0),
                    expected(has("--connect")),
                    "{options:?}"
                );
                assert_eq!(socket(options, family, libc::SOCK_DGRAM | flags, 0), expected(has("--udp")), "{options:?}");
            }
            // MPTCP, SCTP and ping are neither TCP nor UDP.
            assert_eq!(socket(options, family, libc::SOCK_STREAM, 262), refused, "{options:?}");
            assert_eq!(socket(options, family, libc::SOCK_STREAM, 132), refused, "{options:?}");
            assert_eq!(socket(options, family, libc::SOCK_DGRAM, 1), refused, "{options:?}");
            assert_eq!(socket(options, family, libc::SOCK_RAW, 1), refused, "{options:?}");
        }
        assert_eq!(
            socket(options, libc::AF_UNIX, libc::SOCK_STREAM, 0),
            expected(has("--unix-sockets")),
            "{options:?}"
        );
        for family in [libc::AF_NETLINK, libc::AF_PACKET, libc::AF_VSOCK, libc::AF_ALG] {
            assert_eq!(socket(options, family, libc::SOCK_RAW, 0), refused, "{options:?} {family}");
            assert_eq!(socket(options, family, libc::SOCK_STREAM, 0), refused, "{options:?} {family}");
        }
    }
}

#[test]
fn a_network_of_its_own_is_empty_and_its_tasks_are_counted() {
    let run = |options: &[&str], script: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_jar-host-exec"))
            .args(options)
            .args(["/usr/bin/perl", "-e", script])
            .output()
            .expect("perl");
        String::from_utf8(output.stdout).expect("text")
    };
    let devices = "open F, '<', '/proc/self/net/dev' or die; print scalar grep /:/, <F>";
    assert_eq!(run(&["--sandbox=required", "--private-network"], devices), "1", "the loopback device alone");
    let limits = "open F, '<', '/proc/self/limits' or die; print grep /^Max processes/, <F>";
    let limits = run(&["--sandbox=required", "--private-network"], limits);
    assert_eq!(limits.split_whitespace().nth(2), Some("512"), "{limits}");
}

#[test]
fn root_keeps_no_capability() {
    let exec = env!("CARGO_BIN_EXE_jar-host-exec");
    let script =
        "open F, '<', '/proc/self/status' or die; print grep /^Cap(Inh|Prm|Eff|Amb)|^Seccomp:|^NoNewPrivs/, <F>";
    let output = Command::new(exec).args(["--sandbox=required", "/usr/bin/perl", "-e", script]).output().expect("perl");
    let text = String::from_utf8(output.stdout).expect("text");
    let capabilities: Vec<_> = text.lines().filter(|line| line.starts_with("Cap")).collect();
    assert_eq!(capabilities.len(), 4, "{text}");
    assert!(capabilities.iter().all(|line| line.ends_with("\t0000000000000000")), "{text}");
    assert!(text.contains("Seccomp:\t2") && text.contains("NoNewPrivs:\t1"), "{text}");
}
