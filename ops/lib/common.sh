# Shared by the scripts of ops/. Sourced, never run.
# Gives: say, fail, have, top (the checkout), target_dir, binary NAME.

set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Outside the checkout, so that every clone on this machine shares the one slow build of RocksDB.
target_dir=${CARGO_TARGET_DIR:-$HOME/.cache/gabion-target}

say() { printf '%s\n' "$*" >&2; }
fail() { printf 'error: %s\n' "$1" >&2; shift; for line in "$@"; do printf '  help   %s\n' "$line" >&2; done; exit 1; }
usage_error() { printf 'error: %s\n' "$1" >&2; printf '  help   %s --help\n' "$0" >&2; exit 2; }
have() { command -v "$1" >/dev/null 2>&1; }

# The path of one of our programs: $GABION_BIN, then the build, then PATH.
binary() {
  local name=$1 dir
  for dir in ${GABION_BIN:+"$GABION_BIN"} "$target_dir/release"; do
    if [ -x "$dir/$name" ]; then printf '%s\n' "$dir/$name"; return; fi
  done
  command -v "$name" || fail "$name is not built" "build it: CARGO_TARGET_DIR=$target_dir cargo build --release --workspace"
}
