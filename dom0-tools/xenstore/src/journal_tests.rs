use super::*;
use lith_client::wire::{self, Kind};

fn request(kind: Kind, request: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    wire::encode(&mut bytes, kind as u32, request, 0, &[payload]);
    bytes
}

fn note(journal: &mut Journal, machine: &mut Machine, entry: Entry) {
    apply(machine, &entry);
    journal.note(&entry);
}

#[test]
fn entries_come_back() {
    let id = ConnectionId(300);
    let outcome = Outcome { introduce: Some(Err(Errno::EINVAL)), command: Some("done".to_owned()) };
    for entry in [
        Entry::Connect,
        Entry::ConnectKernel,
        Entry::Disconnect(id),
        Entry::Feed(id, b"abc".to_vec()),
        Entry::Step(id, outcome),
        Entry::Step(id, Outcome::default()),
        Entry::Step(id, Outcome { introduce: Some(Ok(())), command: None }),
        Entry::Sent(id, 1000),
        Entry::StartOver(id),
        Entry::RestartStream(id),
        Entry::Gone(7),
        Entry::ShutDown(7, true),
    ] {
        let bytes = encode(&entry);
        let mut from = Reader(&bytes);
        let kind = from.number().unwrap();
        assert_eq!(decode(kind, &mut from), Some(entry));
        assert!(from.0.is_empty());
    }
}

#[test]
fn a_daemon_killed_at_any_byte_of_its_journal_has_a_state_that_was() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut journal, found) = Journal::open(&path, b"boot").unwrap();
    assert!(found.is_none());
    let mut machine = Machine::new();
    let id = ConnectionId(1);
    let mut states = vec![(machine.clone().save(), Indices::default())];
    let step = || Entry::Step(id, Outcome::default());
    for entry in [
        Entry::ConnectKernel,
        Entry::Feed(id, request(Kind::Watch, 1, b"/a\0t\0")),
        step(),
        Entry::Sent(id, 30),
        Entry::Feed(id, request(Kind::Write, 2, b"/a/b\0value")),
        step(),
        Entry::Sent(id, 11),
        Entry::Feed(id, request(Kind::Rm, 3, b"/a\0")[..9].to_vec()),
    ] {
        note(&mut journal, &mut machine, entry);
        journal.flush().unwrap();
        states.push((machine.clone().save(), journal.indices(id)));
    }
    let bytes = std::fs::read(&path).unwrap();
    let mut seen = 0;
    for cut in 0..=bytes.len() {
        let Some(mut recovered) = recover(&bytes[..cut], b"boot") else { continue };
        let indices = recovered.indices.get(&id).copied().unwrap_or_default();
        let state = (recovered.machine.save(), indices);
        let at = states.iter().position(|known| *known == state).expect("a state that was");
        assert!(at >= seen, "time does not run backwards");
        seen = at;
    }
    assert_eq!(seen, states.len() - 1, "and whole, it is the last");
}

#[test]
fn another_boots_journal_is_nobodys() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (journal, _) = Journal::open(&path, b"one").unwrap();
    drop(journal);
    assert!(Journal::open(&path, b"one").unwrap().1.is_some());
    assert!(Journal::open(&path, b"two").unwrap().1.is_none());
}

#[test]
fn a_journal_written_anew_holds_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("state");
    let (mut journal, _) = Journal::open(&path, b"boot").unwrap();
    let mut machine = Machine::new();
    let id = ConnectionId(1);
    note(&mut journal, &mut machine, Entry::ConnectKernel);
    journal.set_indices(id, Indices { taken: u32::MAX, given: 5 });
    note(&mut journal, &mut machine, Entry::Feed(id, b"ab".to_vec()));
    journal.flush().unwrap();
    let before = recover(&std::fs::read(&path).unwrap(), b"boot").unwrap();
    journal.rewrite(&mut machine).unwrap();
    let mut after = recover(&std::fs::read(&path).unwrap(), b"boot").unwrap();
    assert_eq!(after.indices, before.indices);
    assert_eq!(after.indices[&id], Indices { taken: 1, given: 5 });
    assert_eq!(after.machine.save(), machine.save());
}
