//! The protocol, request by request; each thing allowed beside the same thing refused.

mod common;

use common::Hands;
use guest_abi::Errno;
use lith_client::wire::Kind::*;

#[test]
fn values_are_written_and_read() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    assert_eq!(hands.ask(tool, Read, "/a/b\0"), Err(Errno::ENOENT));
    hands.ok(tool, Write, "/a/b\0value");
    assert_eq!(hands.ok(tool, Read, "/a/b\0"), "value");
    assert_eq!(hands.ok(tool, Read, "/a\0"), "", "what is above is made");
    hands.ok(tool, Write, "/a/b\0");
    assert_eq!(hands.ok(tool, Read, "/a/b\0"), "");
    hands.ok(tool, Write, "/a/b\0x\0y\0");
    assert_eq!(hands.ok(tool, Read, "/a/b\0"), "x\0y\0", "octets are octets");
}

#[test]
fn payloads_that_make_no_sense_are_refused() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    for (kind, payload) in [
        (Read, ""),
        (Read, "/a"),
        (Read, "/a\0/b\0"),
        (Read, "a//b\0"),
        (Write, "/a"),
        (Mkdir, "/a\0/b\0"),
        (Rm, "/\0"),
        (SetPerms, "/local\0"),
        (SetPerms, "/local\0q0\0"),
        (SetPerms, "/local\0r0\0\0r1\0"),
        (Watch, "/a\0"),
        (Watch, "/a\0t\0x\0"),
        (Watch, "/a/\0t\0"),
        (Watch, "@\0t\0"),
        (Unwatch, "/a\0"),
        (DirectoryPart, "/\0"),
        (DirectoryPart, "/\0-1\0"),
        (DirectoryPart, "/\x0099999999999\0"),
        (Introduce, "1\0"),
        (Introduce, "0\x001\x001\0"),
        (Introduce, "32752\x001\x001\0"),
        (Introduce, "1\x001\x000\0"),
        (Introduce, "1\0-5\x001\0"),
        (Release, "0\0"),
        (GetDomainPath, "70000\0"),
        (IsDomainIntroduced, "x\0"),
        (Control, "nonsense\0"),
    ] {
        assert_eq!(hands.ask(tool, kind, payload), Err(Errno::EINVAL), "{kind:?} {payload:?}");
    }
    assert_eq!(hands.ask(tool, WatchEvent, "/a\0t\0"), Err(Errno::ENOSYS));
    assert_eq!(hands.ask(tool, Error, "EIO\0"), Err(Errno::ENOSYS));
}

#[test]
fn children_are_listed() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    for name in ["one", "two", "three"] {
        hands.ok(tool, Mkdir, &format!("/d/{name}\0"));
    }
    assert_eq!(hands.ok(tool, Directory, "/d\0"), "one\0three\0two\0");
    assert_eq!(hands.ok(tool, Directory, "/d/one\0"), "");
    assert_eq!(hands.ask(tool, Directory, "/e\0"), Err(Errno::ENOENT));
}

#[test]
fn a_long_list_comes_in_parts() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    let names: Vec<_> = (0..500).map(|n| format!("child-{n:06}")).collect();
    for name in &names {
        hands.ok(tool, Mkdir, &format!("/d/{name}\0"));
    }
    assert_eq!(hands.ask(tool, Directory, "/d\0"), Err(Errno::E2BIG));
    let (mut list, mut generation) = (String::new(), None);
    loop {
        let part = hands.ok(tool, DirectoryPart, &format!("/d\0{}\0", list.len()));
        let (first, rest) = part.split_once('\0').unwrap();
        assert_eq!(generation.get_or_insert(first.to_owned()), first);
        match rest.strip_suffix("\0\0") {
            Some(rest) => {
                list.push_str(rest);
                break;
            }
            None => list.push_str(rest),
        }
    }
    assert_eq!(list.split('\0').collect::<Vec<_>>(), names);
    assert_eq!(hands.ok(tool, DirectoryPart, "/d\x00999999\0").split_once('\0').unwrap().1, "\0");
    let before = hands.ok(tool, DirectoryPart, "/d\x000\0");
    hands.ok(tool, Rm, "/d/child-000499\0");
    assert_ne!(hands.ok(tool, DirectoryPart, "/d\x000\0"), before, "another generation");
}

