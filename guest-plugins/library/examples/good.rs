//! good: how long it takes to connect to a service. Put your own measurement in place of the connection.

use coms_plugin::{Sample, every};
use std::net::TcpStream;
use std::time::{Duration, Instant};

fn main() {
    let address = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:80".to_owned());
    every(Duration::from_secs(5), || {
        let begun = Instant::now();
        TcpStream::connect(&address)?;
        Ok(Sample::latency(begun.elapsed()))
    });
}
