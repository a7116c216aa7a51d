//! README's page "Turn encryption on", line by line, on the hosts that the page for operators has set up. Then
//! certificates are renewed, and their authority in its three steps, with encrypted moves between any two installs.

use coms_packages::pool::{NAMES, Pool, as_on};
use coms_packages::{Page, Result, page, wait};
use serde_json::Value;

const VM: &str = "web-1";
/// Where the authority is.
const AUTHORITY: usize = 0;
const LIBVIRTD_PID: &str = "systemctl show --property MainPID --value libvirtd";

pub fn turned_on_and_renewed(pool: &Pool) -> Result<()> {
    let page = page("Turn encryption on")?;
    let [installed, demanded, moved, renewed] = page.more.as_slice() else {
        return Err(format!("README's page has other blocks now: {:?}", page.more).into());
    };
    for line in &page.lines {
        println!("{}", pool.typed(AUTHORITY, &page, line)?);
    }
    for i in 0..NAMES.len() {
        for line in installed {
            let line = as_on(i, line);
            if line.contains("tls install") {
                anothers_authority_is_not_replaced_by_mistake(pool, i, &line)?;
                println!("{}", pool.typed(i, &page, &format!("{line} --replace-authority"))?);
            } else {
                println!("{}", pool.typed(i, &page, &line)?);
            }
        }
    }
    pool.wait_for_brokers()?;
    all_brokers_have_seen_the_certificates(pool)?;
    for i in 0..NAMES.len() {
        for line in demanded {
            println!("{}", pool.typed(i, &page, line)?);
        }
    }
    let from = where_it_is(pool)?;
    for line in moved {
        println!("{}", pool.typed(from, &page, line)?);
    }
    was_moved_encrypted(pool, from)?;
    past_the_brokers_it_stays(pool)?;

    let before = libvirtds(pool)?;
    for line in renewed {
        match line.rsplit_once(' ') {
            Some((_, "host2")) => {
                for line in [line.clone(), format!("{line} --new-key")] {
                    println!("{}", pool.typed(AUTHORITY, &page, &line)?);
                    carried_and_installed(pool, &page, 1)?;
                    moves(pool)?;
                }
            }
            Some((_, "begin" | "leaves" | "finish")) => {
                println!("{}", pool.typed(AUTHORITY, &page, line)?);
                one_host_after_the_other(pool, &page, renewed)?;
            }
            // Typed after each step, with what install has said.
            Some((confirm, "RECEIPT")) if confirm.contains("rotate installed") => {}
            Some(_) | None => return Err(format!("README renews otherwise now: {line}").into()),
        }
    }
    assert_eq!(libvirtds(pool)?, before, "no libvirtd was restarted");
    // Purging takes nobody's authority away.
    pool.machine(AUTHORITY).must("mv /etc/coms/tls-authority /root/").map(|_| ())
}

/// One step of the authority's renewal. Half of the way, the VM is moved there and back.
fn one_host_after_the_other(pool: &Pool, page: &Page, renewed: &[String]) -> Result<()> {
    let confirm = renewed.iter().find(|l| l.contains("rotate installed")).ok_or("README confirms nothing")?;
    for (i, name) in NAMES.iter().enumerate() {
        let receipt = carried_and_installed(pool, page, i)?;
        moves(pool)?;
        moves(pool)?;
        let confirm = confirm.replace("host2", name).replace("RECEIPT", &receipt);
        println!("{}", pool.typed(AUTHORITY, page, &confirm)?);
    }
    Ok(())
}

/// As the page does it at first. What libvirtd shows from then on is the new certificate. The receipt.
fn carried_and_installed(pool: &Pool, page: &Page, i: usize) -> Result<String> {
    let bundle = format!("hosts/{}", NAMES[i]);
    let copy = page.lines.iter().find(|l| l.contains(&bundle)).ok_or("README copies nothing")?;
    pool.typed(AUTHORITY, page, copy)?;
    let mut said = String::new();
    for line in page.more[0].iter().filter(|l| l.contains("/root/tls-host1")) {
        said += &pool.typed(i, page, &as_on(i, line))?;
    }
    println!("{said}");
    assert!(said.contains("libvirtd has taken up its new certificate"), "{said}");
    let all = all_brokers_have_seen_the_certificates(pool)?;
    assert_eq!(shown_by_libvirtd(pool, i)?, all[i], "{}", NAMES[i]);
    let receipt = said.lines().find_map(|l| l.strip_prefix("receipt ")).ok_or("no receipt")?;
    Ok(receipt.to_owned())
}