#[test]
fn removing_takes_all_below() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    hands.ok(tool, Write, "/a/b/c\0x");
    hands.ok(tool, Rm, "/a/nothing\0");
    assert_eq!(hands.ask(tool, Rm, "/no/thing\0"), Err(Errno::ENOENT), "without a parent");
    hands.ok(tool, Rm, "/a\0");
    assert_eq!(hands.ask(tool, Read, "/a/b/c\0"), Err(Errno::ENOENT));
}

#[test]
fn a_domain_writes_at_home_and_nowhere_else() {
    let mut hands = Hands::new();
    let guest = hands.domain(1);
    hands.ok(guest, Write, "device/state\x001");
    assert_eq!(hands.ok(guest, Read, "/local/domain/1/device/state\0"), "1");
    assert_eq!(hands.ok(guest, GetPerms, "device/state\0"), "n1\0");
    for (kind, payload) in [
        (Write, "/local/domain/2/x\0"),
        (Write, "/x\0"),
        (Mkdir, "/local/domain/x\0"),
        (Rm, "/local\0"),
        (SetPerms, "/\0n1\0"),
    ] {
        assert_eq!(hands.ask(guest, kind, payload), Err(Errno::EACCES), "{kind:?} {payload:?}");
    }
    assert_eq!(hands.ask(guest, SetPerms, "device\0n2\0"), Err(Errno::EPERM), "no gift of a node");
    hands.ok(guest, SetPerms, "device\0n1\0r2\0");
}

#[test]
fn permissions_let_others_in() {
    let mut hands = Hands::new();
    let (tool, one, two) = (hands.tool, hands.domain(1), hands.domain(2));
    hands.ok(one, Write, "x\0secret");
    assert_eq!(hands.ask(two, Read, "/local/domain/1/x\0"), Err(Errno::EACCES));
    assert_eq!(hands.ask(two, Read, "/local/domain/1/y\0"), Err(Errno::EACCES), "nor whether it is there");
    hands.ok(one, SetPerms, "x\0n1\0r2\0");
    assert_eq!(hands.ok(two, Read, "/local/domain/1/x\0"), "secret");
    assert_eq!(hands.ask(two, Write, "/local/domain/1/x\0no"), Err(Errno::EACCES));
    hands.ok(one, SetPerms, "x\0n1\0w2\0");
    assert_eq!(hands.ask(two, Read, "/local/domain/1/x\0"), Err(Errno::EACCES));
    hands.ok(two, Write, "/local/domain/1/x\0yes");
    assert_eq!(hands.ok(tool, Read, "/local/domain/1/x\0"), "yes");
    hands.ok(two, Write, "/local/domain/1/x/below\0mine");
    assert_eq!(hands.ok(tool, GetPerms, "/local/domain/1/x/below\0"), "n2\0w2\0");
    assert_eq!(hands.ask(two, GetPerms, "/local/domain/1/x\0"), Err(Errno::EACCES));
}

#[test]
fn only_the_first_domain_rules() {
    let mut hands = Hands::new();
    let guest = hands.domain(1);
    for (kind, payload) in [
        (Introduce, "2\x001\x001\0"),
        (Release, "1\0"),
        (Resume, "1\0"),
        (SetTarget, "1\x000\0"),
        (Control, "print\0"),
        (GetPerms, "@releaseDomain\0"),
        (SetPerms, "@releaseDomain\0r1\0"),
    ] {
        assert_eq!(hands.ask(guest, kind, payload), Err(Errno::EACCES), "{kind:?}");
    }
    assert_eq!(hands.ok(guest, GetDomainPath, "7\0"), "/local/domain/7\0");
    assert_eq!(hands.ok(guest, IsDomainIntroduced, "1\0"), "T\0");
    assert_eq!(hands.ok(guest, IsDomainIntroduced, "7\0"), "F\0");
}

