//! Names the file that holds the image's symbol table; empty in the first of the two passes that `xtask build` makes.
use std::path::PathBuf;

fn main() {
    println!("cargo:rerun-if-env-changed=XENOLITH_SYMBOLS");
    if std::env::var_os("XENOLITH_SYMBOLS").is_none() {
        let empty =
            PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("no-symbols");
        std::fs::write(&empty, "").expect("OUT_DIR is writable");
        println!("cargo:rustc-env=XENOLITH_SYMBOLS={}", empty.display());
    }
}
