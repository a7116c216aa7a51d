//! The broker's links, as they are in the broker, and nothing else of it: to be measured from outside.
//!
//! Reads counts from its input, one a line; attaches that many guests, and says when all are established.

use super::runtime;
use coms_broker::event::{Event, LinkEvent};
use coms_broker::io::guest_links::Links;
use coms_protocol::host_to_guest::HostHello;
use coms_protocol::types::{Place, Text};
use coms_story::Result;
use std::path::Path;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::sync::mpsc;
use uuid::Uuid;

pub fn run(dir: &Path) -> Result<()> {
    super::guests::allow_descriptors()?;
    runtime()?.block_on(async {
        let (tx, mut events) = mpsc::channel(1024);
        let mut links = Links::new(tx, None);
        let place = Place { alias: Text::clipped("0123456789abcdef"), region: Text::clipped("north") };
        let hello = HostHello { place, enabled: true };
        let mut orders = BufReader::new(input()?).lines();
        let (mut attached, mut established) = (0, 0);
        loop {
            tokio::select! {
                line = orders.next_line() => {
                    let Some(line) = line? else { return Ok(()) };
                    let wanted: u64 = line.trim().parse()?;
                    while attached < wanted {
                        links.attach(Uuid::from_u128(attached.into()), dir.join(attached.to_string()), &hello);
                        attached += 1;
                    }
                    if established == attached {
                        println!("{established}");
                    }
                }
                Some(event) = events.recv() => {
                    if let Event::Link { event: LinkEvent::Lost, uuid } = event {
                        return Err(format!("the link to guest {uuid} was lost").into());
                    }
                    if let Event::Link { event: LinkEvent::Established { .. }, .. } = event {
                        established += 1;
                        if established == attached {
                            println!("{established}");
                        }
                    }
                }
            }
        }
    })
}

/// The process's input, through the reactor: no thread of its own, which would be measured too.
fn input() -> Result<tokio::net::unix::pipe::Receiver> {
    let owned = rustix::io::dup(std::io::stdin())?;
    Ok(tokio::net::unix::pipe::Receiver::from_owned_fd(owned)?)
}