#[test]
fn watches_tell_of_changes_below() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    let other = hands.machine.connect();
    hands.ok(other, Watch, "/a\0token\0");
    assert_eq!(hands.events(other), ["/a token"], "the first comes at once");
    hands.ok(tool, Write, "/a/b/c\0x");
    hands.ok(tool, Write, "/b\0x");
    hands.ok(tool, SetPerms, "/a/b\0r0\0");
    hands.ok(tool, Rm, "/a/b\0");
    assert_eq!(hands.events(other), ["/a/b/c token", "/a/b token"], "one that waits is not said twice");
    hands.ok(tool, Rm, "/a\0");
    assert_eq!(hands.events(other), ["/a token"]);
    assert_eq!(hands.ask(other, Watch, "/a\0token\0"), Err(Errno::EEXIST));
    hands.ok(other, Unwatch, "/a\0token\0");
    assert_eq!(hands.ask(other, Unwatch, "/a\0token\0"), Err(Errno::ENOENT));
    hands.ok(tool, Write, "/a\0x");
    assert!(hands.events(other).is_empty());
}

#[test]
fn a_watch_below_what_is_removed_hears_its_own_name() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    hands.ok(tool, Write, "/a/b/c\0x");
    hands.ok(tool, Watch, "/a/b/c\0deep\0");
    hands.ok(tool, Watch, "/a/b/d\0none\0");
    hands.events(tool);
    hands.ok(tool, Rm, "/a\0");
    assert_eq!(hands.events(tool), ["/a/b/c deep"]);
}

#[test]
fn a_watch_may_be_shallow() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    hands.ok(tool, Watch, "/a\0one\x001\0");
    hands.ok(tool, Watch, "/a\0zero\x000\0");
    hands.events(tool);
    hands.ok(tool, Write, "/a/b/c\0x");
    assert!(hands.events(tool).is_empty());
    hands.ok(tool, Write, "/a/b\0x");
    assert_eq!(hands.events(tool), ["/a/b one"]);
    hands.ok(tool, Write, "/a\0x");
    assert_eq!(hands.events(tool), ["/a one", "/a zero"]);
}

#[test]
fn relative_watches_hear_relative_names() {
    let mut hands = Hands::new();
    let (tool, guest) = (hands.tool, hands.domain(1));
    hands.ok(guest, Watch, "device\0t\0");
    hands.ok(tool, Write, "/local/domain/1/device/vif\0x");
    assert_eq!(hands.events(guest), ["device t", "device/vif t"]);
}

#[test]
fn who_may_not_read_does_not_hear() {
    let mut hands = Hands::new();
    let (one, two) = (hands.domain(1), hands.domain(2));
    hands.ok(two, Watch, "/local/domain/1\0t\0");
    hands.events(two);
    hands.ok(one, Write, "secret\0x");
    assert!(hands.events(two).is_empty());
    hands.ok(one, SetPerms, "secret\0n1\0r2\0");
    assert_eq!(hands.events(two), ["/local/domain/1/secret t"]);
    hands.ok(one, Rm, "secret\0");
    assert_eq!(hands.events(two), ["/local/domain/1/secret t"], "and that it is gone");
}

#[test]
fn transactions_are_seen_at_their_end() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    let other = hands.machine.connect();
    hands.ok(other, Watch, "/a\0t\0");
    hands.events(other);
    let id = hands.begin(tool);
    hands.ask_in(tool, id, Write, b"/a\0new").unwrap();
    assert_eq!(hands.ask_in(tool, id, Read, b"/a\0").unwrap(), "new");
    assert_eq!(hands.ask(other, Read, "/a\0"), Err(Errno::ENOENT));
    assert!(hands.events(other).is_empty());
    hands.ask_in(tool, id, TransactionEnd, b"T\0").unwrap();
    assert_eq!(hands.ok(other, Read, "/a\0"), "new");
    assert_eq!(hands.events(other), ["/a t"]);
    assert_eq!(hands.ask_in(tool, id, Read, b"/a\0"), Err(Errno::ENOENT), "it is over");
}

