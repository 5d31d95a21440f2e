//! What several CPUs do at once, in every order that matters: loom runs each test again and again, each time with other switches
//! between its threads, and with what the memory model lets each of them see. Here atomics and locks are loom's (`sync`).

mod events;
mod flushes;
mod frames;
mod machine;
mod moving;
mod waking;

/// Runs a test in all its orders.
fn explore(test: impl Fn() + Sync + Send + 'static) {
    explore_with(None, test);
}

/// Runs a test in all its orders that have at most so many switches where a thread could have gone on.
fn explore_with(switches: Option<usize>, test: impl Fn() + Sync + Send + 'static) {
    let mut orders = loom::model::Builder::new();
    orders.preemption_bound = switches;
    orders.max_branches = 100_000;
    orders.check(test);
}
