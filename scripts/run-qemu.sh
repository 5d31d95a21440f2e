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
# Relative file names are the caller's, the toolchain is the repository's.
export XENOLITH_FROM="$PWD"
cd "$here/.."
exec cargo xtask run "$@"