#[test]
fn a_transaction_that_is_dropped_leaves_nothing() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    let id = hands.begin(tool);
    hands.ask_in(tool, id, Write, b"/a\0new").unwrap();
    hands.ask_in(tool, id, TransactionEnd, b"F\0").unwrap();
    assert_eq!(hands.ask(tool, Read, "/a\0"), Err(Errno::ENOENT));
}

#[test]
fn what_others_changed_ends_a_transaction_that_saw_it() {
    for (kind, payload) in [(Read, "/a\0"), (Directory, "/a\0"), (GetPerms, "/a\0"), (Write, "/a\0mine")] {
        let mut hands = Hands::new();
        let tool = hands.tool;
        hands.ok(tool, Write, "/a\0old");
        let id = hands.begin(tool);
        hands.ask_in(tool, id, kind, payload.as_bytes()).unwrap();
        hands.ok(tool, Write, "/a\0theirs");
        assert_eq!(hands.ask_in(tool, id, TransactionEnd, b"T\0"), Err(Errno::EAGAIN), "{kind:?}");
        assert_eq!(hands.ok(tool, Read, "/a\0"), "theirs");
    }
}

#[test]
fn what_was_missing_and_came_ends_a_transaction_too() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    let id = hands.begin(tool);
    assert_eq!(hands.ask_in(tool, id, Read, b"/a/b\0"), Err(Errno::ENOENT));
    hands.ok(tool, Write, "/a/b\0x");
    assert_eq!(hands.ask_in(tool, id, TransactionEnd, b"T\0"), Err(Errno::EAGAIN));
}

#[test]
fn transactions_in_different_places_do_not_disturb_each_other() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    hands.ok(tool, Mkdir, "/d\0");
    let (one, two) = (hands.begin(tool), hands.begin(tool));
    hands.ask_in(tool, one, Write, b"/d/one\x001").unwrap();
    hands.ask_in(tool, two, Write, b"/d/two\x002").unwrap();
    hands.ask_in(tool, one, TransactionEnd, b"T\0").unwrap();
    hands.ask_in(tool, two, TransactionEnd, b"T\0").unwrap();
    assert_eq!(hands.ok(tool, Directory, "/d\0"), "one\0two\0");
    let lister = hands.begin(tool);
    hands.ask_in(tool, lister, Directory, b"/d\0").unwrap();
    hands.ok(tool, Write, "/d/three\x003");
    assert_eq!(hands.ask_in(tool, lister, TransactionEnd, b"T\0"), Err(Errno::EAGAIN), "a list is seen");
}

#[test]
fn transactions_do_not_nest_and_are_ones_own() {
    let mut hands = Hands::new();
    let (tool, guest) = (hands.tool, hands.domain(1));
    let id = hands.begin(tool);
    assert_eq!(hands.ask_in(tool, id, TransactionStart, b"\0"), Err(Errno::EBUSY));
    assert_eq!(hands.ask_in(guest, id + 7, Read, b"x\0"), Err(Errno::ENOENT));
    assert_eq!(hands.ask_in(tool, id, TransactionEnd, b"?\0"), Err(Errno::EINVAL));
    hands.ask_in(tool, id, TransactionEnd, b"F\0").unwrap();
}

