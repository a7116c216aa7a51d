//! fails: a measurement that fails is said, and the next one is made all the same.

use coms_plugin::every;
use std::time::Duration;

fn main() {
    every(Duration::from_secs(1), || Err("the service does not answer".into()));
}
