//! The screen of `top`: how it looks, kept as text, what keys do to it, and the shares that it shows.
#![cfg(feature = "tui")]

mod common;

use common::golden;
use guest_abi::control::{DOMAIN_BLOCKED, DOMAIN_PAUSED, DOMAIN_RUNNING, DOMAIN_SHUTDOWN};
use lith::host::fake::Fake;
use lith::host::{Hypervisor, NewDomain, Store, System};
use lith::verb::top::{Act, Action, Id, Key, Look, Rate, Sample, State, act};
use proptest::prelude::*;
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::style::Color;
use std::time::Duration;

const DB: &str = "db-with-a-long-name";
const MS: u64 = 1_000_000;
const DELAY: Duration = Duration::from_secs(2);

/// A guest that runs.
fn guest(host: &Fake, name: &str, mib: u64, vcpus: u32) -> u32 {
    let pages = mib << 8;
    let new = NewDomain { max_vcpus: vcpus, max_pages: pages * 2, ..NewDomain::default() };
    let domid = host.create(&new).unwrap();
    host.set_vcpus(domid, vcpus).unwrap();
    host.populate(domid, 0, 0, pages).unwrap();
    host.start_registers(domid, &Default::default()).unwrap();
    host.write(&format!("/local/domain/{domid}/name"), name).unwrap();
    host.unpause(domid).unwrap();
    domid
}

/// dom0 and three guests; `db` wants more than it gets, `old` is paused.
fn machine() -> Fake {
    let host = Fake::new();
    host.add_file("/proc/sys/kernel/hostname", b"rack7\n");
    guest(&host, "web", 64, 1);
    guest(&host, DB, 128, 2);
    guest(&host, "old", 32, 1);
    host.pause(3).unwrap();
    host.set_affinity(2, 1, Some(&[0b0011]), Some(&[0b0010])).unwrap();
    host
}

/// Two seconds in which they do different things.
fn pass(host: &Fake) {
    host.sleep(DELAY);
    host.spend(0, [200 * MS, 20 * MS, 1780 * MS, 0], DOMAIN_RUNNING);
    host.spend(1, [100 * MS, 0, 1900 * MS, 0], DOMAIN_BLOCKED);
    host.spend(2, [1000 * MS, 500 * MS, 500 * MS, 0], DOMAIN_RUNNING);
    host.spend(3, [0, 0, 2000 * MS, 0], 0);
}

fn state(host: &Fake) -> State {
    let mut state = State::new(host, Look::default(), DELAY).unwrap();
    for _ in 0..3 {
        pass(host);
        state.sample(host);
    }
    state
}

/// One with `db` selected.
fn state_on_db(host: &Fake) -> State {
    let mut state = state(host);
    state.key(Key::Home);
    assert_eq!(selected_name(&state), Some(DB));
    state
}

fn keys(state: &mut State, text: &str) {
    for c in text.chars() {
        assert_eq!(state.key(Key::Char(c)), Action::None, "{c}");
    }
}

fn drawn(state: &mut State, width: u16, height: u16) -> TestBackend {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| state.draw(frame)).unwrap();
    terminal.backend().clone()
}

fn screen(state: &mut State, width: u16, height: u16) -> String {
    let backend = drawn(state, width, height);
    let cells = backend.buffer().content();
    let line = |cells: &[ratatui::buffer::Cell]| cells.iter().map(|cell| cell.symbol()).collect::<String>();
    cells.chunks(width.into()).map(|cells| line(cells).trim_end().to_owned() + "\n").collect()
}

fn selected_name(state: &State) -> Option<&str> {
    state.selected().and_then(|id| state.name(id))
}

#[test]
fn screens_of_different_sizes() {
    let host = machine();
    let mut state = state(&host);
    golden("top-120x30.txt", &screen(&mut state, 120, 30));
    golden("top-80x24.txt", &screen(&mut state, 80, 24));
    golden("top-40x10.txt", &screen(&mut state, 40, 10));
    golden("top-20x4.txt", &screen(&mut state, 20, 4));
}

#[test]
fn help_lies_over_it() {
    let host = machine();
    let mut state = state_on_db(&host);
    keys(&mut state, "?");
    golden("top-help.txt", &screen(&mut state, 80, 24));
    keys(&mut state, "q");
    assert!(!screen(&mut state, 80, 24).contains("+ keys -"));
}

