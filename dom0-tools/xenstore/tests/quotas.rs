//! What a domain cannot have, and that nobody else pays for its trying.

mod common;

use common::{Hands, World};
use guest_abi::Errno;
use lith_client::wire::Kind::*;
use lith_xenstore::Step;

#[test]
fn nodes_are_counted_and_given_back() {
    let mut hands = Hands::new();
    let (tool, guest) = (hands.tool, hands.domain(1));
    let limit = hands.machine.limits().nodes;
    for n in 1..limit {
        hands.ok(guest, Write, &format!("n{n}\0"));
        hands.events(guest);
    }
    assert_eq!(hands.ask(guest, Write, "more\0"), Err(Errno::ENOSPC));
    assert_eq!(hands.ask(guest, Mkdir, "a/b/c\0"), Err(Errno::ENOSPC));
    hands.ok(guest, Rm, "n1\0");
    hands.ok(guest, Write, "more\0");
    hands.ok(tool, Write, "/local/domain/1/tools\0");
    assert!(hands.machine.is_consistent());
}

#[test]
fn a_transaction_cannot_have_more() {
    let mut hands = Hands::new();
    let guest = hands.domain(1);
    let limit = hands.machine.limits().nodes;
    let id = hands.begin(guest);
    for n in 1..limit {
        hands.ask_in(guest, id, Write, format!("n{n}\0").as_bytes()).unwrap();
        hands.events(guest);
    }
    assert_eq!(hands.ask_in(guest, id, Write, b"more\0"), Err(Errno::ENOSPC));
    hands.ok(guest, Write, "outside\0");
    assert_eq!(hands.ask_in(guest, id, TransactionEnd, b"T\0"), Err(Errno::ENOSPC), "together too many");
    assert_eq!(hands.ask(guest, Read, "n1\0"), Err(Errno::ENOENT), "so none");
    assert!(hands.machine.is_consistent());
}

#[test]
fn sizes_are_limited() {
    let mut hands = Hands::new();
    let (tool, guest) = (hands.tool, hands.domain(1));
    let big = "x".repeat(2049);
    assert_eq!(hands.ask(guest, Write, &format!("v\0{big}")), Err(Errno::ENOSPC));
    hands.ok(guest, Write, &format!("v\0{}", &big[..2048]));
    hands.ok(tool, Write, &format!("/v\0{big}"));
    let path = format!("/local/domain/1/{big}");
    assert_eq!(hands.ask(guest, Write, &format!("{path}\0")), Err(Errno::ENOSPC));
    hands.ok(tool, Write, &format!("{path}\0"));
    assert_eq!(hands.ask(guest, SetPerms, "v\0n1\0r2\0r3\0r4\0r5\0r6\0"), Err(Errno::ENOSPC));
}

#[test]
fn watches_and_transactions_are_limited() {
    let mut hands = Hands::new();
    let (tool, guest) = (hands.tool, hands.domain(1));
    for n in 0..hands.machine.limits().watches {
        hands.ok(guest, Watch, &format!("w\0{n}\0"));
        hands.ok(tool, Watch, &format!("w\0{n}\0"));
        hands.events(guest);
    }
    assert_eq!(hands.ask(guest, Watch, "w\0more\0"), Err(Errno::E2BIG));
    hands.ok(tool, Watch, "w\0more\0");
    hands.ok(guest, Unwatch, "w\x000\0");
    hands.ok(guest, Watch, "w\0more\0");
    for _ in 0..hands.machine.limits().transactions {
        hands.begin(guest);
        hands.events(guest);
    }
    assert_eq!(hands.ask(guest, TransactionStart, "\0"), Err(Errno::ENOSPC));
}

#[test]
fn a_transaction_cannot_look_at_everything() {
    let mut hands = Hands::new();
    let guest = hands.domain(1);
    let id = hands.begin(guest);
    let limit = hands.machine.limits().transaction_nodes;
    let refused = (0..limit + 2).position(|n| {
        hands.events(guest);
        hands.ask_in(guest, id, Read, format!("n{n}\0").as_bytes()) == Err(Errno::ENOSPC)
    });
    assert!(refused.is_some_and(|n| n as u32 <= limit));
}

#[test]
fn who_does_not_read_answers_waits() {
    let mut hands = Hands::new();
    let guest = hands.domain(1);
    hands.events(guest);
    for _ in 0..hands.machine.limits().outstanding {
        // A refusal is an answer, too.
        assert_eq!(hands.ask(guest, Read, "/\0"), Err(Errno::EACCES));
    }
    let mut bytes = Vec::new();
    lith_client::wire::encode(&mut bytes, Read as u32, 1, 0, &[b"/\0"]);
    hands.machine.feed(guest, &bytes);
    assert!(!hands.machine.ready(guest));
    assert_eq!(hands.machine.step(guest, &mut World), Step::Waits);
    hands.events(guest);
    assert!(hands.machine.ready(guest));
    assert_eq!(hands.machine.step(guest, &mut World), Step::Done);
}

#[test]
fn events_for_who_does_not_read_are_summed_up() {
    let mut hands = Hands::new();
    let (tool, guest) = (hands.tool, hands.domain(1));
    hands.ok(guest, Watch, "x\0one\0");
    hands.ok(guest, Watch, "/local/domain/1/x\0two\0");
    hands.events(guest);
    let long = "y".repeat(1000);
    let mut most = 0;
    for n in 0..200 {
        hands.ok(tool, Write, &format!("/local/domain/1/x/{long}{n}\0"));
        most = most.max(hands.machine.peek(guest, usize::MAX).len());
    }
    assert!(most < 80 * 1024, "{most} bytes waited");
    let events = hands.events(guest);
    assert!(events.contains(&"x one".to_owned()) && events.contains(&"/local/domain/1/x two".to_owned()));
}

#[test]
fn guests_wait_for_the_kernel_that_serves_them() {
    let mut hands = Hands::new();
    let (tool, guest) = (hands.tool, hands.domain(1));
    let kernel = hands.machine.connect_kernel();
    hands.ok(kernel, Watch, "/\0t\0");
    hands.events(kernel);
    let long = "y".repeat(1900);
    let mut bytes = Vec::new();
    let mut written = 0;
    for n in 0..1000 {
        bytes.clear();
        lith_client::wire::encode(
            &mut bytes,
            Write as u32,
            1,
            0,
            &[format!("{long}{}\0", n % 900).as_bytes()],
        );
        hands.machine.feed(guest, &bytes);
        if hands.machine.step(guest, &mut World) == Step::Waits {
            break;
        }
        hands.events(guest);
        written += 1;
    }
    assert!(written > 50 && written < 300, "{written} before it has to wait");
    hands.ok(tool, Write, "/tools/do/not\0wait");
    hands.events(kernel);
    assert!(hands.machine.ready(guest));
}

#[test]
fn a_tool_that_does_not_read_is_hopeless() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    let idle = hands.machine.connect();
    hands.ok(idle, Watch, "/\0t\0");
    let long = "y".repeat(2000);
    for n in 0..3000 {
        hands.ok(tool, Write, &format!("/{long}{n}\0"));
        hands.events(tool);
        if hands.machine.hopeless().any(|id| id == idle) {
            hands.machine.disconnect(idle);
            assert!(hands.machine.is_consistent());
            return;
        }
    }
    panic!("without a limit");
}
