//! Runs the operator's network step (docs/network-step.md): a command of its own process group, with a time limit, and
//! with little heard of it.

use crate::network::{StepError, StepInput, Verb};
use rustix::process::{Pid, Signal, kill_process_group};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command};
use tokio::sync::mpsc;

/// What is heard of its complaints; the rest is read and thrown away.
const COMPLAINT: usize = 1024;
/// EX_TEMPFAIL of sysexits.h.
const TRY_LATER: i32 = 75;
/// Its last words may come a moment after it.
const LAST_WORDS: Duration = Duration::from_millis(200);
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub async fn run(
    command: &[String],
    verb: Verb,
    input: &StepInput,
    limit: Duration,
) -> Result<(), StepError> {
    let failed = |later, text: String| StepError { later, text };
    let Some((program, arguments)) = command.split_first() else {
        return Err(failed(false, "[network] step is empty".into()));
    };
    let json = serde_json::to_vec(input).map_err(|e| failed(false, e.to_string()))?;
    let mut child = Command::new(program)
        .args(arguments)
        .arg(verb.name())
        .env_clear()
        .env("PATH", PATH)
        .envs(environment(input))
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| failed(false, format!("{program} cannot be run: {e}")))?;
    let group = child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
    let words = listen(&mut child);
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read it does not need it.
        tokio::spawn(async move {
            let _ = stdin.write_all(&json).await;
        });
    }
    let ended = tokio::time::timeout(limit, child.wait()).await;
    // With whatever it started: while the group has a member, its number is not given to another.
    let heard = match &ended {
        Ok(_) => said(words, group).await,
        Err(_) => {
            kill(group);
            String::new()
        }
    };
    match ended {
        Ok(Ok(status)) => judge(status, &heard, program),
        Ok(Err(e)) => Err(failed(true, format!("{program}: {e}"))),
        Err(_) => Err(failed(true, format!("{program} did not end within {} s", limit.as_secs()))),
    }
}

/// What programs want that read no JSON.
fn environment(input: &StepInput) -> Vec<(&'static str, String)> {
    let mut bridges: Vec<&str> = input.interfaces.iter().filter_map(|i| i.bridge.as_deref()).collect();
    bridges.sort_unstable();
    bridges.dedup();
    let macs: Vec<&str> = input.interfaces.iter().map(|i| i.mac.as_str()).collect();
    let unbridged = input.interfaces.iter().filter(|i| i.bridge.is_none()).count();
    vec![
        ("COMS_VM", input.vm.to_string()),
        ("COMS_MIGRATION", input.migration.to_string()),
        ("COMS_BRIDGES", bridges.join(" ")),
        ("COMS_MACS", macs.join(" ")),
        ("COMS_UNBRIDGED", unbridged.to_string()),
        ("COMS_HERE", input.here.name.clone()),
        ("COMS_HERE_SITE", input.here.site.clone().unwrap_or_default()),
        ("COMS_HERE_ADDRESS", input.here.address.to_string()),
        ("COMS_THERE", input.there.name.clone()),
        ("COMS_THERE_SITE", input.there.site.clone().unwrap_or_default()),
        ("COMS_THERE_ADDRESS", input.there.address.to_string()),
    ]
}

/// Its complaints, and the end of them.
fn listen(child: &mut Child) -> mpsc::Receiver<Vec<u8>> {
    let (tx, rx) = mpsc::channel(1);
    if let Some(mut stderr) = child.stderr.take() {
        tokio::spawn(async move {
            let mut kept = Vec::new();
            let mut buffer = [0; 1024];
            while let Ok(n) = stderr.read(&mut buffer).await {
                if n == 0 {
                    break;
                }
                kept.extend_from_slice(&buffer[..n.min(COMPLAINT - kept.len())]);
            }
            let _ = tx.send(kept).await;
        });
    }
    rx
}