#[test]
fn vcpus_of_the_selected_domain() {
    let host = machine();
    let mut state = state_on_db(&host);
    keys(&mut state, "v");
    golden("top-vcpus.txt", &screen(&mut state, 80, 24));
    // Questions and help leave what is shown.
    for (asks, answer) in [("p", Key::Char('n')), ("?", Key::Char('q')), ("d", Key::Escape)] {
        keys(&mut state, asks);
        state.key(answer);
        assert!(screen(&mut state, 80, 24).contains("MAY RUN ON"), "{asks} {answer:?}");
    }
    // It goes while it is looked at.
    host.destroy(2).unwrap();
    state.sample(&host);
    let screen = screen(&mut state, 80, 24);
    assert!(!screen.contains("MAY RUN ON") && screen.contains("Domain-0"), "{screen}");
}

#[test]
fn nothing_is_done_without_a_yes() {
    let host = machine();
    let mut state = state_on_db(&host);
    keys(&mut state, "p");
    let asked = screen(&mut state, 80, 24);
    golden("top-confirm.txt", &asked);
    keys(&mut state, "n");
    assert!(screen(&mut state, 80, 24).contains("nothing was done"));
    keys(&mut state, "p");
    let id = state.selected().unwrap();
    assert_eq!(state.key(Key::Char('y')), Action::Act(Act::Pause, id));
    state.done(act(&host, Act::Pause, id));
    state.sample(&host);
    assert!(host.fake_domain(id.0).unwrap().info.state & DOMAIN_PAUSED != 0);
    assert!(screen(&mut state, 80, 24).contains("db-with-a-long-name is paused"));
    keys(&mut state, "p");
    assert_eq!(state.key(Key::Char('Y')), Action::Act(Act::Unpause, id));
}

#[test]
fn errors_are_told_and_end_nothing() {
    let host = machine();
    let mut state = state_on_db(&host);
    let id = state.selected().unwrap();
    // Shutting down is the store's, and a paused guest would not hear of it.
    host.pause(id.0).unwrap();
    state.done(act(&host, Act::Shutdown, id));
    assert!(screen(&mut state, 80, 24).contains("is paused, and cannot do it (`lith unpause` first"));
    host.unpause(id.0).unwrap();
    assert!(act(&host, Act::Shutdown, id).unwrap().ends_with("is asked to power off"));
    host.sleep(DELAY);
    assert!(host.fake_domain(id.0).unwrap().info.state & DOMAIN_SHUTDOWN != 0);
    host.refuse("pause", 22, "not now");
    state.done(act(&host, Act::Pause, id));
    assert!(screen(&mut state, 80, 24).contains("pause: not valid (`lith why` shows"));
    // Neither dom0, nor another domain of the number that was meant.
    assert!(act(&host, Act::Pause, (0, 0)).unwrap_err().message.contains("dom0"));
    assert!(act(&host, Act::Pause, (id.0, 1)).unwrap_err().message.contains("is gone"));
    keys(&mut state, "i");
    state.key(Key::Home);
    keys(&mut state, "p");
    assert!(screen(&mut state, 80, 24).contains("this is not done to dom0"));
    keys(&mut state, "n");
    // A look that fails leaves what was seen, and says so until one succeeds.
    host.refuse("host_info", 16, "busy");
    state.sample(&host);
    let text = screen(&mut state, 80, 24);
    assert!(text.contains("Domain-0") && text.contains("not to be seen: host_info: busy"), "{text}");
}

#[test]
fn domains_are_sorted_and_the_selection_stays() {
    let host = machine();
    let mut state = state(&host);
    assert_eq!(state.names(), [DB, "Domain-0", "web", "old"]);
    state.key(Key::Home);
    state.key(Key::Down);
    state.key(Key::Char('j'));
    assert_eq!(state.selected().unwrap().0, 1);
    for (key, order) in [
        ('w', [DB, "Domain-0", "web", "old"]),
        ('m', ["Domain-0", DB, "web", "old"]),
        ('n', ["Domain-0", DB, "old", "web"]),
        ('i', ["Domain-0", "web", DB, "old"]),
        ('r', ["old", DB, "web", "Domain-0"]),
        ('c', ["old", "web", "Domain-0", DB]),
    ] {
        keys(&mut state, &key.to_string());
        assert_eq!(state.names(), order, "{key}");
        assert_eq!(state.selected().unwrap().0, 1, "{key}");
    }
    keys(&mut state, "r");
    // It becomes the first of all, and is still the selected one.
    host.sleep(DELAY);
    host.spend(1, [2000 * MS, 0, 0, 0], DOMAIN_RUNNING);
    state.sample(&host);
    assert_eq!((state.names()[0], state.selected().unwrap().0), ("web", 1));
    for (key, domid) in [(Key::End, 3), (Key::Home, 1), (Key::PageDown, 3), (Key::PageUp, 1), (Key::Up, 1)] {
        screen(&mut state, 80, 24);
        state.key(key);
        assert_eq!(state.selected().unwrap().0, domid, "{key:?}");
    }
    // In the place of one that is gone is the next.
    host.destroy(1).unwrap();
    pass(&host);
    state.sample(&host);
    assert_eq!(selected_name(&state), Some(state.names()[0]));
}

