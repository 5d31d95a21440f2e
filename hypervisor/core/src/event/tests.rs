//! Event channels against simple oracles: what the header says, kept in plain maps.

mod fifo;
mod op;
mod race;
mod two_level;
