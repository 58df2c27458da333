//! Kernel calls that no resolver needs, refused by seccomp. A list of what is refused, not of what is allowed: a JVM's
//! calls differ from release to release. What Landlock cannot see is the reason for most of it.

use std::collections::BTreeMap;

use landlock::ABI;
use libc::{
    AF_INET, AF_INET6, AF_UNIX, CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER,
    CLONE_NEWUTS, EPERM, IPPROTO_TCP, IPPROTO_UDP, MSG_FASTOPEN, SOCK_DGRAM, SOCK_STREAM,
};
use seccompiler::{
    BackendError, BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::files::{SCOPES, TRUNCATION};
use super::{Missing, Sandbox};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Refused whatever the arguments are.
const REFUSED: &[i64] = &[
    // Other processes' memory, descriptors and performance.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_perf_event_open,
    libc::SYS_lookup_dcookie,
    // Large and much attacked parts of the kernel.
    libc::SYS_bpf,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_fanotify_init,
    // Key rings are the user's, not the process's.
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_keyctl,
    // Another view of the file system, or files past their names; programs without any file.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_memfd_create,
    libc::SYS_unshare,
    libc::SYS_setns,
    // Landlock guards bind; listen binds by itself when nobody did.
    libc::SYS_listen,
    // The machine.
    libc::SYS_kexec_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_syslog,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    // What would slow or move another process of the same user.
    libc::SYS_migrate_pages,
    libc::SYS_move_pages,
    libc::SYS_ioprio_set,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[i64] =
    &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_kexec_file_load, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const REFUSED_HERE: &[i64] = &[];

const NAMESPACES: [i32; 7] =
    [CLONE_NEWCGROUP, CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID, CLONE_NEWUSER, CLONE_NEWUTS];
/// The lower bits of a socket's type; the others are flags (`SOCK_TYPE_MASK` of linux/net.h).
const SOCKET_TYPE: u64 = 0xf;

/// Restricts this thread, and with it what it becomes and starts. Does what a Landlock of this ABI leaves open.
pub(super) fn restrict(sandbox: &Sandbox, landlock: Option<ABI>) -> Result<(), Missing> {
    let programs = programs(sandbox, landlock.unwrap_or(ABI::Unsupported)).map_err(|_| Missing::Seccomp)?;
    for program in programs {
        apply_filter(&program).map_err(|_| Missing::Seccomp)?;
    }
    Ok(())
}

fn programs(sandbox: &Sandbox, landlock: ABI) -> Result<[BpfProgram; 2], BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    let program = |rules, errno| {
        let errno = SeccompAction::Errno(errno);
        SeccompFilter::new(rules, SeccompAction::Allow, errno, arch).and_then(BpfProgram::try_from)
    };
    let refused = without_x32(program(rules(sandbox, landlock)?, EPERM.cast_unsigned())?);
    // Their flags are in memory, out of a filter's sight. "No such call" makes programs use the older ones instead.
    let absent = [libc::SYS_clone3, libc::SYS_openat2].into_iter().map(|call| (call, Vec::new())).collect();
    let absent = program(absent, libc::ENOSYS.cast_unsigned())?;
    Ok([refused, absent])
}

fn rules(sandbox: &Sandbox, landlock: ABI) -> Result<Rules, BackendError> {
    let mut rules: Rules = REFUSED.iter().chain(REFUSED_HERE).map(|&call| (call, Vec::new())).collect();
    let namespaces = NAMESPACES.map(|flag| all(&[(0, has(flag.cast_unsigned().into()))]));
    rules.insert(libc::SYS_clone, namespaces.into_iter().collect::<Result<_, _>>()?);
    rules.insert(libc::SYS_socket, sockets(sandbox)?);
    // A pair of datagram sockets could be turned to any socket in the file system later.
    let pairs = (0..=SOCKET_TYPE).filter(|&kind| kind != number(SOCK_STREAM));
    let mut pairs: Vec<_> = pairs.map(|kind| all(&[(1, masked(SOCKET_TYPE, kind))])).collect::<Result<_, _>>()?;
    pairs.push(all(&[(0, other_than(AF_UNIX))])?);
    rules.insert(libc::SYS_socketpair, pairs);
    // Data that opens the connection passes by Landlock's check of connect.
    for (call, flags) in [(libc::SYS_sendto, 3), (libc::SYS_sendmsg, 2), (libc::SYS_sendmmsg, 3)] {
        rules.insert(call, vec![all(&[(flags, has(number(MSG_FASTOPEN)))])?]);
    }
    // Limits and scheduling of other processes of the same user. 0 stands for the caller.
    let own = || number(rustix::process::getpid().as_raw_nonzero().get());
    let foreign = vec![all(&[(0, (SeccompCmpOp::Ne, 0)), (0, (SeccompCmpOp::Ne, own()))])?];
    rules.insert(libc::SYS_prlimit64, foreign);
    for call in
        [libc::SYS_sched_setaffinity, libc::SYS_sched_setparam, libc::SYS_sched_setscheduler, libc::SYS_sched_setattr]
    {
        rules.insert(call, vec![all(&[(0, (SeccompCmpOp::Ne, 0))])?]);
    }
    rules.insert(libc::SYS_setpriority, vec![all(&[(0, (SeccompCmpOp::Ne, 0))])?, all(&[(1, (SeccompCmpOp::Ne, 0))])?]);
    if landlock < SCOPES {
        // Signals: to threads of the JVM itself and to nobody else, not even to what it started.
        let all_signals = [
            libc::SYS_kill,
            libc::SYS_tkill,
            libc::SYS_rt_sigqueueinfo,
            libc::SYS_rt_tgsigqueueinfo,
            libc::SYS_pidfd_send_signal,
        ];
        rules.extend(all_signals.map(|call| (call, Vec::new())));
        rules.insert(libc::SYS_tgkill, vec![all(&[(0, (SeccompCmpOp::Ne, own()))])?]);
    }
    if landlock < TRUNCATION {
        // Files that may be read but not written could be shortened.
        rules.insert(libc::SYS_truncate, Vec::new());
        let shortens = |flags| all(&[(flags, masked(number(libc::O_TRUNC | libc::O_ACCMODE), number(libc::O_TRUNC)))]);
        rules.insert(libc::SYS_openat, vec![shortens(2)?]);
        #[cfg(target_arch = "x86_64")]
        rules.insert(libc::SYS_open, vec![shortens(1)?]);
    }
    Ok(rules)
}

/// The sockets that are refused: all but TCP where a port is allowed, and what is configured.
fn sockets(sandbox: &Sandbox) -> Result<Vec<SeccompRule>, BackendError> {
    let mut refused = vec![all(&[(0, other_than(AF_INET)), (0, other_than(AF_INET6)), (0, other_than(AF_UNIX))])?];
    if !sandbox.unix_sockets {
        refused.push(all(&[(0, equal(AF_UNIX))])?);
    }
    let kinds = [(SOCK_STREAM, IPPROTO_TCP, !sandbox.tcp_ports().is_empty()), (SOCK_DGRAM, IPPROTO_UDP, sandbox.udp)];
    for family in [AF_INET, AF_INET6] {
        for kind in 0..=SOCKET_TYPE {
            let this = [(0, equal(family)), (1, masked(SOCKET_TYPE, kind))];
            match kinds.iter().find(|(allowed, _, open)| *open && number(*allowed) == kind) {
                None => refused.push(all(&this)?),
                // MPTCP, SCTP and others are no TCP to Landlock.
                Some((_, protocol, _)) => {
                    let [family, kind] = this;
                    refused.push(all(&[family, kind, (2, other_than(0)), (2, other_than(*protocol))])?);
                }
            }
        }
    }
    Ok(refused)
}

type Test = (SeccompCmpOp, u64);

/// A rule that holds when all of these arguments, by their index, are so.
fn all(tests: &[(u8, Test)]) -> Result<SeccompRule, BackendError> {
    let conditions = tests
        .iter()
        .cloned()
        .map(|(argument, (operator, value))| SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value));
    SeccompRule::new(conditions.collect::<Result<_, _>>()?)
}