#[test]
fn a_long_list_is_scrolled_to_the_selection() {
    let host = Fake::new();
    for n in 0..40 {
        guest(&host, &format!("guest{n:02}"), 1, 1);
    }
    let mut state = State::new(&host, Look::default(), DELAY).unwrap();
    keys(&mut state, "i");
    screen(&mut state, 60, 10);
    for key in [Key::Home, Key::PageDown, Key::PageDown, Key::PageUp, Key::End, Key::Home] {
        state.key(key);
        let text = screen(&mut state, 60, 10);
        let marked: Vec<_> = text.lines().filter(|line| line.starts_with('>')).collect();
        assert!(marked.len() == 1 && marked[0].contains(selected_name(&state).unwrap()), "{key:?}: {text}");
        assert_eq!(
            text.lines().filter(|line| line.contains("guest") || line.contains("Domain-0")).count(),
            5
        );
    }
}

#[test]
fn the_delay_is_typed_and_stepped() {
    let host = machine();
    let mut state = state(&host);
    let type_in = |state: &mut State, text: &str| {
        keys(state, "d");
        keys(state, text);
        state.key(Key::Enter);
        state.delay().unwrap().as_millis()
    };
    assert_eq!(type_in(&mut state, "0.5"), 500);
    for wrong in ["0", "99999", "1.2.3", ""] {
        assert_eq!(type_in(&mut state, wrong), 500, "{wrong}");
        assert!(screen(&mut state, 80, 24).contains("is no number of seconds"));
    }
    keys(&mut state, "s12q");
    state.key(Key::Backspace);
    assert!(screen(&mut state, 80, 24).contains("two looks: 1_"));
    assert_eq!(state.key(Key::Escape), Action::None);
    keys(&mut state, "-----------");
    assert_eq!(state.delay(), Some(Duration::from_millis(100)));
    keys(&mut state, "++++++++++");
    assert_eq!(state.delay(), Some(Duration::from_secs(2)));
    keys(&mut state, " ");
    assert_eq!(state.delay(), None);
    assert!(screen(&mut state, 80, 24).contains("frozen"));
}

#[test]
fn keys_that_quit() {
    let host = machine();
    let mut state = state_on_db(&host);
    for (before, key, quits) in [
        ("", Key::Char('q'), true),
        ("", Key::Escape, true),
        ("", Key::Interrupt, true),
        ("v", Key::Escape, false),
        ("v", Key::Char('q'), true),
        ("?", Key::Escape, false),
        ("S", Key::Escape, false),
        ("d", Key::Escape, false),
        ("S", Key::Interrupt, true),
    ] {
        keys(&mut state, before);
        assert_eq!(state.key(key) == Action::Quit, quits, "{before} {key:?}");
        state.key(Key::Escape);
    }
}

/// Only what is to be told apart has a colour, and none without colours.
#[test]
fn colours_are_an_addition() {
    let host = machine();
    let mut plain = state(&host);
    let colours = |state: &mut State| {
        let backend = drawn(state, 120, 30);
        backend
            .buffer()
            .content()
            .iter()
            .filter(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset)
            .count()
    };
    assert_eq!(colours(&mut plain), 0);
    let mut coloured = State::new(&host, Look { colour: true, unicode: false }, DELAY).unwrap();
    pass(&host);
    coloured.sample(&host);
    plain.sample(&host);
    assert!(colours(&mut coloured) > 50);
}

fn rate(ran: u64, waited: u64) -> Rate {
    Rate { ran, waited }
}

#[test]
fn shares_are_by_the_hypervisors_clock() {
    let host = machine();
    pass(&host);
    let before = Sample::take(&host).unwrap();
    host.sleep(Duration::from_secs(2));
    host.spend(2, [1000 * MS, 500 * MS, 500 * MS, 0], DOMAIN_RUNNING);
    let now = Sample::take(&host).unwrap();
    let id = *now.domains.keys().find(|id| id.0 == 2).unwrap();
    // Two vCPUs: 2 s of 2 s, and a millisecond of the fake's own.
    assert_eq!(now.rate(id, Some(&before)), rate(1000, 500));
    assert_eq!(now.vcpu_rate(id, 1, Some(&before)), rate(500, 250));
    assert_eq!(now.vcpu_rate(id, 7, Some(&before)), rate(0, 0));
    // The uptime counts, whatever dom0's clock says.
    let mut late = now.clone();
    late.host.uptime += 2_000_000_000;
    assert_eq!(late.rate(id, Some(&before)), rate(500, 500));
    // Of nothing there is no share; a counter or a clock that goes backwards is no share either.
    assert_eq!(now.rate(id, Some(&now)), rate(0, 0));
    assert_eq!(before.rate(id, Some(&now)), rate(0, 0));
    assert_eq!(now.rate((9, 9), Some(&before)), rate(0, 0));
    let mut less = now.clone();
    less.host.uptime += 1;
    less.domains.get_mut(&id).unwrap().domain.info.cpu_time = 5;
    assert_eq!(less.rate(id, Some(&now)).ran, 0);
}

