//! The real plugins for PostgreSQL and nginx, against the real servers (unpacked by tests/setup.sh, run in a directory of the
//! test's own).
#![allow(clippy::unwrap_used, clippy::panic)]

mod common;

use common::{PATIENCE, Place, is_root};
use serde_json::Value;
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

thread_local! {
    /// The services where nobody can reach them: the repository may be root's alone. As long as one test lasts.
    static REACHABLE: tempfile::TempDir = {
        let dir = tempfile::tempdir().unwrap();
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(dir.path(), mode).unwrap();
        let copied = Command::new("cp").arg("-a").arg(unpacked()).arg(dir.path().join("root")).status().unwrap();
        assert!(copied.success(), "cp: {copied}");
        dir
    };
}

fn unpacked() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab-cache/services/root");
    root.canonicalize().unwrap_or_else(|_| panic!("{} is missing: sudo bash tests/setup.sh", root.display()))
}

fn root() -> PathBuf {
    if is_root() { REACHABLE.with(|dir| dir.path().join("root")) } else { unpacked() }
}

fn libraries() -> String {
    root().join("usr/lib/x86_64-linux-gnu").display().to_string()
}

/// A program of the services, as nobody: a database does not run as root.
fn program(path: &str) -> Command {
    let mut command = Command::new(root().join(path));
    command.env("LD_LIBRARY_PATH", libraries()).env("LC_ALL", "C").stdin(Stdio::null());
    if is_root() {
        command.uid(65534).gid(65534);
    }
    command
}

/// A server that ends with the test.
struct Server(Option<Child>);

