//! A machine on the guests' LAN that is not a guest: a namespace with one address.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use rustix::net::{AddressFamily, SocketType, bind, connect, ipproto, socket, sockopt};

use crate::{
    announcement::Announcements,
    conversation::{Conversations, Talk},
    download::Download,
    error::{Doing as _, Result},
    forge,
    node::{COMMAND_TIME, Node},
    process::Process,
    udp_echo::UdpEcho,
};

/// Little enough on its way that a sender keeps to its reader's pace, and enough for 100 Mbit/s and a busy guest.
const PACED_WINDOW: usize = 256 << 10;

/// A client of the guests, for as long as the lab lives.
#[derive(Debug)]
pub struct Client {
    name: String,
    ip: Ipv4Addr,
    node: Node,
    log_dir: PathBuf,
}

impl Client {
    pub(crate) fn new(name: &str, ip: Ipv4Addr, log_dir: &Path) -> Result<Client> {
        Ok(Client { name: name.to_owned(), ip, node: Node::net_only(name)?, log_dir: log_dir.to_owned() })
    }

    pub(crate) fn node(&self) -> &Node {
        &self.node
    }

    /// Its address.
    pub fn ip(&self) -> Ipv4Addr {
        self.ip
    }

    /// Runs `work` in a thread inside the client's network: sockets made there stay the client's.
    pub fn within<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.node.within(work)
    }

    /// Connects from the client.
    pub fn connect(&self, to: SocketAddr, at_most: Duration) -> Result<TcpStream> {
        self.node
            .within(|| TcpStream::connect_timeout(&to, at_most))?
            .doing(|| format!("connecting from client {} to {to}", self.name))
    }

    /// Connects from one of the client's addresses. `window`: how much may be on its way to the client, in bytes.
    pub fn connect_from(
        &self,
        from: Ipv4Addr,
        to: SocketAddr,
        at_most: Duration,
        window: Option<usize>,
    ) -> Result<TcpStream> {
        let open = || -> rustix::io::Result<TcpStream> {
            let tcp = socket(AddressFamily::INET, SocketType::STREAM, Some(ipproto::TCP))?;
            if let Some(bytes) = window {
                // The kernel sets as much again aside for its own needs.
                sockopt::set_socket_recv_buffer_size(&tcp, bytes)?;
            }
            // For connecting too.
            sockopt::set_socket_timeout(&tcp, sockopt::Timeout::Send, Some(at_most))?;
            bind(&tcp, &SocketAddr::from((from, 0)))?;
            connect(&tcp, &to)?;
            Ok(TcpStream::from(tcp))
        };
        self.node.within(open)?.doing(|| format!("connecting from {from} (client {}) to {to}", self.name))
    }

    /// Keeps connections open from each of its addresses here to a guest's echo port, and uses them.
    pub fn converse(&self, guest: Ipv4Addr, from: &[Ipv4Addr], talk: Talk) -> Result<Conversations> {
        Conversations::start(self, guest, from, talk)
    }

    /// Reads what a guest sends without end. `window`: how much may be on its way at once, in bytes.
    pub fn download(&self, guest: SocketAddr, window: Option<usize>) -> Result<Download> {
        Download::start(self, self.ip, guest, window, None)
    }

    /// Reads what a guest sends without end, and no faster than this: so that is what it sends.
    pub fn download_at(&self, guest: SocketAddr, mbit_s: u32) -> Result<Download> {
        Download::start(self, self.ip, guest, Some(PACED_WINDOW), Some(mbit_s))
    }

    /// Sends TCP's first word `count` times, from as many forged addresses from `from` on; gives how often it was sent.
    pub fn forge_syns(&self, from: Ipv4Addr, to: SocketAddrV4, count: u32, over: Duration) -> Result<u32> {
        forge::syns(&self.node, from, to, count, over)
    }

    /// Hears which guests are announced on its LAN from now on.
    pub fn announcements(&self) -> Result<Announcements> {
        Announcements::listen(&self.node)
    }

    /// A UDP socket of the client.
    pub fn bind_udp(&self) -> Result<UdpSocket> {
        let bind = || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0));
        self.node.within(bind)?.doing(|| format!("making a UDP socket in client {}", self.name))
    }

    /// Asks a guest's workload for its page; gives the body and how long it took.
    pub fn http_get(&self, to: SocketAddr, at_most: Duration) -> Result<(String, Duration)> {
        let start = std::time::Instant::now();
        let stream = self.connect(to, at_most)?;
        let body = read_page(stream, at_most).doing(|| format!("GET / of {to} from client {}", self.name))?;
        Ok((body, start.elapsed()))
    }

    /// Starts sending a packet to a guest's echo port every 2 ms.
    pub fn udp_echo(&self, guest: Ipv4Addr) -> Result<UdpEcho> {
        UdpEcho::start(self.bind_udp()?, guest)
    }

    /// Starts a program in the client's network, with its outputs appended to `log` in [`crate::Lab::dir`].
    pub fn spawn(&self, program: &str, args: &[&str], log: &str) -> Result<Process> {
        let mut command = self.node.command(program);
        command.args(args);
        Process::spawn(command, &format!("{program} in client {}", self.name), self.log_dir.join(log))
    }

    /// Runs a program in the client's network to its end, whatever its exit status.
    pub fn run(&self, argv: &[&str]) -> Result<Output> {
        self.node.output(argv, None, COMMAND_TIME)
    }
}

fn read_page(mut stream: TcpStream, at_most: Duration) -> io::Result<String> {
    use io::{Read as _, Write as _};
    stream.set_read_timeout(Some(at_most))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: guest\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    match text.split_once("\r\n\r\n") {
        Some((head, body)) if head.starts_with("HTTP/1.1 200 ") => Ok(body.to_owned()),
        Some(_) | None => Err(io::Error::other(format!("not a 200: {text:?}"))),
    }
}
