//! `comsctl tls rotate`: where the authority is. Which step may come, `authority` decides.

use super::super::args::tls::RotateStep;
use super::super::{Failure, print};
use super::authority::{Authority, Refused};
use super::issue::{authority_days_left, make_bundle, new_authority};
use super::store::Store;
use coms_broker::certificates::{AUTHORITY_WARN_DAYS, Name};
use serde_json::json;
use std::path::Path;
use std::process::ExitCode;

/// A certificate is due so long before its end.
const DUE_DAYS: i64 = 30;

pub fn rotate(
    json: bool,
    dir: &Path,
    step: Option<&RotateStep>,
    now_unix_s: i64,
) -> Result<ExitCode, Failure> {
    let (store, state) = Store::open(dir)?;
    let refused = |e: Refused| Failure::refused(e.to_string());
    let state = match step {
        None => state,
        Some(RotateStep::Installed { host, receipt }) => {
            saved(&store, state.installed(host, receipt).map_err(refused)?)?
        }
        Some(RotateStep::Forget { host }) => saved(&store, state.forget(host).map_err(refused)?)?,
        Some(RotateStep::Begin) => {
            let next = state.begin().map_err(refused)?;
            // Of a step that was cut short one may be there, and hosts may have been given it.
            if let Some(number) = next.trusted.last()
                && !store.authority(*number).is_ok_and(|made| made.is_usable(now_unix_s))
            {
                new_authority(&store, *number, now_unix_s)?;
            }
            issued_for_all(&store, next, now_unix_s)?
        }
        Some(RotateStep::Leaves) => issued_for_all(&store, state.leaves().map_err(refused)?, now_unix_s)?,
        Some(RotateStep::Finish) => issued_for_all(&store, state.finish().map_err(refused)?, now_unix_s)?,
    };
    // Only now is it certain that nothing goes back to it; and whoever was killed right here comes by again.
    store.delete_old_keys(&state)?;
    let authority_days = authority_days_left(&store, &state, now_unix_s)?;
    show(json, dir, &state, authority_days, now_unix_s)
}

fn saved(store: &Store, state: Authority) -> Result<Authority, Failure> {
    store.save(&state)?;
    Ok(state)
}

/// What every host is to install in this step. Kept only when all is made: a step that was cut short is done again.
fn issued_for_all(store: &Store, mut state: Authority, now_unix_s: i64) -> Result<Authority, Failure> {
    let hosts: Vec<(String, Vec<Name>)> = state
        .hosts
        .iter()
        .map(|(host, record)| (host.clone(), record.names.iter().filter_map(|n| Name::parse(n)).collect()))
        .collect();
    for (host, names) in hosts {
        make_bundle(store, &mut state, &host, &names, false, now_unix_s)?;
    }
    saved(store, state)
}

fn show(
    json: bool,
    dir: &Path,
    state: &Authority,
    authority_days: i64,
    now_unix_s: i64,
) -> Result<ExitCode, Failure> {
    let next = state.next(authority_days < AUTHORITY_WARN_DAYS);
    let hosts: Vec<_> = state
        .hosts
        .iter()
        .map(|(host, h)| {
            let days = h.days_left(now_unix_s);
            json!({ "host": host, "names": h.names, "installed": h.installed, "days_left": days, "due": days < DUE_DAYS })
        })
        .collect();
    let value = json!({
        "step": state.step(), "next": next, "authority_days_left": authority_days, "hosts": hosts,
    });
    print(json, &value, |_| {
        let mut out = format!("authority: {authority_days} days left\n");
        for (host, h) in &state.hosts {
            let installed = if h.installed { "installed" } else { "not confirmed as installed" };
            let days = h.days_left(now_unix_s);
            let due =
                if days < DUE_DAYS { format!("; due: comsctl tls issue {host}") } else { String::new() };
            out.push_str(&format!(
                "{host}: {installed}, {days} days left{due} ({})\n",
                dir.join("hosts").join(host).display()
            ));
        }
        out + &format!("next: {next}\n")
    })
}
