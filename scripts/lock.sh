#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes requirements/*.lock anew from pyproject.toml: newest versions its ranges admit, with hashes.
#
#   scripts/lock.sh                     move everything to the newest admitted version
#   scripts/lock.sh --keep              keep what is locked, add only what is missing
#
# Needs `uv` (the one in .venv, else the one on PATH) and the package index that uv is configured for.
# The locks name neither an index nor a local path, so they hold wherever the same files are served.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cd "$root"

uv=.venv/bin/uv
[ -x "$uv" ] || uv=$(command -v uv) || { echo "lock.sh: no uv found; run ./provision --version once" >&2; exit 3; }

upgrade=(--upgrade)
[ "${1:-}" = --keep ] && upgrade=(--quiet)

# A find-links directory or a second index of this machine must not decide what everybody installs.
unset UV_FIND_LINKS UV_EXTRA_INDEX_URL PIP_FIND_LINKS PIP_EXTRA_INDEX_URL

lock() { # lock <file> <what it is for> [uv option...]
  local file=$1 purpose=$2
  shift 2
  "$uv" pip compile --quiet "${upgrade[@]}" --generate-hashes --no-emit-index-url \
    --no-header --no-annotate --output-file "$file" "$@"
  { printf '# SPDX-License-Identifier: Apache-2.0\n# %s Written by scripts/lock.sh.\n' "$purpose"
    grep -v '^#' "$file"; } >"$file.new"
  mv "$file.new" "$file"
  echo "lock.sh: $file: $(grep -c '^[a-z].*==' "$file") packages"
}

lock requirements/run.lock "What ./provision installs into .venv." \
  --universal --python-version 3.11 --extra report pyproject.toml
lock requirements/test.lock "What ./test installs into .venv-test." \
  --universal --python-version 3.11 --extra report --extra test pyproject.toml

# Hosts whose architecture is not the control node's fetch uv themselves; hosts may have Python 3.8.
sed -n 's/^ *"\(uv==[0-9.]*\)",$/\1/p' pyproject.toml |
  lock roles/python/files/uv.lock "The uv of hosts that cannot take the control node's." --universal --python-version 3.8 -
echo virtualenv |
  lock roles/python/files/virtualenv.lock "The manager virtualenv." --universal --python-version 3.8 -

# The bundle is never installed, only opened as an archive, so its own dependencies do not matter.
bundle=requirements/collections.in
lock requirements/collections.lock "Source of the collections where Galaxy cannot be reached." \
  --no-deps --only-binary ansible "$bundle"