impl Server {
    fn start(mut command: Command, place: &Place, port: u16) -> Self {
        let log = std::fs::File::create(place.path("server.log")).unwrap();
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let server = Self(Some(child));
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            let log = || std::fs::read_to_string(place.path("server.log")).unwrap();
            assert!(begun.elapsed() < PATIENCE, "no server: {}", log());
            std::thread::sleep(Duration::from_millis(50));
        }
        server
    }

    fn stop(&mut self) {
        if let Some(mut child) = self.0.take() {
            let pid = rustix::process::Pid::from_child(&child);
            // For PostgreSQL a fast shutdown, for nginx one too.
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::INT);
            let _ = child.wait();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn plugin(place: &Place, name: &str, arguments: &[&str], more: &str) {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../packaging/examples/plugins")
        .join(format!("{name}.py"));
    let copy = place.script(name, &std::fs::read_to_string(source).unwrap());
    let argv: Vec<&str> = std::iter::once(copy.to_str().unwrap()).chain(arguments.iter().copied()).collect();
    place
        .configure(&format!("[[plugin]]\nname = \"{name}\"\nkind = \"execd\"\ncommand = {argv:?}\n{more}\n"));
}

fn last(place: &Place, name: &str) -> Value {
    place.plugin(name)["last"].clone()
}

#[test]
fn postgres_is_measured() {
    let mut place = Place::new("");
    let (data, port) = (place.path("pg"), free_port());
    let bin = "usr/lib/postgresql/15/bin";
    let initdb =
        program(&format!("{bin}/initdb")).args(["-A", "trust", "-U", "coms", "-N", "-D"]).arg(&data).output();
    let initdb = initdb.unwrap();
    assert!(initdb.status.success(), "{}", String::from_utf8_lossy(&initdb.stderr));
    let mut postgres = program(&format!("{bin}/postgres"));
    postgres.arg("-D").arg(&data).args([
        "-p",
        &port.to_string(),
        "-h",
        "127.0.0.1",
        "-c",
        "fsync=off",
        "-c",
        "jit=off",
        "-k",
    ]);
    postgres.arg(place.dir.path());
    let mut server = Server::start(postgres, &place, port);

    let path = format!("{}:/usr/bin:/bin", root().join(bin).display());
    let more = format!(
        "max_errors_permille = 500\nenv = {{ PATH = {path:?}, LD_LIBRARY_PATH = {:?} }}",
        libraries()
    );
    let port = port.to_string();
    let arguments = ["-h", "127.0.0.1", "-p", &port, "-U", "coms", "-d", "postgres"];
    plugin(&place, "postgres", &arguments, &more);
    place.agent();
    place.start();
    place.until("measured", |p| p.reports("postgres").iter().any(|r| r["took_us"].is_u64()));

    // An application that is connected, does much, and fails at some of it.
    let run = |sql: &str| {
        let mut psql = program(&format!("{bin}/psql"));
        psql.args(arguments).args(["-X", "-q", "-c", sql]).stdout(Stdio::null()).stderr(Stdio::null());
        psql.spawn().unwrap()
    };
    let mut sleeps = run("SELECT pg_sleep(20)");
    place.until("its client is seen", |p| last(p, "postgres")["clients"][0]["address"] == "127.0.0.0");
    for _ in 0..10 {
        run("SELECT 1").wait().unwrap();
        run("SELECT 1/0").wait().unwrap();
    }
    place.until("errors are seen", |p| last(p, "postgres")["errors"].as_f64() > Some(0.0));
    let seen = last(&place, "postgres");
    assert!(seen["requests"].as_f64().unwrap() >= seen["errors"].as_f64().unwrap(), "{seen}");
    assert_eq!(place.plugin("postgres")["problem"], Value::Null, "{}", place.stderr());
    let _ = sleeps.kill();
    let _ = sleeps.wait();

    server.stop();
    place.until("the end of the server is a failure", |p| {
        p.reports("postgres").last().is_some_and(|r| r["failed"].is_string())
    });
}

#[test]
fn nginx_is_measured() {
    let mut place = Place::new("");
    let port = free_port();
    let dir = place.dir.path().display();
    let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|what| format!("{what}_temp_path {dir}/{what};"))
        .collect();
    let conf = format!(
        "daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log;\nevents {{}}\n\
         http {{ access_log {dir}/access.log combined; {temporary}\n server {{ listen 127.0.0.1:{port};\n\
         location = / {{ return 200 ok; }}\n location = /status {{ stub_status; access_log off; }}\n location = /broken {{ return 500; }} }} }}\n"
    );
    std::fs::write(place.path("nginx.conf"), conf).unwrap();
    let mut nginx = program("usr/sbin/nginx");
    nginx
        .arg("-p")
        .arg(place.dir.path())
        .arg("-e")
        .arg(place.path("error.log"))
        .arg("-c")
        .arg(place.path("nginx.conf"));
    let mut server = Server::start(nginx, &place, port);
    let url = format!("http://127.0.0.1:{port}");
    let log = place.path("access.log").display().to_string();
    let (page, status) = (format!("{url}/"), format!("{url}/status"));
    let arguments = [page.as_str(), status.as_str(), log.as_str()];
    plugin(&place, "nginx", &arguments, "max_errors_permille = 500");
    place.agent();
    place.start();
    place.until("measured", |p| p.reports("nginx").iter().any(|r| r["took_us"].is_u64()));
    let get = |path: &str| {
        use std::io::{Read, Write};
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        write!(stream, "GET {path} HTTP/1.0\r\n\r\n").unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    };
    place.until("many requests and some errors are seen", |p| {
        (0..5).for_each(|_| get("/"));
        get("/broken");
        let seen = last(p, "nginx");
        seen["requests"].as_f64() > Some(5.0) && seen["errors"].as_f64() > Some(0.0)
    });
    assert_eq!(last(&place, "nginx")["clients"][0]["address"], "127.0.0.0");
    assert_eq!(place.plugin("nginx")["problem"], Value::Null, "{}", place.stderr());
    server.stop();
    place.until("the end of the server is a failure", |p| {
        p.reports("nginx").last().is_some_and(|r| r["failed"].is_string())
    });
}
