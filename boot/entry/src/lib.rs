//! The machine room.
#![no_std]
