//! A configuration as JSON, for `show`, `check` and the supervisor's memory of it.

use super::DomainConfig;

/// All of it; sizes in bytes.
pub fn to_json(config: &DomainConfig) -> serde_json::Value {
    serde_json::to_value(config).unwrap_or_default()
}
