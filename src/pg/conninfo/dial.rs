//! The socket: TCP with its options, or a Unix-domain socket whose peer is checked.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use nix::sys::socket::{SetSockOpt, setsockopt, sockopt};
use nix::unistd::{Uid, User};
use tokio::net::{TcpSocket, UnixStream};

use super::search::Refusal;
use super::socket::Socket;
use super::{Address, Route, Target, TcpSettings};

/// Connects to where the route leads.
pub(super) async fn dial(target: &Target, route: &Route) -> Result<Socket, Refusal> {
    match &route.address {
        Address::Socket(directory) => {
            let stream =
                UnixStream::connect(socket_path(directory, route.host.port)).await.map_err(Refusal::network)?;
            if let Some(expected) = &target.require_peer {
                check_peer(&stream, expected)?;
            }
            Ok(Socket::Unix(stream))
        }
        Address::Ip(ip) => {
            let socket = tcp_socket(SocketAddr::new(*ip, route.host.port), target.tcp);
            Ok(Socket::Tcp(socket.await.map_err(Refusal::network)?))
        }
        // The search looks names up before it offers a route.
        Address::Name => Err(Refusal::last("the host name was not looked up")),
    }
}

/// `directory/.s.PGSQL.port`; in Linux' abstract namespace `@` stands for the leading zero byte.
fn socket_path(directory: &str, port: u16) -> PathBuf {
    let path = format!("{directory}/.s.PGSQL.{port}");
    match path.strip_prefix('@') {
        Some(name) => PathBuf::from(format!("\0{name}")),
        None => PathBuf::from(path),
    }
}

async fn tcp_socket(address: SocketAddr, settings: TcpSettings) -> io::Result<tokio::net::TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_nodelay(true)?;
    if settings.keepalives {
        socket.set_keepalive(true)?;
        set(&socket, sockopt::TcpKeepIdle, settings.idle)?;
        set(&socket, sockopt::TcpKeepInterval, settings.interval)?;
        set(&socket, sockopt::TcpKeepCount, settings.count)?;
    }
    set(&socket, sockopt::TcpUserTimeout, settings.user_timeout)?;
    socket.connect(address).await
}

fn set(socket: &TcpSocket, option: impl SetSockOpt<Val = u32>, value: Option<u32>) -> io::Result<()> {
    match value {
        Some(value) => Ok(setsockopt(socket, option, &value)?),
        None => Ok(()),
    }
}

/// The `requirepeer` connection option: the server process runs as this user of the operating system.
fn check_peer(stream: &UnixStream, expected: &str) -> Result<(), Refusal> {
    let uid = stream.peer_cred().map_err(Refusal::network)?.uid();
    let name = User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.name);
    if name.as_deref() == Some(expected) {
        return Ok(());
    }
    let actual = name.unwrap_or_else(|| uid.to_string());
    Err(Refusal::last(format!("requirepeer specifies \"{expected}\", but actual peer user name is \"{actual}\"")))
}

#[cfg(test)]
mod tests {
    use nix::sys::socket::getsockopt;

    use super::*;

    #[test]
    fn a_socket_is_a_file_or_an_abstract_name() {
        assert_eq!(socket_path("/tmp", 5433), PathBuf::from("/tmp/.s.PGSQL.5433"));
        assert_eq!(socket_path("@pg", 1), PathBuf::from("\0pg/.s.PGSQL.1"));
    }

    #[tokio::test]
    async fn tcp_options_reach_the_socket() -> io::Result<()> {
        let listener = std::net::TcpListener::bind("127.0.0.1:0")?;
        let settings = TcpSettings {
            keepalives: true,
            idle: Some(7),
            interval: Some(8),
            count: Some(9),
            user_timeout: Some(10_000),
        };
        let socket = tcp_socket(listener.local_addr()?, settings).await?;
        assert!(socket.nodelay()? && getsockopt(&socket, sockopt::KeepAlive)?);
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepIdle)?, 7);
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepInterval)?, 8);
        assert_eq!(getsockopt(&socket, sockopt::TcpKeepCount)?, 9);
        assert_eq!(getsockopt(&socket, sockopt::TcpUserTimeout)?, 10_000);
        let socket = tcp_socket(listener.local_addr()?, TcpSettings { keepalives: false, ..settings }).await?;
        assert!(!getsockopt(&socket, sockopt::KeepAlive)?);
        Ok(())
    }
}
