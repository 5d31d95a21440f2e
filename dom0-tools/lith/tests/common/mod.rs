//! Golden files: what the command says, as text that people read. `LITH_UPDATE=1` writes them anew.
#![allow(dead_code)]

use std::path::PathBuf;

/// The directory of the tests.
pub fn tests_dir() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Compares with `golden/NAME`.
pub fn golden(name: &str, actual: &str) {
    let file = tests_dir().join("golden").join(name);
    if std::env::var_os("LITH_UPDATE").is_some() {
        std::fs::write(&file, actual).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(expected == actual, "{name} differs.\n--- expected\n{expected}\n--- actual\n{actual}\n--- end");
}