fn equal(value: i32) -> Test {
    (SeccompCmpOp::Eq, number(value))
}

fn other_than(value: i32) -> Test {
    (SeccompCmpOp::Ne, number(value))
}

fn masked(mask: u64, value: u64) -> Test {
    (SeccompCmpOp::MaskedEq(mask), value)
}

fn has(bit: u64) -> Test {
    masked(bit, bit)
}

fn number(value: i32) -> u64 {
    value.cast_unsigned().into()
}

/// Refuses the x32 numbers of the same calls: the filter's check of the architecture does not tell them apart.
fn without_x32(program: BpfProgram) -> BpfProgram {
    const X32_BIT: u32 = 0x4000_0000;
    let step = |code: u32, jt, jf, k| seccompiler::sock_filter { code: u16::try_from(code).unwrap_or(0), jt, jf, k };
    if std::env::consts::ARCH != "x86_64" {
        return program;
    }
    let load_number = step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0);
    let is_x32 = step(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K, 0, 1, X32_BIT);
    let refuse = step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | EPERM.cast_unsigned());
    [load_number, is_x32, refuse].into_iter().chain(program).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_combination_compiles_to_a_program_that_the_kernel_takes() {
        for ports in [vec![], vec![443]] {
            for (udp, unix_sockets) in [(false, false), (true, false), (false, true), (true, true)] {
                let sandbox = Sandbox { connect_ports: ports.clone(), udp, unix_sockets, ..Sandbox::default() };
                for program in [ABI::V1, ABI::V6].into_iter().flat_map(|abi| programs(&sandbox, abi).expect("compiled"))
                {
                    assert!((1..4096).contains(&program.len()), "BPF_MAXINSNS of linux/bpf_common.h");
                }
            }
        }
    }
}
