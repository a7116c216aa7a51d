//! Two labs at once, with equal names and addresses in them, do not know of each other.

use std::thread;

use coms_lab::{GuestConfig, Lab, LabConfig};

#[test]
fn two_labs_at_once_do_not_collide() {
    let run = |name: &'static str| {
        thread::spawn(move || {
            let lab = Lab::new(LabConfig::default()).unwrap();
            let guest = lab.boot(GuestConfig { name: name.into(), ..GuestConfig::default() }, "h1").unwrap();
            guest.migrate_to("h2", &[]).unwrap();
            assert_eq!(guest.sh("hostname").unwrap().trim(), name);
            assert_eq!(lab.host("h2").virsh(&["list", "--name"]).unwrap(), name);
            let id = lab.id().to_owned();
            lab.finish().unwrap();
            id
        })
    };
    let (one, other) = (run("one"), run("other"));
    assert_ne!(one.join().unwrap(), other.join().unwrap());
}
