//! `lith`: makes and manages domains from dom0.
//!
//! The command is a library over two doors: [`config`] reads what an administrator wants, and a [`host::Host`] is the
//! machine it runs on. Everything between them is safe, and tested without a hypervisor.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod build;
pub mod cli;
pub mod config;
pub mod create;
pub mod device;
pub mod domain;
pub mod dump;
pub mod error;
pub mod host;
pub mod output;
pub mod supervise;
pub mod verb;
