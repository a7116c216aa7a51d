//! smoke
use coms_lab::GuestConfig;
use coms_story::*;

#[test]
fn operator_moves_a_guest() -> Result<()> {
    let stage = Stage::up(Settings::default())?;
    let guest = stage.lab.boot(GuestConfig::default(), HOSTS[0])?;
    println!("{}", stage.comsctl(0, &["hosts"])?);
    println!("{}", stage.comsctl(0, &["guests"])?);
    let out = stage.comsctl(0, &["migrate", "vm1"])?;
    println!("{out}");
    assert_eq!(guest.current_host()?.name(), HOSTS[1]);
    std::thread::sleep(std::time::Duration::from_secs(2));
    println!("{}", stage.comsctl(1, &["migrations"])?);
    println!("{}", stage.logs());
    stage.finish(&[&guest])
}
