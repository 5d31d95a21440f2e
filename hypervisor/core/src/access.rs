//! Who may do what to whom, in one table.
//!
//! A privileged domain controls the others; nothing is delegated. What a domain does to itself by the calls of the guest ABI
//! (its memory, its vCPUs, its end) is not asked here. Calls that are only a privileged domain's as a whole say so in the
//! table of hypercalls.

use guest_abi::Errno;
use hv_types::DomId;

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask what the interface offers.
    AskVersion,
    /// Ask about the machine, its CPUs, its memory; read the log and the failures.
    AskHost,
    /// Ask about a domain, its vCPUs, its pages, who holds them.
    AskDomain,
    /// Make a domain.
    Create,
    /// Change what a domain may have: memory, grants, events, its share of the CPUs.
    Limit,
    /// Hold a domain, let it go, read or write its vCPUs.
    Hold,
    /// End a domain.
    End,
}

/// Who stands to whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Relation {
    /// Nobody is named.
    None,
    /// The caller names itself.
    Itself,
    /// The caller names another domain.
    Other,
}

/// What a cell of the table says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    Allowed,
    /// `-EPERM`: it is a privileged domain's business.
    Privilege,
    /// `-EINVAL`: it makes no sense, whoever asks.
    Senseless,
}

use Rule::{Allowed, Privilege, Senseless};

/// An action, and the rules for a privileged caller, as for [`Relation::None`], [`Relation::Itself`], [`Relation::Other`];
/// then for one without privilege, whatever it names.
type Row = (Action, [Rule; 3], Rule);

const TABLE: [Row; 7] = [
    (Action::AskVersion, [Allowed, Allowed, Allowed], Allowed),
    (Action::AskHost, [Allowed, Allowed, Allowed], Privilege),
    (Action::AskDomain, [Allowed, Allowed, Allowed], Privilege),
    (Action::Create, [Allowed, Senseless, Allowed], Privilege),
    (Action::Limit, [Senseless, Allowed, Allowed], Privilege),
    (Action::Hold, [Senseless, Senseless, Allowed], Privilege),
    (Action::End, [Senseless, Senseless, Allowed], Privilege),
];

/// Whether `caller` may do `action` to `target`. `-EPERM`: it lacks the privilege; `-EINVAL`: nobody may.
pub fn check(caller: DomId, privileged: bool, action: Action, target: Option<DomId>) -> Result<(), Errno> {
    let relation = match target {
        None => Relation::None,
        Some(dom) if dom == caller => Relation::Itself,
        Some(_) => Relation::Other,
    };
    let rule = match TABLE.iter().find(|row| row.0 == action) {
        Some(row) if privileged => row.1[relation as usize % 3],
        Some(row) => row.2,
        None => Privilege,
    };
    match rule {
        Allowed => Ok(()),
        Privilege => Err(Errno::EPERM),
        Senseless => Err(Errno::EINVAL),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ACTIONS: [Action; 7] = [
        Action::AskVersion,
        Action::AskHost,
        Action::AskDomain,
        Action::Create,
        Action::Limit,
        Action::Hold,
        Action::End,
    ];
    const DOM0: DomId = DomId(0);
    const GUEST: DomId = DomId(7);

    #[test]
    fn every_action_has_one_row() {
        for action in ACTIONS {
            assert_eq!(TABLE.iter().filter(|row| row.0 == action).count(), 1, "{action:?}");
        }
    }

    #[test]
    fn without_privilege_only_the_version_can_be_asked() {
        for action in ACTIONS {
            for target in [None, Some(GUEST), Some(DOM0), Some(DomId(8))] {
                let wanted = if action == Action::AskVersion { Ok(()) } else { Err(Errno::EPERM) };
                assert_eq!(check(GUEST, false, action, target), wanted, "{action:?} {target:?}");
            }
        }
    }

    #[test]
    fn nobody_holds_or_ends_itself() {
        for action in [Action::Hold, Action::End] {
            assert_eq!(check(DOM0, true, action, Some(DOM0)), Err(Errno::EINVAL));
            assert_eq!(check(DOM0, true, action, Some(GUEST)), Ok(()));
        }
        assert_eq!(check(DOM0, true, Action::Limit, Some(DOM0)), Ok(()));
    }
}
