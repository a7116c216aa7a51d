//! A VM that goes to another site, and what fails on the way: nothing of a network stays that nobody needs.

use coms_lab::GuestConfig;
use coms_story::faults::arena::is_stopped;
use coms_story::geo;
use coms_story::*;

/// kill -9 of a broker between two steps: nothing of a network stays that nobody needs, and the VM goes all the same.
/// The fault table's arena is one site, so this is beside it.
#[test]
fn a_broker_that_is_killed_while_it_measures_or_stretches_leaves_nothing() -> Result<()> {
    // Rates are not what this is about, and another lab may be played beside it.
    let link = "min_rate_mib_s = 1\nmax_rtt_ms = 2000\n".into();
    let mut stage = Stage::up(Settings { stop_points: true, link, ..geo::settings(true) })?;
    let guest = stage.boot(0, geo::guest()?, "")?;
    for (i, moment) in [
        (0, "event Measured"),
        (0, "action NetworkStep { verb: Prepare"),
        (0, "event StepDone"),
        (0, "event PeerAnswered"),
        (1, "event PeerAsked"),
        (1, "event StepDone"),
    ] {
        println!("    the broker of {} is killed before the {moment}", HOSTS[i]);
        stage.host(i).write_file(coms_story::BROKER_STOPS_AT, moment)?;
        coms(&guest, &["migrate"])?;
        let pid = stage.broker(i).ok_or("no broker")?.pid();
        stage.wait("the broker to be there", 60, || Ok(is_stopped(pid)))?;
        stage.stop_broker(i, coms_lab::Signal::KILL)?;
        stage.start_broker(i)?;
        stage.wait_for_load()?;
        if i == 1 {
            // Its end was not made, says the source: the guest may ask again.
            stage.wait("no network at either end", 150, || {
                Ok((geo::stretched(&stage, 0)?, geo::stretched(&stage, 1)?) == (0, 0))
            })?;
            assert_eq!(guest.current_host()?.name(), HOSTS[0]);
            coms(&guest, &["migrate"])?;
        }
        // Its hello names the request: the next broker takes it up.
        stage.wait("the VM at the other site", 180, || Ok(guest.current_host()?.name() == HOSTS[1]))?;
        assert_eq!((geo::stretched(&stage, 0)?, geo::stretched(&stage, 1)?), (1, 1));
        stage.wait_for_agent(&guest)?;
        let moved = stage.comsctl(1, &["migrate", guest.name()])?;
        assert_eq!(guest.current_host()?.name(), HOSTS[0], "{moved}");
        stage.wait("the network to be as it was", 150, || {
            Ok((geo::stretched(&stage, 0)?, geo::stretched(&stage, 1)?) == (0, 0))
        })?;
        stage.wait_for_agent(&guest)?;
    }
    stage.finish(&[&guest])
}

#[test]
fn a_network_that_cannot_be_made_at_the_other_end_stays_at_neither() -> Result<()> {
    let stage = Stage::up(geo::settings_that_fail_there())?;
    let guest = stage.boot(0, GuestConfig::default(), "")?;
    stage.comsctl(0, &["migrate", guest.name(), "--no-wait"])?;
    stage.wait("the refusal", 60, || {
        let moves = stage.comsctl(0, &["migrations"])?;
        Ok(moves.as_array().is_some_and(|all| all.iter().any(|m| m["reason"] == "unreachable")))
    })?;
    stage.wait("no network at either end", 20, || {
        Ok((geo::stretched(&stage, 0)?, geo::stretched(&stage, 1)?) == (0, 0))
    })?;
    assert_eq!(guest.current_host()?.name(), HOSTS[0]);
    stage.finish(&[&guest])
}