async fn said(mut words: mpsc::Receiver<Vec<u8>>, group: Option<Pid>) -> String {
    let mut heard = tokio::time::timeout(LAST_WORDS, words.recv()).await;
    if heard.is_err() {
        // Something of it lives on.
        kill(group);
        heard = tokio::time::timeout(LAST_WORDS, words.recv()).await;
    }
    let bytes = heard.ok().flatten().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").chars().filter(|c| !c.is_control()).collect()
}

fn kill(group: Option<Pid>) {
    if let Some(group) = group {
        // Gone already is fine.
        let _ = kill_process_group(group, Signal::KILL);
    }
}

fn judge(status: ExitStatus, said: &str, program: &str) -> Result<(), StepError> {
    if status.success() {
        return Ok(());
    }
    let why = if said.is_empty() { "and did not say why" } else { said };
    let text = format!("{program}: {status}: {why}");
    Err(StepError { later: status.code() == Some(TRY_LATER), text })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{End, Interface};
    use coms_protocol::types::MigrationId;
    use std::time::Instant;
    use uuid::Uuid;

    fn input() -> StepInput {
        let end =
            |n: u8| End { name: format!("h{n}"), site: Some(format!("s{n}")), address: [10, 0, 0, n].into() };
        let card = |mac: &str, bridge| Interface::new(mac, bridge).unwrap();
        StepInput {
            vm: Uuid::from_u128(7),
            migration: MigrationId(1),
            interfaces: vec![card("52:54:00:00:00:01", Some("br0")), card("52:54:00:00:00:02", None)],
            here: end(1),
            there: end(2),
        }
    }

    fn run_sh(script: &str, limit: Duration) -> Result<(), StepError> {
        let command: Vec<String> = ["/bin/sh", "-c", script, "step"].map(str::to_owned).to_vec();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(&command, Verb::Prepare, &input(), limit))
    }

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn it_gets_the_verb_the_json_and_the_variables_and_nothing_else() {
        let script = r#"[ "$1" = prepare ] || exit 1
            read -r json; case $json in *'"interfaces":[{"mac":"52:54:00:00:00:01","bridge":"br0"}'*) ;; *) exit 2;; esac
            [ "$COMS_BRIDGES/$COMS_UNBRIDGED" = br0/1 ] || exit 3
            [ "$COMS_HERE_ADDRESS/$COMS_THERE_SITE" = 10.0.0.1/s2 ] || exit 4
            [ -z "$HOME$CARGO$USER" ] || exit 5"#;
        assert_eq!(run_sh(script, LONG), Ok(()));
    }

    #[test]
    fn its_end_is_understood_and_little_is_heard_of_it() {
        let later = run_sh("echo 'the bridge is  busy' >&2; exit 75", LONG).unwrap_err();
        assert!(later.later && later.text.ends_with("the bridge is busy"), "{later:?}");
        let refused = run_sh("exit 1", LONG).unwrap_err();
        assert!(!refused.later && refused.text.contains("did not say why"), "{refused:?}");
        let loud = run_sh("yes 'so it goes' | head -c 1000000 >&2; printf '\\033[31m' >&2; exit 1", LONG);
        let loud = loud.unwrap_err().text;
        assert!(loud.len() < 2 * COMPLAINT && !loud.contains('\x1b'), "{}", loud.len());
        let missing = "/no/such/step".to_owned();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let e = runtime.block_on(run(&[missing], Verb::Undo, &input(), LONG)).unwrap_err();
        assert!(e.text.contains("/no/such/step cannot be run"), "{e:?}");
    }

    #[test]
    fn one_that_hangs_is_killed_with_all_that_it_started() {
        let began = Instant::now();
        let hangs = run_sh("sleep 1000 & sleep 1000", Duration::from_millis(300)).unwrap_err();
        assert!(hangs.later && hangs.text.contains("did not end"), "{hangs:?}");
        // One that leaves something behind that holds its standard error.
        assert_eq!(run_sh("sleep 1000 & exit 0", LONG), Ok(()));
        assert!(began.elapsed() < LONG / 2);
    }
}