#[test]
fn comings_and_goings_are_told() {
    let mut hands = Hands::new();
    let tool = hands.tool;
    hands.ok(tool, Watch, "@introduceDomain\0in\0");
    hands.ok(tool, Watch, "@releaseDomain\0out\x001\0");
    hands.ok(tool, Watch, "@releaseDomain/5\0five\0");
    hands.events(tool);
    let guest = hands.domain(5);
    assert_eq!(hands.events(tool), ["@introduceDomain in"]);
    hands.machine.shut_down(5, true);
    hands.machine.shut_down(5, true);
    assert_eq!(hands.events(tool), ["@releaseDomain/5 out", "@releaseDomain/5 five"], "once");
    hands.ok(tool, Resume, "5\0");
    hands.machine.shut_down(5, true);
    assert_eq!(hands.events(tool).len(), 2, "and again after it went on");
    hands.ok(guest, Watch, "@releaseDomain\0g\0");
    hands.events(guest);
    hands.domain(6);
    hands.machine.gone(6);
    assert!(hands.events(guest).is_empty(), "not for everybody");
    hands.ok(tool, SetPerms, "@releaseDomain\0n0\0r5\0");
    assert_eq!(hands.ok(tool, GetPerms, "@releaseDomain\0"), "n0\0r5\0");
    hands.domain(6);
    hands.machine.gone(6);
    assert_eq!(hands.events(guest), ["@releaseDomain g"]);
}

#[test]
fn a_domain_that_is_gone_leaves_nothing_to_the_next_of_its_number() {
    let mut hands = Hands::new();
    let (tool, _) = (hands.tool, hands.domain(5));
    hands.ok(tool, Write, "/shared\0x");
    hands.ok(tool, SetPerms, "/shared\0n0\0b5\0r6\0");
    hands.ok(tool, Watch, "/local/domain/5\0t\0");
    hands.events(tool);
    hands.ok(tool, Release, "5\0");
    assert_eq!(hands.events(tool), ["/local/domain/5 t"]);
    assert_eq!(hands.ask(tool, Read, "/local/domain/5\0"), Err(Errno::ENOENT));
    assert_eq!(hands.ok(tool, GetPerms, "/shared\0"), "n0\0r6\0");
    assert_eq!(hands.ask(tool, Release, "5\0"), Err(Errno::ENOENT));
    let again = hands.domain(5);
    assert_eq!(hands.ask(again, Read, "/shared\0"), Err(Errno::EACCES));
}

#[test]
fn a_target_may_be_acted_for() {
    let mut hands = Hands::new();
    let (tool, helper, _) = (hands.tool, hands.domain(3), hands.domain(4));
    assert_eq!(hands.ask(helper, Write, "/local/domain/4/x\0"), Err(Errno::EACCES));
    assert_eq!(hands.ask(tool, SetTarget, "3\x009\0"), Err(Errno::ENOENT));
    hands.ok(tool, SetTarget, "3\x004\0");
    hands.ok(helper, Write, "/local/domain/4/x\0");
    hands.machine.gone(4);
    hands.domain(4);
    assert_eq!(hands.ask(helper, Write, "/local/domain/4/x\0"), Err(Errno::EACCES), "not the next");
}

#[test]
fn watches_and_transactions_can_be_reset() {
    let mut hands = Hands::new();
    let (tool, guest) = (hands.tool, hands.domain(1));
    hands.ok(guest, Watch, "x\0t\0");
    let id = hands.begin(guest);
    hands.events(guest);
    hands.ok(guest, ResetWatches, "\0");
    hands.ok(tool, Write, "/local/domain/1/x\0");
    assert!(hands.events(guest).is_empty());
    assert_eq!(hands.ask_in(guest, id, TransactionEnd, b"T\0"), Err(Errno::ENOENT));
}

#[test]
fn the_daemon_takes_commands() {
    let mut hands = Hands::new();
    let (tool, _) = (hands.tool, hands.domain(1));
    assert_eq!(hands.ok(tool, Control, "check\0"), "OK\0");
    assert!(hands.ok(tool, Control, "print\0").starts_with("nodes "));
    assert!(hands.ok(tool, Control, "quota\0").contains("nodes: 1000\n"));
    hands.ok(tool, Control, "quota\0set\0nodes\x002000\0");
    assert_eq!(hands.machine.limits().nodes, 2000);
    assert!(hands.ok(tool, Control, "quota\x001\0").starts_with("nodes: 1\n"));
    assert_eq!(hands.ask(tool, Control, "quota\0set\0nonsense\x002000\0"), Err(Errno::EINVAL));
}
