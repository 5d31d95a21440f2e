//! Random clients: against a model that could not be simpler, against the snapshot, and with bytes that mean nothing.

mod common;

use common::{Hands, World};
use guest_abi::Errno;
use lith_client::wire::{self, Kind};
use lith_xenstore::{ConnectionId, Machine, Step};
use proptest::prelude::*;
use std::collections::BTreeMap;

/// The store as one would first write it: a map from path to value, owner and who else may write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Model {
    nodes: BTreeMap<String, (Vec<u8>, u16)>,
}

impl Model {
    fn nearest<'p>(&self, path: &'p str) -> &'p str {
        let mut at = path;
        while !self.nodes.contains_key(at) {
            at = above(at);
        }
        at
    }

    fn may(&self, domid: u16, path: &str) -> bool {
        domid == 0 || self.nodes[self.nearest(path)].1 == domid
    }

    fn write(&mut self, domid: u16, path: &str, value: &[u8]) -> Result<(), Errno> {
        if !self.may(domid, path) {
            return Err(Errno::EACCES);
        }
        let owner = if domid == 0 { self.nodes[self.nearest(path)].1 } else { domid };
        let mut at = path;
        while !self.nodes.contains_key(at) {
            self.nodes.insert(at.to_owned(), (Vec::new(), owner));
            at = above(at);
        }
        self.nodes.get_mut(path).unwrap().0 = value.to_vec();
        Ok(())
    }

    fn remove(&mut self, domid: u16, path: &str) -> Result<(), Errno> {
        if !self.may(domid, path) {
            return Err(Errno::EACCES);
        }
        if !self.nodes.contains_key(path) {
            return if self.nodes.contains_key(above(path)) { Ok(()) } else { Err(Errno::ENOENT) };
        }
        self.nodes.retain(|node, _| node != path && !node.starts_with(&format!("{path}/")));
        Ok(())
    }

    fn read(&self, domid: u16, path: &str) -> Result<Vec<u8>, Errno> {
        if !self.may(domid, path) {
            return Err(Errno::EACCES);
        }
        self.nodes.get(path).map(|node| node.0.clone()).ok_or(Errno::ENOENT)
    }
}

fn above(path: &str) -> &str {
    match path.rfind('/') {
        Some(0) | None => "/",
        Some(at) => &path[..at],
    }
}

#[derive(Clone, Debug)]
enum Do {
    Write(u8),
    Remove,
    Read,
    Begin,
    End(bool),
}

/// What one step does: who, in its transaction if it has one, where, what.
fn steps() -> impl Strategy<Value = Vec<(usize, bool, String, Do)>> {
    let part = prop_oneof![Just("a"), Just("b"), Just("c")];
    let path = (0..3usize, proptest::collection::vec(part, 0..3)).prop_map(|(domid, parts)| {
        parts.iter().fold(format!("/local/domain/{domid}"), |path, part| path + "/" + part)
    });
    let what = prop_oneof![
        4 => any::<u8>().prop_map(Do::Write),
        1 => Just(Do::Remove),
        3 => Just(Do::Read),
        1 => Just(Do::Begin),
        1 => any::<bool>().prop_map(Do::End),
    ];
    proptest::collection::vec((0..3usize, any::<bool>(), path, what), 1..60)
}

/// One client's transaction: its number, the model as it sees it, and what it has done.
struct Open {
    number: u32,
    view: Model,
    changes: u32,
    done: Vec<(String, Do, Result<Vec<u8>, Errno>)>,
}

fn act(model: &mut Model, domid: u16, path: &str, what: &Do) -> Result<Vec<u8>, Errno> {
    match what {
        Do::Write(value) => model.write(domid, path, &[*value]).map(|()| b"OK\0".to_vec()),
        Do::Remove => model.remove(domid, path).map(|()| b"OK\0".to_vec()),
        _ => model.read(domid, path),
    }
}

