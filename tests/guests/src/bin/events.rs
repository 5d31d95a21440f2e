//! Two-level event channels: binding, sending, masking, closing, and the upcall.
#![no_std]
#![no_main]

use claim::abi::Hypercall;
use claim::abi::event_channel::*;
use claim::abi::xen::*;
use claim::event::*;
use claim::hypercall::command;
use claim::{Answer, ask, say, trap};

claim::claim!(run);

fn result(what: &str, answer: Result<u32, i64>) -> u32 {
    match answer {
        Ok(port) => {
            say!("{what}: a port, {}", if port == 0 { "zero" } else { "not zero" });
            port
        }
        Err(error) => {
            say!("{what}: {}", Answer(error));
            0
        }
    }
}

fn run() {
    shared();
    interdomain();
    sending();
    virqs();
    ipis();
    bad_ports();
    upcalls();
    others();
}

fn describe(what: &str, port: u32) {
    match status(port) {
        Ok(s) => say!("{what}: kind {} vcpu {}", s.status, s.vcpu),
        Err(error) => say!("{what}: {}", Answer(error)),
    }
}

fn interdomain() {
    let port = result("unbound for ourselves", alloc_unbound(DOMID_SELF));
    describe("unbound", port);
    let local = result("connect to ourselves", bind_interdomain(DOMID_SELF, port));
    say!("another port: {}", local != port);
    describe("one end", port);
    describe("other end", local);
    result("connect a second time", bind_interdomain(DOMID_SELF, port));
    ask!("send from the new end", send(local));
    say!("pending: old {} new {}", pending(port), pending(local));
    clear(port);
    ask!("send from the old end", send(port));
    say!("pending: old {} new {}", pending(port), pending(local));
    clear(local);
    ask!("close the new end", close(local));
    describe("old end", port);
    ask!("send from the unbound end", send(port));
    ask!("close the old end", close(port));
    describe("old end", port);
    result("unbound for an unknown domain", alloc_unbound(77));
    result("connect to an unknown domain", bind_interdomain(77, 1));
    result("connect to a closed port", bind_interdomain(DOMID_SELF, port));
    result("connect to a port too high", bind_interdomain(DOMID_SELF, 1 << 20));
    let again = result("unbound again", alloc_unbound(DOMID_SELF));
    say!("lowest free port is taken again: {}", again == port);
    ask!("close it", close(again));
}

fn sending() {
    let port = result("unbound", alloc_unbound(DOMID_SELF));
    let local = result("connected", bind_interdomain(DOMID_SELF, port));
    clear_upcall_pending();
    clear_selector();
    clear(port);
    set_masked(port, true);
    ask!("send to a masked port", send(local));
    say!("pending {} selector {} upcall {}", pending(port), selector() != 0, upcall_pending());
    ask!("unmask", unmask(port));
    say!("masked {} selector {} upcall {}", masked(port), selector() != 0, upcall_pending());
    clear_upcall_pending();
    clear_selector();
    ask!("send while pending", send(local));
    say!("selector {} upcall {}", selector() != 0, upcall_pending());
    clear(port);
    ask!("send when clear", send(local));
    say!("selector {} upcall {}", selector() != 0, upcall_pending());
    ask!("unmask what is not masked", unmask(port));
    ask!("close", close(port));
    say!("closing clears pending: {}", !pending(port));
    ask!("close", close(local));
    clear_upcall_pending();
    clear_selector();
}

fn virqs() {
    let timer = result("timer", bind_virq(VIRQ_TIMER, 0));
    result("timer again", bind_virq(VIRQ_TIMER, 0));
    describe("timer", timer);
    result("timer of a vCPU that is not", bind_virq(VIRQ_TIMER, 500));
    let console = result("console", bind_virq(VIRQ_CONSOLE, 0));
    result("console on a vCPU that is not", bind_virq(VIRQ_CONSOLE, 1));
    result("VIRQ 24", bind_virq(NR_VIRQS, 0));
    ask!("send to a VIRQ", send(timer));
    ask!("close", close(console));
    let debug = result("debug", bind_virq(VIRQ_DEBUG, 0));
    ask!("close", close(debug));
    ask!("close", close(timer));
    let timer = result("timer once more", bind_virq(VIRQ_TIMER, 0));
    ask!("close", close(timer));
}

fn ipis() {
    let port = result("between vCPUs", bind_ipi(0));
    describe("between vCPUs", port);
    ask!("send", send(port));
    say!("pending {}", pending(port));
    let mut op = EvtchnBindVcpu { port, vcpu: 0 };
    ask!("move it to its vCPU", command(Hypercall::EventChannelOp, EVTCHNOP_BIND_VCPU, &mut op));
    op.vcpu = 9;
    ask!("move it to a vCPU that is not", command(Hypercall::EventChannelOp, EVTCHNOP_BIND_VCPU, &mut op));
    result("for a vCPU that is not", bind_ipi(9));
    ask!("close", close(port));
}

fn bad_ports() {
    for (name, port) in [("zero", 0), ("closed", 1000), ("too high", 4096), ("far too high", u32::MAX)] {
        say!(
            "{name}: send {} close {} unmask {}",
            Answer(send(port)),
            Answer(close(port)),
            Answer(unmask(port))
        );
        describe(name, port);
        let mut op = EvtchnBindVcpu { port, vcpu: 0 };
        say!("{name}: bind {}", Answer(command(Hypercall::EventChannelOp, EVTCHNOP_BIND_VCPU, &mut op)));
    }
}

fn upcalls() {
    let port = result("between vCPUs", bind_ipi(0));
    clear_upcall_pending();
    clear_selector();
    trap::upcalls();
    ask!("send while events are masked", send(port));
    say!("upcalls: {}", trap::upcalls());
    set_upcall_mask(0);
    ask!("any hypercall with events on", send(port));
    say!("upcalls: {}", trap::upcalls());
    say!("mask after the upcall: {}", upcall_mask());
    clear(port);
    ask!("send while events are on", send(port));
    say!("upcalls: {}", trap::upcalls());
    set_upcall_mask(1);
    ask!("close", close(port));
}

fn others() {
    let mut unknown = 0_u64;
    ask!("unknown operation", command(Hypercall::EventChannelOp, 99, &mut unknown));
    ask!(
        "argument at a bad address",
        claim::call(Hypercall::EventChannelOp, &[u64::from(EVTCHNOP_SEND), 0x1000])
    );
    let mut pirq = EvtchnBindPirq { pirq: 100_000, ..Default::default() };
    ask!("interrupt that is not", command(Hypercall::EventChannelOp, EVTCHNOP_BIND_PIRQ, &mut pirq));
    let mut reset = EvtchnReset { dom: 77 };
    ask!("reset an unknown domain", command(Hypercall::EventChannelOp, EVTCHNOP_RESET, &mut reset));
    let mut priority = EvtchnSetPriority { port: 1, priority: 3 };
    ask!("priority without FIFO", command(Hypercall::EventChannelOp, EVTCHNOP_SET_PRIORITY, &mut priority));
    reset.dom = DOMID_SELF;
    let port = result("a port", alloc_unbound(DOMID_SELF));
    ask!("reset ourselves", command(Hypercall::EventChannelOp, EVTCHNOP_RESET, &mut reset));
    describe("that port", port);
}