/// So these hosts' were made, as the page begins.
fn anothers_authority_is_not_replaced_by_mistake(pool: &Pool, i: usize, line: &str) -> Result<()> {
    let said = pool.machine(i).run(line.trim_start_matches("sudo "))?;
    assert!(said.status == 1 && said.err.contains("nothing was changed"), "{}{}", said.out, said.err);
    assert!(said.err.contains("--replace-authority"), "{}", said.err);
    Ok(())
}

fn where_it_is(pool: &Pool) -> Result<usize> {
    match pool.where_is(VM)?.as_slice() {
        [one] => Ok(*one),
        other => Err(format!("{VM} runs at {other:?}").into()),
    }
}

/// The operator moves it to the other host.
fn moves(pool: &Pool) -> Result<()> {
    let from = where_it_is(pool)?;
    let machine = pool.machine(from);
    machine.must(&format!("comsctl migrate {VM}")).map_err(|e| {
        let why = machine.run(&format!("comsctl show {VM}; comsctl hosts")).map(|s| s.out + &s.err);
        format!("{e}\n{}", why.unwrap_or_default())
    })?;
    was_moved_encrypted(pool, from)
}

/// From this host to the other one.
fn was_moved_encrypted(pool: &Pool, from: usize) -> Result<()> {
    wait("it to arrive", 30, || Ok(pool.where_is(VM)? == [1 - from]))?;
    let shown: Value = serde_json::from_str(&pool.machine(from).must(&format!("comsctl --json show {VM}"))?)?;
    let channels = &shown["channels"];
    println!("{} -> {}: {channels}", NAMES[from], NAMES[1 - from]);
    assert_eq!((&channels["ram"], &channels["control"]), (&"tls".into(), &"tls".into()), "{shown}");
    Ok(())
}

/// Also where virsh asks for TLS: only a broker's move shows that it is encrypted.
fn past_the_brokers_it_stays(pool: &Pool) -> Result<()> {
    let from = where_it_is(pool)?;
    let machine = pool.machine(from);
    let seal = format!("virsh metadata {VM} --uri urn:coms:seal:1 --live");
    wait("the VM to be sealed", 20, || Ok(machine.run(&seal)?.status == 0))?;
    let to = format!("qemu+tls://{}.example/system", NAMES[1 - from]);
    let said = machine.run(&format!("virsh migrate --live --p2p --tls --persistent {VM} {to}"))?;
    assert!(said.status != 0 && said.err.contains("must be encrypted"), "{}{}", said.out, said.err);
    assert_eq!(where_it_is(pool)?, from);
    Ok(())
}

/// What is installed at each host, once every broker knows: a move is told by what they know.
fn all_brokers_have_seen_the_certificates(pool: &Pool) -> Result<Vec<String>> {
    let mut all = Vec::new();
    for machine in &pool.machines {
        let checked: Value = serde_json::from_str(&machine.must("comsctl --json tls check")?)?;
        all.push(checked["fingerprint_sha256"].as_str().ok_or("no fingerprint")?.to_owned());
    }
    for machine in &pool.machines {
        wait("the brokers to see the certificates", 60, || {
            let hosts: Value = serde_json::from_str(&machine.must("comsctl --json hosts")?)?;
            let seen = |name: &str| {
                let host = hosts.as_array()?.iter().find(|h| h["name"] == name)?;
                host["certificate_sha256"].as_str().map(str::to_owned)
            };
            Ok(NAMES.iter().zip(&all).all(|(name, wanted)| seen(name).as_ref() == Some(wanted)))
        })?;
    }
    Ok(all)
}

/// The fingerprint of the certificate that a host's libvirtd shows to who connects from the other one.
fn shown_by_libvirtd(pool: &Pool, of: usize) -> Result<String> {
    let (machine, to) = (pool.machine(1 - of), format!("{}.example", NAMES[of]));
    // Without a certificate of its own it is shown the door after that, and says so.
    let said = machine
        .run(&format!("gnutls-cli --insecure --save-cert /root/shown.pem --port 16514 {to} </dev/null"))?;
    let found =
        machine.must("certtool --fingerprint --hash sha256 --infile /root/shown.pem; rm /root/shown.pem");
    let found = found.map_err(|e| format!("{e}\n{}{}", said.out, said.err))?;
    Ok(found.trim().replace(':', ""))
}

fn libvirtds(pool: &Pool) -> Result<Vec<String>> {
    pool.machines.iter().map(|m| m.must(LIBVIRTD_PID)).collect()
}