fn send(hands: &mut Hands, id: ConnectionId, tx: u32, path: &str, what: &Do) -> Result<Vec<u8>, Errno> {
    let (kind, payload) = match what {
        Do::Write(value) => (Kind::Write, [path.as_bytes(), b"\0", &[*value]].concat()),
        Do::Remove => (Kind::Rm, [path.as_bytes(), b"\0"].concat()),
        _ => (Kind::Read, [path.as_bytes(), b"\0"].concat()),
    };
    let bytes_of = |text: String| match what {
        Do::Read => text.chars().map(|c| c as u32 as u8).collect(),
        _ => text.into_bytes(),
    };
    hands.ask_in(id, tx, kind, &payload).map(bytes_of)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Whatever clients do, the store answers as the model; and a transaction that is committed is as if all of it had
    /// happened at its end.
    #[test]
    fn the_store_is_its_model(steps in steps()) {
        let mut hands = Hands::new();
        let ids = [hands.tool, hands.domain(1), hands.domain(2)];
        let mut model = Model { nodes: BTreeMap::new() };
        for (path, owner) in [("/", 0), ("/local", 0), ("/local/domain", 0), ("/local/domain/1", 1), ("/local/domain/2", 2)] {
            model.nodes.insert(path.to_owned(), (Vec::new(), owner));
        }
        let mut changes = 0;
        let mut open: [Option<Open>; 3] = [None, None, None];
        for (who, inside, path, what) in steps {
            let what = match what { Do::Write(value) => Do::Write(value & 0x7f), other => other };
            let domid = who as u16;
            for id in ids {
                hands.events(id);
            }
            match (&what, &mut open[who]) {
                (Do::Begin, slot @ None) => {
                    *slot = Some(Open { number: hands.begin(ids[who]), view: model.clone(), changes, done: Vec::new() });
                }
                (Do::Begin, _) | (Do::End(_), None) => {}
                (Do::End(commit), slot) => {
                    let ended = slot.take().unwrap();
                    let word: &[u8] = if *commit { b"T\0" } else { b"F\0" };
                    let result = hands.ask_in(ids[who], ended.number, Kind::TransactionEnd, word);
                    if *commit && result.is_ok() {
                        changes += 1;
                        for (path, what, saw) in &ended.done {
                            prop_assert_eq!(&act(&mut model, domid, path, what), saw, "as if done now");
                        }
                    } else if *commit {
                        prop_assert_eq!(result, Err(Errno::EAGAIN));
                        prop_assert!(changes != ended.changes, "nothing happened meanwhile");
                    }
                }
                (_, Some(open)) if inside => {
                    let expected = act(&mut open.view, domid, &path, &what);
                    if domid == 0 || expected != Err(Errno::EACCES) {
                        let got = send(&mut hands, ids[who], open.number, &path, &what);
                        prop_assert_eq!(&got, &expected, "{:?} {} inside", what, path);
                        open.done.push((path, what, expected));
                    }
                }
                _ => {
                    let expected = act(&mut model, domid, &path, &what);
                    changes += u32::from(expected.is_ok() && !matches!(what, Do::Read));
                    let got = send(&mut hands, ids[who], 0, &path, &what);
                    prop_assert_eq!(got, expected, "{:?} {} by {}", what, path, domid);
                }
            }
            prop_assert!(hands.machine.is_consistent());
        }
        for (path, (value, _)) in &model.nodes {
            prop_assert_eq!(hands.machine.value(path), Some(&value[..]), "{}", path);
        }
    }

    /// A store made from a snapshot is the same store, whatever was going on.
    #[test]
    fn a_snapshot_is_the_store(steps in steps(), read in any::<bool>()) {
        let mut hands = Hands::new();
        let ids = [hands.tool, hands.domain(1), hands.domain(2)];
        for id in ids {
            let _ = hands.ask(id, Kind::Watch, "/local\0t\x003\0");
        }
        let mut inside = [0; 3];
        for (who, _, path, what) in steps {
            if read || hands.machine.peek(ids[who], usize::MAX).len() > 200 {
                hands.events(ids[who]);
            }
            match what {
                Do::Begin if inside[who] == 0 => inside[who] = hands.begin(ids[who]),
                Do::End(_) | Do::Begin => {}
                what => drop(send(&mut hands, ids[who], inside[who], &path, &what)),
            }
        }
        hands.machine.sent(ids[0], 5);
        hands.machine.feed(ids[1], b"half");
        let saved = hands.machine.save();
        let mut loaded = Machine::load(&saved).expect("what was saved");
        prop_assert_eq!(loaded.save(), saved);
        for id in ids {
            prop_assert_eq!(loaded.peek(id, usize::MAX), hands.machine.peek(id, usize::MAX));
        }
    }

    /// Bytes that mean nothing change nothing but the connection they come from.
    #[test]
    fn bytes_that_mean_nothing_do_nothing(
        messages in proptest::collection::vec((0u32..26, any::<u32>(), 0u32..3, proptest::collection::vec(any::<u8>(), 0..80)), 1..40),
        cut in 1usize..40,
    ) {
        let mut hands = Hands::new();
        let guest = hands.domain(1);
        let mut bytes = Vec::new();
        for (kind, request, tx, payload) in &messages {
            wire::encode(&mut bytes, *kind, *request, *tx, &[payload]);
        }
        for part in bytes.chunks(cut) {
            hands.machine.feed(guest, part);
            while hands.machine.step(guest, &mut World) == Step::Done {
                hands.events(guest);
            }
        }
        prop_assert_eq!(hands.machine.unread(guest), 0, "each is answered");
        prop_assert!(hands.machine.is_consistent());
        prop_assert_eq!(hands.ok(hands.tool, Kind::Directory, "/\0"), "local\0tool\0");
    }

    /// Nor do bytes that are no messages at all, nor a snapshot of them.
    #[test]
    fn garbage_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let mut machine = Machine::new();
        let id = machine.connect();
        machine.feed(id, &bytes);
        while machine.step(id, &mut World) == Step::Done {}
        prop_assert!(machine.is_consistent());
        let _ = Machine::load(&bytes);
        let mut saved = machine.save();
        if let Some(byte) = bytes.first() {
            let at = usize::from(*byte) % saved.len();
            saved[at] = saved[at].wrapping_add(1);
            let _ = Machine::load(&saved);
        }
    }
}
