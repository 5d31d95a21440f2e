#!/usr/bin/env bash
# Boots Xenolith with a Debian dom0 in QEMU; see --help.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
for word in "$@"; do
	case $word in
	--exec) break ;;
	-h | --help) exec cat "$here/../xtask/src/run.help" ;;
	esac
done
"$here/setup.sh"
[ -n "$(command -v cargo)" ] || . "$HOME/.cargo/env"
# Relative file names stay the caller's.
exec cargo run --quiet --manifest-path "$here/../Cargo.toml" --package xtask -- run "$@"
