//! Claims that the host slows a guest, as scripts.

use super::*;

/// The host's sample at this moment, with what the VM's vCPU ran and waited so far.
fn vcpu(w: &mut World, run_ms: u64, wait_ms: u64) {
    let times = VcpuTimes { run_ns: run_ms * 1_000_000, wait_ns: wait_ms * 1_000_000 };
    let domains = vec![DomainSample {
        uuid: VM,
        vcpus: 1,
        memory_kib: 1 << 20,
        cpu_time_ns: times.run_ns,
        vcpu: Some(times),
    }];
    w.event(Event::Sampled {
        host: "h1".into(),
        result: Ok(HostSample { domains, ..sample(H1, w.now.unix_ms) }),
    });
    w.event(Event::Sampled { host: "h2".into(), result: Ok(sample(H2, w.now.unix_ms)) });
    w.pass(2);
}

fn complain(w: &mut World, id: u64) -> Vec<Action> {
    let request = Request {
        id: RequestId(id),
        reason: RequestReason::WorkloadSlow,
        evidence: List::default(),
        // As the shipped agent asks.
        wishes: Wishes { avoid_this_host: true, ..Wishes::default() },
    };
    w.event(Event::Link { uuid: VM, event: LinkEvent::Said(GuestToHost::Request(request)) })
}

#[test]
fn a_guest_whose_cpus_do_not_wait_is_slow_by_itself() {
    let mut w = World::source();
    for i in 0..4 {
        vcpu(&mut w, i * 2000, i * 20);
    }
    complain(&mut w, 1);
    assert_eq!(denied(&w.hosts_answer(MigrationId(1))), [DenyReason::OwnLoad]);

    let mut w = World::source();
    for i in 0..4 {
        vcpu(&mut w, i * 500, i * 1500);
    }
    complain(&mut w, 1);
    assert_ne!(denied(&w.hosts_answer(MigrationId(1))), [DenyReason::OwnLoad]);
}

#[test]
fn after_one_was_relieved_the_others_are_measured_again() {
    let mut w = World::source();
    w.broker.relief_rest_until = w.now.mono + Duration::from_secs(10);
    w.broker.relieved_at = w.now.mono;
    assert_eq!(denied(&complain(&mut w, 1)), [DenyReason::OthersFirst]);
    w.pass(10);
    assert!(find(&complain(&mut w, 2), |a| matches!(a, Action::Survey { .. })).is_some());
    // While it is chosen for, or moves, no other.
    let other = Domain {
        uuid: Uuid::from_u128(8),
        name: "vm2".into(),
        ..domain(DomainState::Running { arrived: false })
    };
    w.event(Event::Domain { uuid: other.uuid, result: Ok(other.clone()) });
    let request = Request {
        id: RequestId(1),
        reason: RequestReason::WorkloadSlow,
        evidence: List::default(),
        wishes: Wishes::default(),
    };
    let said = LinkEvent::Said(GuestToHost::Request(request));
    let actions = w.event(Event::Link { uuid: other.uuid, event: said });
    assert_eq!(denied(&actions), [DenyReason::OthersFirst]);
}
