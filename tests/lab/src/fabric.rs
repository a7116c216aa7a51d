//! The wires: one namespace for each site, with three bridges and nothing else.
//!
//! ```text
//!            fabric: bridge "mig" ---- m1 ===== eth0  (migration and management, 10.77.0.1)
//!                                                      host h1
//!            fabric: bridge "lan" ---- g1 ===== up0 -- bridge "guests" -- taps of the guests
//!                              \------ c1 ===== eth0  a client
//!
//!            fabric: bridge "apart" -- a1 ===== mig0  (migrations only, 10.79.0.1; where a host's configuration wants it)
//! ```
//! None has a way out of the lab. On the LAN every address is on the link (default route without
//! a gateway), so a client may have any, also a public one.
//!
//! A lab of two sites has this twice. They share no layer 2: each site's namespace is its router, and the routers
//! meet on a line that delays ([`Relay`]).
//! ```text
//!   mig 10.77.0.254 \                                                / mig 10.77.1.254
//!   lan 10.78.255.1  > site 0 -- wan ~~~~ 20 ms each way ~~~~ wan -- site 1 <  lan 10.78.255.1
//!   clients         /                                                \ clients
//! ```
//! The guests' network is site 0's; site 1 sends there what is for a guest, until it hears that guest on its own LAN.
//! Both sites' gateways have one address and one MAC, as in fabrics made for VMs that move: a guest needs to learn
//! nothing when it has arrived. (The hosts pin that MAC to their uplink, so that what the other site's gateway says
//! over a stretched LAN does not turn the way around.)

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    sync::{
        Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::{
    error::{Error, Result},
    node::Node,
    relay::Relay,
};

/// How wide the prefix of a site's migration network is.
pub(crate) const MIGRATION_PREFIX: u8 = 24;
/// The gateway of guests in a lab of two sites, at both.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 78, 255, 1);
const GATEWAY_MAC: &str = "02:c0:35:00:00:01";
/// Where guests are.
pub const GUEST_NET: &str = "10.78.0.0/16";
/// The clients' ends of their routers.
const ROUTER: Ipv4Addr = Ipv4Addr::new(169, 254, 0, 1);

/// Room for a VXLAN around whole frames of the guests' LAN.
const SITES_MTU: u32 = 9000;

#[derive(Debug)]
pub(crate) struct Fabric {
    sites: Vec<Node>,
    clients: AtomicU32,
    line: OnceLock<Relay>,
    /// At which site each guest was heard last; only with two sites.
    guests: Mutex<BTreeMap<Ipv4Addr, usize>>,
}

/// A network of clients behind a site's router.
pub(crate) struct Access {
    pub(crate) site: usize,
    /// Its first address.
    pub(crate) net: Ipv4Addr,
    pub(crate) prefix: u8,
    /// What goes to it at most.
    pub(crate) rate_mbit: Option<u32>,
}

impl Fabric {
    pub(crate) fn new(sites: usize) -> Result<Fabric> {
        let sites = (0..sites).map(|site| Node::net_only(&format!("fabric{site}"))).collect::<Result<_>>()?;
        Ok(Fabric {
            sites,
            clients: AtomicU32::new(0),
            line: OnceLock::new(),
            guests: Mutex::new(BTreeMap::new()),
        })
    }

    pub(crate) fn holder_pids(&self) -> impl Iterator<Item = u32> {
        self.sites.iter().map(Node::holder_pid)
    }

    pub(crate) fn nodes(&self) -> &[Node] {
        &self.sites
    }

    pub(crate) fn has_two_sites(&self) -> bool {
        self.sites.len() == 2
    }

    fn site(&self, site: usize) -> Result<&Node> {
        self.sites.get(site).ok_or_else(|| Error::Unfit(format!("this lab has no site {site}")))
    }

    pub(crate) fn build(&self, delay: Duration) -> Result<()> {
        if let [one, other] = self.sites.as_slice() {
            return self.build_two([one, other], delay);
        }
        self.site(0)?.ip("link add mig type bridge mcast_snooping 0\n\
             link add lan type bridge mcast_snooping 0\n\
             link add apart type bridge mcast_snooping 0\n\
             link set mig up\n\
             link set lan up\n\
             link set apart up\n")
    }

    fn build_two(&self, nodes: [&Node; 2], delay: Duration) -> Result<()> {
        for node in nodes {
            // A client's way back may be another one, and no router of the lab's explains itself to forged addresses.
            node.run(&[
                "sh",
                "-c",
                "cd /proc/sys/net/ipv4 && echo 1 >ip_forward && cd conf && \
                 for c in all default; do echo 0 >$c/rp_filter; echo 0 >$c/send_redirects; done",
            ])?;
        }
        let line = Relay::between(nodes, "wan", delay)?;
        let _ = self.line.set(line);
        for (site, node) in nodes.into_iter().enumerate() {
            let other = 1 - site;
            let (here, there) = (wan_address(site), wan_address(other));
            node.ip(&format!(
                "link add mig type bridge mcast_snooping 0\n\
                 link set mig mtu {SITES_MTU} up\n\
                 address add 10.77.{site}.254/{MIGRATION_PREFIX} dev mig\n\
                 link add lan address {GATEWAY_MAC} type bridge mcast_snooping 0\n\
                 link set lan up\n\
                 address add {GATEWAY}/32 dev lan\n\
                 link set wan mtu {SITES_MTU} txqueuelen 10000 up\n\
                 address add {here}/30 dev wan\n\
                 route add 10.77.{other}.0/{MIGRATION_PREFIX} via {there}\n\
                 route add blackhole default\n"
            ))?;
        }
        nodes[0].ip(&format!("route add {GUEST_NET} dev lan\n"))?;
        nodes[1].ip(&format!("route add {GUEST_NET} via {}\n", wan_address(0)))
    }

    /// Wires a host: `eth0` with `address`, and its bridge `guests`.
    pub(crate) fn connect_host(
        &self,
        number: usize,
        site: usize,
        host: &Node,
        address: Ipv4Addr,
    ) -> Result<()> {
        let pid = host.holder_pid();
        self.site(site)?.ip(&format!(
            "link add m{number} type veth peer name eth0 netns {pid}\n\
             link set m{number} master mig up\n\
             link add g{number} type veth peer name up0 netns {pid}\n\
             link set g{number} master lan up\n"
        ))?;
        host.ip(&format!(
            "address add {address}/{MIGRATION_PREFIX} dev eth0\n\
             link set eth0 up\n\
             link add guests type bridge mcast_snooping 0\n\
             link set up0 master guests up\n\
             link set guests up\n"
        ))?;
        if !self.has_two_sites() {
            return Ok(());
        }
        self.site(site)?.ip(&format!("link set m{number} mtu {SITES_MTU}\n"))?;
        host.ip(&format!(
            "link set eth0 mtu {SITES_MTU}\n\
             route add 10.77.0.0/16 via 10.77.{site}.254\n"
        ))?;
        let pin = ["bridge", "fdb", "replace", GATEWAY_MAC, "dev", "up0", "master", "static", "sticky"];
        host.run(&pin).map(drop)
    }

    /// Wires a host to the network that only migrations use: `mig0`. Not with two sites.
    pub(crate) fn connect_apart(&self, number: usize, host: &Node, address: Ipv4Addr) -> Result<()> {
        if self.has_two_sites() {
            return Err(Error::Unfit("a migration network needs all hosts at one site".into()));
        }
        let pid = host.holder_pid();
        self.site(0)?.ip(&format!(
            "link add a{number} type veth peer name mig0 netns {pid}\n\
             link set a{number} master apart up\n"
        ))?;
        host.ip(&format!("address add {address}/{MIGRATION_PREFIX} dev mig0\nlink set mig0 up\n"))
    }

    /// Pulls or plugs the cable of a host's `mig0`: it has no carrier, or has one.
    pub(crate) fn set_apart_link(&self, number: usize, up: bool) -> Result<()> {
        self.site(0)?.ip(&format!("link set a{number} {}\n", if up { "up" } else { "down" }))
    }

    /// Wires a client to the guests' LAN (of site 0).
    pub(crate) fn connect_client(&self, client: &Node, address: Ipv4Addr) -> Result<()> {
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        let pid = client.holder_pid();
        self.site(0)?.ip(&format!(
            "link add c{number} type veth peer name eth0 netns {pid}\n\
             link set c{number} master lan up\n"
        ))?;
        client.ip(&format!(
            "address add {address}/32 dev eth0\n\
             link set eth0 up\n\
             route add default dev eth0\n"
        ))
    }

    /// Wires a whole network of clients to a site's router: every address of it is the client's.
    pub(crate) fn connect_network(&self, client: &Node, address: Ipv4Addr, access: &Access) -> Result<()> {
        if !self.has_two_sites() {
            return Err(Error::Unfit(
                "networks of clients need a lab of two sites, which have routers".into(),
            ));
        }
        let number = self.clients.fetch_add(1, Ordering::Relaxed);
        let Ok(last) = u8::try_from(number + 1) else {
            return Err(Error::Unfit("a lab has at most 254 clients".into()));
        };
        let (pid, own) = (client.holder_pid(), Ipv4Addr::new(169, 254, 1, last));
        let Access { site, net, prefix, rate_mbit } = access;
        let net = format!("{net}/{prefix}");
        let router = self.site(*site)?;
        router.ip(&format!(
            "link add c{number} type veth peer name eth0 netns {pid}\n\
             link set c{number} up\n\
             address add {ROUTER} peer {own} dev c{number}\n\
             route add {net} via {own} dev c{number}\n"
        ))?;
        client.ip(&format!(
            "address add {own} peer {ROUTER} dev eth0\n\
             link set eth0 up\n\
             route add local {net} dev lo\n\
             route add default via {ROUTER} dev eth0 src {address}\n"
        ))?;
        self.site(1 - site)?.ip(&format!("route add {net} via {}\n", wan_address(*site)))?;
        if let Some(rate) = rate_mbit {
            let (device, rate) = (format!("c{number}"), format!("{rate}mbit"));
            let shape = ["rate", &rate, "burst", "64kb", "latency", "50ms"];
            let argv: Vec<&str> =
                ["tc", "qdisc", "add", "dev", &device, "root", "tbf"].into_iter().chain(shape).collect();
            router.run(&argv)?;
        }
        Ok(())
    }

    /// Pulls or plugs the cable of a host's migration link: packets vanish, nobody is told.
    pub(crate) fn set_migration_link(&self, number: usize, site: usize, up: bool) -> Result<()> {
        self.site(site)?.ip(&format!("link set m{number} {}\n", if up { "up" } else { "down" }))
    }

    /// The line between the two sites.
    pub(crate) fn line(&self) -> Result<&Relay> {
        self.line.get().ok_or_else(|| Error::Unfit("all hosts of this lab are at one site".into()))
    }

    /// Both routers know the MAC of a guest: the answer to a question of one of them would go to the nearer one.
    pub(crate) fn know_guest(&self, guest: Ipv4Addr, mac: &str) -> Result<()> {
        if self.has_two_sites() {
            for site in &self.sites {
                site.ip(&format!("neighbor replace {guest} lladdr {mac} dev lan nud permanent\n"))?;
            }
        }
        Ok(())
    }

    /// A guest is on a host of this site now: what comes in there for it goes to that site's LAN.
    pub(crate) fn settle_guest(&self, guest: Ipv4Addr, site: usize) -> Result<()> {
        if !self.has_two_sites() {
            return Ok(());
        }
        let mut guests = self.guests.lock().unwrap_or_else(PoisonError::into_inner);
        let before = guests.insert(guest, site).unwrap_or(0);
        match (before, site) {
            (0, 1) => self.site(1)?.ip(&format!("route add {guest}/32 dev lan\n")),
            (1, 0) => self.site(1)?.ip(&format!("route del {guest}/32 dev lan\n")),
            _ => Ok(()),
        }
    }
}

fn wan_address(site: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 77, 255, if site == 0 { 1 } else { 2 })
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::{SocketAddr, TcpListener, TcpStream},
        thread,
        time::Instant,
    };

    use super::*;
    use crate::capture::Capture;

    const DELAY: Duration = Duration::from_millis(20);

    /// Two hosts' wires without the hosts.
    fn sites() -> Result<(Fabric, [Node; 2], [Ipv4Addr; 2])> {
        let fabric = Fabric::new(2)?;
        fabric.build(DELAY)?;
        let (hosts, addresses) =
            ([Node::net_only("a")?, Node::net_only("b")?], [0, 1].map(|s| Ipv4Addr::new(10, 77, s, 9)));
        for (site, (host, address)) in hosts.iter().zip(addresses).enumerate() {
            fabric.connect_host(site + 1, site, host, address)?;
        }
        Ok((fabric, hosts, addresses))
    }

    /// One end that answers a byte with a byte, and then reads all that comes.
    fn serve(node: &Node, address: Ipv4Addr) -> Result<SocketAddr> {
        let listener = node.within(|| TcpListener::bind((address, 0)).unwrap())?;
        let at = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut buffer = vec![0; 1 << 17];
            for _ in 0..5 {
                stream.read_exact(&mut buffer[..1]).unwrap();
                stream.write_all(b"!").unwrap();
            }
            let mut bytes = 0_u64;
            while let Ok(more @ 1..) = stream.read(&mut buffer) {
                bytes += more as u64;
            }
            let _ = stream.write_all(&bytes.to_le_bytes());
        });
        Ok(at)
    }

    /// What 1 MiB to an address makes on each interface of the sender.
    fn captured(hosts: &[Node; 2], to: Ipv4Addr, bound: Ipv4Addr) -> Result<[u64; 2]> {
        let listener = hosts[1].within(|| TcpListener::bind((bound, 0)).unwrap())?;
        let at = SocketAddr::from((to, listener.local_addr().unwrap().port()));
        let capture = Capture::start(&hosts[0], at.port()..=at.port())?;
        let mut stream = hosts[0].within(|| TcpStream::connect(at).unwrap())?;
        let (mut far, _) = listener.accept().unwrap();
        let reader = thread::spawn(move || std::io::copy(&mut far, &mut std::io::sink()).unwrap());
        stream.write_all(&vec![7; 1 << 20]).unwrap();
        drop(stream);
        assert_eq!(reader.join().unwrap(), 1 << 20);
        Ok([capture.passed("eth0")?.bytes, capture.passed("mig0")?.bytes])
    }

    #[test]
    fn a_capture_tells_the_migration_network_from_the_other_one() -> Result<()> {
        let fabric = Fabric::new(1)?;
        fabric.build(DELAY)?;
        let hosts = [Node::net_only("a")?, Node::net_only("b")?];
        let (mut common, mut apart) = (Vec::new(), Vec::new());
        for (number, host) in (1..).zip(&hosts) {
            common.push(crate::host::migration_address(0, number));
            apart.push(crate::host::apart_address(number));
            fabric.connect_host(number, 0, host, common[number - 1])?;
            fabric.connect_apart(number, host, apart[number - 1])?;
        }
        let [by_eth0, by_mig0] = captured(&hosts, apart[1], apart[1])?;
        assert!(by_eth0 == 0 && by_mig0 > 1 << 20, "{by_eth0} {by_mig0}");
        let [by_eth0, by_mig0] = captured(&hosts, common[1], common[1])?;
        assert!(by_eth0 > 1 << 20 && by_mig0 == 0, "{by_eth0} {by_mig0}");
        // With the link down at both ends and another route the same address is reached, by the other network.
        for host in &hosts {
            host.ip("link set mig0 down\nroute add default dev eth0\n")?;
        }
        let [by_eth0, by_mig0] = captured(&hosts, apart[1], apart[1])?;
        assert!(by_eth0 > 1 << 20 && by_mig0 == 0, "{by_eth0} {by_mig0}");
        // Without a cable there is no carrier.
        hosts[0].ip("link set mig0 up\n")?;
        fabric.set_apart_link(1, false)?;
        let link = hosts[0].run(&["ip", "link", "show", "mig0"])?;
        assert!(String::from_utf8_lossy(&link.stdout).contains("NO-CARRIER"), "{link:?}");
        Ok(())
    }

    fn round_trip(stream: &mut TcpStream) -> Duration {
        stream.set_nodelay(true).unwrap();
        let once = || {
            let asked = Instant::now();
            stream.write_all(b"?").unwrap();
            stream.read_exact(&mut [0]).unwrap();
            asked.elapsed()
        };
        std::iter::repeat_with(once).take(5).min().unwrap()
    }

    #[test]
    fn the_line_between_two_sites_delays_and_carries_what_a_move_needs() -> Result<()> {
        let (fabric, hosts, addresses) = sites()?;
        let at = serve(&hosts[1], addresses[1])?;
        let mut stream = hosts[0].within(|| TcpStream::connect(at).unwrap())?;
        let rtt = round_trip(&mut stream);
        assert!(rtt >= DELAY * 2 && rtt < DELAY * 6, "{rtt:?}");

        // 30 MiB/s is what a broker's policy asks for unless told otherwise.
        let block = vec![7; 1 << 20];
        let start = Instant::now();
        for _ in 0..200 {
            stream.write_all(&block).unwrap();
        }
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut bytes = [0; 8];
        stream.read_exact(&mut bytes).unwrap();
        let mib_s = 200.0 / start.elapsed().as_secs_f64();
        println!("round trip {rtt:?}, {mib_s:.0} MiB/s");
        assert_eq!(u64::from_le_bytes(bytes), 200 << 20);
        assert!(mib_s > 30.0, "{mib_s:.0} MiB/s");

        fabric.line()?.set_rate_mbit(Some(16));
        let at = serve(&hosts[0], addresses[0])?;
        let mut stream = hosts[1].within(|| TcpStream::connect(at).unwrap())?;
        round_trip(&mut stream);
        let start = Instant::now();
        stream.write_all(&block[..1 << 20]).unwrap();
        stream.write_all(&block[..1 << 20]).unwrap();
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        stream.read_exact(&mut bytes).unwrap();
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(900), "2 MiB over 2 MB/s took {took:?}");
        Ok(())
    }

    #[test]
    fn clients_of_both_sites_reach_each_other_from_any_of_their_addresses() -> Result<()> {
        let (fabric, _hosts, _) = sites()?;
        let nets = [Ipv4Addr::new(2, 4, 0, 0), Ipv4Addr::new(2, 248, 0, 0)];
        let clients = [Node::net_only("near")?, Node::net_only("far")?];
        for (site, (client, net)) in clients.iter().zip(nets).enumerate() {
            let access = Access { site, net, prefix: 24, rate_mbit: Some(100) };
            fabric.connect_network(client, Ipv4Addr::from_bits(net.to_bits() + 1), &access)?;
        }
        let at = serve(&clients[1], Ipv4Addr::new(2, 248, 0, 200))?;
        let mut stream = clients[0].within(|| TcpStream::connect(at).unwrap())?;
        assert_eq!(stream.local_addr().unwrap().ip(), Ipv4Addr::new(2, 4, 0, 1));
        assert!(round_trip(&mut stream) >= DELAY * 2);
        // Guests are not there, and nobody explains it.
        let nobody: SocketAddr = (Ipv4Addr::new(10, 78, 0, 1), 7).into();
        let tried = clients[1].within(|| TcpStream::connect_timeout(&nobody, Duration::from_millis(300)))?;
        assert!(tried.is_err());
        Ok(())
    }
}
