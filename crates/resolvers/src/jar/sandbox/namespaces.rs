//! A network of the process's own: namespaces that any user may make where the kernel allows it (user_namespaces(7)). What
//! may be reached has a listener in there, which the MID serves from outside, so a host and a port are allowed together.

use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd};

use rustix::net::{AddressFamily, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketType};
use rustix::process::Resource;
use rustix::thread::UnshareFlags;

use super::{Missing, Network, Sandbox, limit};

/// Threads and processes of one JVM and all that it starts. Counted for each user namespace by itself since Linux 5.14;
/// root's are not.
const MAX_TASKS: u64 = 512;
/// The loopback device is the first of a network namespace.
const LOOPBACK: u32 = 1;

/// Puts this process, which must have one thread only, into namespaces of its own. Its user stays the same.
pub(super) fn enter(sandbox: &Sandbox) -> Result<(), Missing> {
    let Network::Private { listen } = &sandbox.network else { return Ok(()) };
    separate().map_err(|_| Missing::Namespaces)?;
    limit(Resource::Nproc, MAX_TASKS).map_err(|_| Missing::Limits)?;
    if listen.is_empty() {
        return Ok(());
    }
    serve(listen).map_err(|_| Missing::Listeners)
}

#[expect(deprecated, reason = "the other one is unsafe because of a flag that is not used here")]
fn separate() -> io::Result<()> {
    let (user, group) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    rustix::thread::unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNET | UnshareFlags::NEWIPC)?;
    // The kernel asks for this before it lets a group be mapped.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{user} {user} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{group} {group} 1"))
}

/// Makes the listeners and hands them to the MID, over the socket that is this process's standard input.
fn serve(listen: &[SocketAddrV4]) -> io::Result<()> {
    let route = rustix::net::socket(AddressFamily::NETLINK, SocketType::RAW, None)?;
    request(route.as_fd(), &link_up())?;
    for address in listen.iter().map(SocketAddrV4::ip).filter(|address| !address.is_loopback()) {
        request(route.as_fd(), &own_address(*address))?;
    }
    let listeners = listen.iter().map(TcpListener::bind).collect::<io::Result<Vec<_>>>()?;
    let stdin = io::stdin();
    for listener in &listeners {
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        let descriptor = [listener.as_fd()];
        if !control.push(SendAncillaryMessage::ScmRights(&descriptor)) {
            return Err(io::Error::other("no space for a descriptor"));
        }
        rustix::net::sendmsg(stdin.as_fd(), &[io::IoSlice::new(&[1])], &mut control, SendFlags::NOSIGNAL)?;
    }
    Ok(())
}

/// Sends one message to the kernel and waits for its acknowledgement (rtnetlink(7)).
fn request(socket: BorrowedFd<'_>, message: &[u8]) -> io::Result<()> {
    // As the address is already there when two targets share it.
    const EXISTS: i32 = -17;
    rustix::net::send(socket, message, SendFlags::empty())?;
    let mut reply = [0; 256];
    let (_, length) = rustix::net::recv(socket, &mut reply[..], RecvFlags::empty())?;
    let code = reply.get(16..20).filter(|_| length >= 20).and_then(|bytes| bytes.try_into().ok());
    match code.map(i32::from_ne_bytes) {
        Some(0 | EXISTS) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(-code)),
        None => Err(io::Error::other("no acknowledgement")),
    }
}

/// `RTM_NEWLINK`: sets the loopback device up, which gives it 127.0.0.0/8.
fn link_up() -> Vec<u8> {
    const NEW_LINK: u16 = 16;
    const UP: u32 = 1;
    let mut body = vec![0; 4];
    for word in [LOOPBACK, UP, UP] {
        body.extend(word.to_ne_bytes());
    }
    message(NEW_LINK, &body)
}

/// `RTM_NEWADDR`: gives the loopback device one more address.
fn own_address(address: Ipv4Addr) -> Vec<u8> {
    const NEW_ADDRESS: u16 = 20;
    const INET: u8 = 2;
    const SCOPE_HOST: u8 = 254;
    const ADDRESS: u16 = 1;
    const LOCAL: u16 = 2;
    let mut body = vec![INET, 32, 0, SCOPE_HOST];
    body.extend(LOOPBACK.to_ne_bytes());
    for kind in [LOCAL, ADDRESS] {
        body.extend(8_u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(address.octets());
    }
    message(NEW_ADDRESS, &body)
}

fn message(kind: u16, body: &[u8]) -> Vec<u8> {
    const HEAD_LEN: u32 = 16;
    // NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE
    const FLAGS: u16 = 0x405;
    let length = HEAD_LEN + u32::try_from(body.len()).unwrap_or(0);
    let mut message = length.to_ne_bytes().to_vec();
    message.extend(kind.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}
