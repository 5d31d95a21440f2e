#!/usr/bin/env bash
# The README's test command: installs what is missing, then runs everything. Arguments name single steps.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
[ -n "$(command -v cargo)" ] || . "$HOME/.cargo/env"
exec cargo xtask test "$@"
