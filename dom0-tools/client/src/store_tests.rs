use super::*;
use std::os::unix::net::UnixListener;
use std::thread;

/// A store that answers from a script: for each request, the messages to send. What was asked comes back.
fn scripted(script: Vec<Vec<(Kind, &'static [u8])>>) -> (Store, thread::JoinHandle<Vec<Message>>) {
    let (client, mut server) = UnixStream::pair().unwrap();
    let answers = thread::spawn(move || {
        let mut asked = Vec::new();
        let mut input = Vec::new();
        for answers in script {
            let message = loop {
                if let Some((message, len)) = wire::decode(&input).unwrap() {
                    input.drain(..len);
                    break message;
                }
                let mut bytes = [0; 512];
                let len = server.read(&mut bytes).unwrap();
                assert_ne!(len, 0, "the client closed");
                input.extend_from_slice(&bytes[..len]);
            };
            for (kind, payload) in answers {
                let request = if kind == Kind::WatchEvent { 0 } else { message.request };
                let mut bytes = Vec::new();
                Message::new(kind, request, message.transaction, payload.to_vec()).encode(&mut bytes);
                // In two parts: the client must not depend on whole messages.
                server.write_all(&bytes[..5]).unwrap();
                server.write_all(&bytes[5..]).unwrap();
            }
            asked.push(message);
        }
        asked
    });
    (Store::new(Way::Socket(client)), answers)
}

#[test]
fn events_wait_while_a_request_is_answered() {
    let (mut store, asked) = scripted(vec![
        vec![(Kind::WatchEvent, b"/a\0t\0"), (Kind::Read, b"value")],
        vec![(Kind::Error, b"ENOENT\0")],
    ]);
    assert!(!store.has_unread());
    assert_eq!(store.read_text("/x").unwrap(), "value");
    assert!(store.read_opt("/y").unwrap().is_none());
    assert!(store.has_unread(), "though there is nothing more to read");
    let event = store.next_event(Some(Duration::ZERO)).unwrap().unwrap();
    assert!(!store.has_unread());
    assert_eq!((event.path.as_str(), event.token.as_str()), ("/a", "t"));
    // The other end closes when its thread ends.
    assert!(store.next_event(Some(Duration::from_secs(30))).is_err(), "the other end has gone");
    assert_eq!(asked.join().unwrap()[0].payload, b"/x\0");
}

#[test]
fn changes_are_asked_for_together_and_the_first_refusal_is_told() {
    let (mut store, asked) = scripted(vec![
        vec![(Kind::Write, b"OK\0")],
        vec![(Kind::WatchEvent, b"/a\0t\0"), (Kind::Error, b"EACCES\0")],
        vec![(Kind::Error, b"ENOSPC\0")],
        vec![(Kind::Read, b"x")],
    ]);
    let changes = [
        Change::Write("/a".to_owned(), b"one".to_vec()),
        Change::Permissions("/b".to_owned(), vec![Permission::none(0), Permission::read(3)]),
        Change::Write("/c".to_owned(), Vec::new()),
    ];
    let error = store.change(&changes).unwrap_err();
    assert!(matches!(error, StoreError::Refused { path, errno: Errno::EACCES } if path == "/b"));
    assert_eq!(store.read_text("/a").unwrap(), "x", "all answers were taken");
    let asked: Vec<_> = asked.join().unwrap().into_iter().map(|message| message.payload).collect();
    assert_eq!(asked[..3], [&b"/a\0one"[..], b"/b\0n0\0r3\0", b"/c\0"]);
}

#[test]
fn a_transaction_is_tried_again_and_numbers_its_requests() {
    let (mut store, asked) = scripted(vec![
        vec![(Kind::TransactionStart, b"7\0")],
        vec![(Kind::Write, b"OK\0")],
        vec![(Kind::Error, b"EAGAIN\0")],
        vec![(Kind::TransactionStart, b"8\0")],
        vec![(Kind::Write, b"OK\0")],
        vec![(Kind::TransactionEnd, b"OK\0")],
        vec![(Kind::Read, b"")],
    ]);
    store.transaction(|store| store.write("/a", "1")).unwrap();
    store.read("/a").unwrap();
    let numbers: Vec<_> = asked.join().unwrap().iter().map(|message| message.transaction).collect();
    assert_eq!(numbers, [0, 7, 7, 0, 8, 8, 0]);
}

#[test]
fn steps_that_fail_end_the_transaction_without_doing_it() {
    let (mut store, asked) = scripted(vec![
        vec![(Kind::TransactionStart, b"7\0")],
        vec![(Kind::Error, b"EACCES\0")],
        vec![(Kind::TransactionEnd, b"OK\0")],
    ]);
    let error = store.transaction(|store| store.write("/a", "1")).unwrap_err();
    assert_eq!(error.errno(), Some(Errno::EACCES));
    assert_eq!(asked.join().unwrap()[2].payload, b"F\0");
}

#[test]
fn a_long_list_comes_in_parts() {
    let (mut store, asked) = scripted(vec![
        vec![(Kind::Error, b"E2BIG\0")],
        vec![(Kind::DirectoryPart, b"5\0one\0two\0")],
        vec![(Kind::DirectoryPart, b"6\0late\0")],
        vec![(Kind::DirectoryPart, b"6\0one\0two\0")],
        vec![(Kind::DirectoryPart, b"6\0three\0\0")],
    ]);
    assert_eq!(store.directory("/d").unwrap(), ["one", "two", "three"]);
    let asked = asked.join().unwrap();
    assert_eq!(asked[2].payload, b"/d\x008\0");
    assert_eq!(asked[3].payload, b"/d\x000\0", "it changed: from the start");
}

#[test]
fn an_answer_to_nothing_is_refused() {
    let (client, mut server) = UnixStream::pair().unwrap();
    let mut store = Store::new(Way::Socket(client));
    let mut bytes = Vec::new();
    Message::new(Kind::Read, 99, 0, Vec::new()).encode(&mut bytes);
    server.write_all(&bytes).unwrap();
    assert!(matches!(store.read("/a"), Err(StoreError::Protocol(_))));
}

#[test]
fn permissions_are_a_letter_and_a_number() {
    assert_eq!(Permission::parse("b12"), Some(Permission::both(12)));
    assert_eq!(Permission::none(3).text(), "n3");
    assert_eq!(Permission::read(0).text(), "r0");
    for bad in ["", "b", "x1", "b65536", "b-1", "b+1", "bé"] {
        assert_eq!(Permission::parse(bad), None, "{bad}");
    }
}

#[test]
fn too_long_a_request_is_not_sent() {
    let (client, _server) = UnixStream::pair().unwrap();
    let mut store = Store::new(Way::Socket(client));
    assert_eq!(store.write("/a", [0; 4096]).unwrap_err().errno(), Some(Errno::E2BIG));
}

#[test]
fn a_daemon_that_ended_is_given_time_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let name = path.to_str().unwrap();
    let open = |patience| Store::open_at(&["/nowhere/socket", name], &["/nowhere/device"], patience);
    let none = open(Duration::from_secs(60)).unwrap_err().to_string();
    assert!(none.contains(name) && none.contains("/nowhere/device"), "{none}");
    // Its socket stays.
    drop(UnixListener::bind(&path).unwrap());
    let deserted = open(Duration::ZERO).unwrap_err().to_string();
    assert!(deserted.contains("nobody listens"), "{deserted}");
    let back = thread::spawn({
        let path = path.clone();
        move || {
            thread::sleep(Duration::from_millis(300));
            std::fs::remove_file(&path).unwrap();
            let listener = UnixListener::bind(&path).unwrap();
            listener.accept().map(drop)
        }
    });
    open(Duration::from_secs(60)).unwrap();
    back.join().unwrap().unwrap();
}