#[test]
fn a_new_domain_counts_from_its_creation() {
    let host = machine();
    let before = Sample::take(&host).unwrap();
    host.sleep(Duration::from_secs(1));
    let new = guest(&host, "new", 16, 1);
    host.sleep(Duration::from_secs(1));
    host.spend(new, [249 * MS, 250 * MS, 501 * MS, 0], DOMAIN_RUNNING);
    let now = Sample::take(&host).unwrap();
    let id = *now.domains.keys().find(|id| id.0 == new).unwrap();
    assert_eq!(now.rate(id, Some(&before)), now.rate(id, None));
    assert_eq!(now.rate(id, None).ran, 250);
}

/// A guest that reboots keeps name and UUID and may even get its number again; what the old one ran is not the new one's.
#[test]
fn a_domain_of_the_same_name_is_another_one() {
    let host = machine();
    let mut state = state(&host);
    keys(&mut state, "n");
    state.key(Key::Home);
    state.key(Key::Down);
    host.spend(2, [60_000 * MS, 0, 0, 0], DOMAIN_RUNNING);
    state.sample(&host);
    let old: Id = state.selected().unwrap();
    for domid in [2, 3] {
        host.destroy(domid).unwrap();
    }
    host.sleep(Duration::from_secs(1));
    assert_eq!(guest(&host, DB, 128, 2), 2);
    host.sleep(Duration::from_secs(1));
    host.spend(2, [100 * MS, 0, 900 * MS, 0], DOMAIN_RUNNING);
    state.sample(&host);
    let now = Sample::take(&host).unwrap();
    let new = *now.domains.keys().find(|id| id.0 == 2).unwrap();
    assert_ne!(old, new);
    assert_eq!(now.rate(new, None).ran, 201);
    let text = screen(&mut state, 80, 24);
    assert!(text.lines().any(|line| line.contains("db-with") && line.contains(" 20.1 ")), "{text}");
}

/// What is looked at at once after a key is shown at once, and changes no share.
#[test]
fn a_look_soon_after_another_makes_no_share() {
    let host = machine();
    let mut state = state(&host);
    let shares =
        |text: String| text.lines().filter(|l| l.contains("db-with")).map(str::to_owned).collect::<Vec<_>>();
    let before = shares(screen(&mut state, 80, 24));
    host.sleep(Duration::from_millis(20));
    host.pause(1).unwrap();
    state.sample(&host);
    let text = screen(&mut state, 80, 24);
    assert!(text.contains("2 paused"), "{text}");
    assert!(before[0].contains(" 100.") && shares(text)[0].contains(" 99."), "{before:?}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Whatever is pressed, at whatever size: it draws, and nothing panics.
    #[test]
    fn any_size_and_any_keys(
        width in 1_u16..140,
        height in 1_u16..40,
        unicode: bool,
        typed in proptest::collection::vec(
            prop_oneof![
                (b' '..=b'~').prop_map(|byte| Key::Char(char::from(byte))),
                prop::sample::select(vec![
                    Key::Up, Key::Down, Key::PageUp, Key::PageDown, Key::Home, Key::End, Key::Enter,
                    Key::Backspace, Key::Escape, Key::Char('v'), Key::Char('?'), Key::Char('p'),
                ]),
            ],
            0..12,
        ),
    ) {
        let host = machine();
        let mut state = State::new(&host, Look { colour: true, unicode }, DELAY).unwrap();
        for key in typed {
            if let Action::Act(what, id) = state.key(key) {
                state.done(act(&host, what, id));
            }
            pass(&host);
            state.sample(&host);
        }
        screen(&mut state, width, height);
        screen(&mut state, height, width);
    }
}

#[test]
fn the_smallest_screens() {
    let host = machine();
    let mut state = state(&host);
    for text in ["", "v", "v?", "d"] {
        keys(&mut state, text);
        for (width, height) in (1..40).flat_map(|width| (1..16).map(move |height| (width, height))) {
            screen(&mut state, width, height);
        }
        state.key(Key::Escape);
    }
}
