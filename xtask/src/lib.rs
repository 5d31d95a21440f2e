//! The project's verbs, one module each, and what they share. `tests/system` uses the machines from here.

pub mod bench;
pub mod bench_data;
pub mod bench_domains;
pub mod bench_guest;
pub mod bench_smp;
mod bench_table;
pub mod bochs;
pub mod build;
pub mod console;
mod gdb;
pub mod guests;
pub mod image;
pub mod machine;
pub mod paths;
pub mod run;
pub mod setup;
pub mod sh;
pub mod stats;
pub mod survey;
pub mod symbols;
pub mod test;
pub mod tools;
