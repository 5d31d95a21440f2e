//! What is done to a domain from the screen: what the verbs of these names do.

use super::super::{guest, life};
use super::Id;
use crate::domain::{self, Domain};
use crate::error::{Error, Kind, Result};
use crate::host::Host;
use guest_abi::control::{DOMAIN_PAUSED, DOMAIN_SHUTDOWN};

/// Something that is done to a domain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Its vCPUs stop.
    Pause,
    /// They go on.
    Unpause,
    /// It is asked to power off.
    Shutdown,
}

impl Act {
    /// The verb.
    pub fn word(self) -> &'static str {
        match self {
            Act::Pause => "pause",
            Act::Unpause => "unpause",
            Act::Shutdown => "shutdown",
        }
    }

    /// What its key means for a domain, or why nothing.
    pub(super) fn of(self, domain: &Domain) -> Result<Act> {
        guest(domain)?;
        if self != Act::Shutdown {
            domain.complete()?;
        }
        let state = domain.info.state;
        match self {
            Act::Pause | Act::Unpause if state & DOMAIN_PAUSED != 0 => Ok(Act::Unpause),
            Act::Pause | Act::Unpause => Ok(Act::Pause),
            Act::Shutdown if state & DOMAIN_SHUTDOWN != 0 => {
                Err(Error::new(Kind::WrongState, format!("{} has ended already", domain.name)))
            }
            Act::Shutdown => Ok(Act::Shutdown),
        }
    }
}

/// Does it, if the domain is still the one that was meant; the answer says that it was done.
pub fn act(host: &dyn Host, act: Act, id: Id) -> Result<String> {
    let same = domain::by_id(host, id.0)?.filter(|domain| domain.info.created == id.1);
    let domain = same.ok_or_else(|| Error::new(Kind::NotFound, format!("domain {} is gone", id.0)))?;
    guest(&domain)?;
    match act {
        Act::Pause => host.pause(id.0)?,
        Act::Unpause => host.unpause(id.0)?,
        Act::Shutdown => life::ask(host, std::slice::from_ref(&domain), "poweroff")?,
    }
    let done = match act {
        Act::Pause => "is paused",
        Act::Unpause => "goes on",
        Act::Shutdown => "is asked to power off",
    };
    Ok(format!("{} {done}", domain.name))
}
