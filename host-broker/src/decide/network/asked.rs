//! What another broker asks of this one: its end made, or taken down.

use super::super::Broker;
use super::{Held, STRETCHES};
use crate::action::Action;
use crate::event::Now;
use crate::network::{PeerAsk, PeerCaller, Stage, StepError, StepInput, Stretch, Verb};

impl Broker {
    /// Another broker wants this end made, or taken down.
    pub(in crate::decide) fn peer_asked(&mut self, now: Now, caller: PeerCaller, host: &str, ask: PeerAsk) {
        let refused = |later, text: &str| Err(StepError { later, text: text.to_owned() });
        let result = match ask.verb {
            Verb::Receive => match self.may_receive(now, host, &ask) {
                Ok(stretch) => {
                    let vm = ask.vm;
                    self.beat_at = now.mono;
                    self.stretches.insert(vm, Held { caller: Some(caller), ..Held::new(stretch) });
                    return self.run_step(now, vm, Verb::Receive);
                }
                Err(e) => Err(e),
            },
            Verb::Undo => self.may_undo(now, host, &ask),
            Verb::Prepare | Verb::Release => refused(false, "that is not for another broker to ask"),
        };
        self.out.push(Action::AnswerPeer { caller, result });
    }

    fn may_receive(&self, now: Now, host: &str, ask: &PeerAsk) -> Result<Stretch, StepError> {
        let refused = |later, text: &str| Err(StepError { later, text: text.to_owned() });
        let me = &self.config.me;
        let Some(there) = self.config.peers.iter().find(|p| p.name == host) else {
            return refused(false, "it is no host of this broker's configuration");
        };
        if there.site == me.site {
            return refused(false, "the two hosts are at one site, says this broker's configuration");
        }
        let Some((step, input)) = self.step_input(ask.vm, ask.migration, there) else {
            return refused(false, "[network] step, or an address of one of both hosts, is not set there");
        };
        // Two ends that do not meet would cut the VM off, and both would have ended well.
        for (said, known) in [(&ask.here, &input.there), (&ask.there, &input.here)] {
            if said.address != known.address || said.site != known.site {
                let text = format!(
                    "the two configurations differ in {}: its address is {} there, and {} here, or its site is another",
                    known.name, said.address, known.address
                );
                return refused(false, &text);
            }
        }
        if let Some(why) = self.not_stretched(&ask.interfaces) {
            return refused(false, &why);
        }
        if self.has_looked_at_few(now) {
            return refused(
                true,
                "that broker has just begun, and does not know the other hosts of its site yet",
            );
        }
        if let Some(why) = self.stretched_beside(&ask.interfaces) {
            return refused(true, &why);
        }
        // Its end would never be idle, and the VM would be taken for one that is away.
        if self.is_here(ask.vm).is_some() {
            return refused(true, "the VM is there already");
        }
        let of_that_host = |h: &&Held| !h.stretch.home && h.stretch.input.there.name == host;
        let share = STRETCHES / self.config.peers.len().max(1);
        match self.stretches.get(&ask.vm) {
            // Asked again: the answer was lost.
            Some(h) if !h.stretch.home && h.stretch.input.there.name == host && h.running.is_none() => {}
            Some(_) => {
                return refused(true, "a network that was stretched for it before is not taken down yet");
            }
            None if self.stretches.values().filter(of_that_host).count() >= share => {
                return refused(true, "too many networks are stretched for that host's VMs");
            }
            None => {}
        }
        let input = StepInput { interfaces: ask.interfaces.clone(), ..input };
        Ok(Stretch { home: false, input, stage: Stage::Making, command: step.command })
    }

    fn may_undo(&mut self, now: Now, host: &str, ask: &PeerAsk) -> Result<(), StepError> {
        let is_its = |h: &Held| {
            !h.stretch.home
                && h.stretch.input.there.name == host
                && h.stretch.input.migration == ask.migration
        };
        if !self.stretches.get(&ask.vm).is_some_and(is_its) {
            return Ok(());
        }
        if self.is_here(ask.vm).is_some() {
            return Err(StepError { later: true, text: "the VM is there".into() });
        }
        self.end_stretch(now, ask.vm, Verb::Undo);
        Ok(())
    }
}
