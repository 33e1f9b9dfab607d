# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Sourced by ./provision and ./test: makes the Python environment and the collections they start from.
#
#   ensure_environment .venv requirements/run.lock 350     at the locked versions, hashes checked
#   ensure_collections .venv                               what requirements.yml asks for
#
# Both return at once, without network, when a stamp says that the work is done. A stamp is written
# last, so an interrupted set-up is simply done again. Needs bash 3.2 or newer; exit status 3 means
# that this machine or checkout is not fit, with the reason and the remedy on standard error.

unset CDPATH
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
program=$(basename "$0")
state=$root/.ansible
log=$state/setup.log
PYTHON=

say() { printf '%s: %s\n' "$program" "$*" >&2; }

die() { # die <status> <line>...
  local status=$1 line
  shift
  for line in "$@"; do say "$line"; done
  exit "$status"
}

# --- Python ------------------------------------------------------------------------------------

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

find_python() { # sets PYTHON, or says how to get one
  # The makers of ansible-core 2.19 test it on 3.11 to 3.13, hence 3.14 last.
  local candidate lacking='' candidates=(python3 python3.13 python3.12 python3.11 python3.14)
  [ -z "${GPULAB_PYTHON:-}" ] || candidates=("$GPULAB_PYTHON")
  for candidate in "${candidates[@]}"; do
    if ! new_enough "$candidate"; then continue; fi
    if has_venv "$candidate"; then PYTHON=$candidate && return; fi
    lacking=${lacking:-$candidate}
  done
  [ -z "$lacking" ] ||
    die 3 "$("$lacking" --version) lacks its venv module, which this distribution packages separately" "$(how_to_get_venv "$lacking")"
  [ -z "${GPULAB_PYTHON:-}" ] || die 3 "GPULAB_PYTHON=$GPULAB_PYTHON is not a Python 3.11 or newer that runs"
  die 3 "needs Python 3.11 or newer; found $(python3 --version 2>&1 || echo none)" "$(how_to_get_python)"
}

# What a person puts before a command that needs root.
as_root() { [ "$(id -u)" = 0 ] || echo "sudo "; }

how_to_get_python() {
  local package
  if command -v apt-get >/dev/null; then
    package=$(apt-cache --names-only search '^python3\.1[1-3]-venv$' 2>/dev/null | sort -Vr | head -n 1)
    [ -n "$package" ] && echo "run: $(as_root)apt-get install -y ${package%% *}" && return
  elif command -v dnf >/dev/null; then
    echo "run: $(as_root)dnf install -y python3.12"
    return
  fi
  echo "install one by any means (a newer distribution, pyenv, conda, uv) and name it: GPULAB_PYTHON=/path/to/python3 ./$program"
}

how_to_get_venv() { # how_to_get_venv <python>
  if command -v apt-get >/dev/null; then
    echo "run: $(as_root)apt-get install -y $("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
  elif command -v dnf >/dev/null; then
    echo "run: $(as_root)dnf install -y python3.12"
  else
    echo "install the venv and ensurepip modules of $1, or name another: GPULAB_PYTHON=/path/to/python3 ./$program"
  fi
}

# --- the environment ---------------------------------------------------------------------------

# Changes when a file's content does, and when the checkout moves: scripts and path files in a venv hold its path.
fingerprint() { { echo "$root/lib"; cat "$@"; } | cksum; }

stamped() { # stamped <stamp file> <file>...
  local stamp=$1
  shift
  [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$(fingerprint "$@")" ]
}

ensure_environment() { # ensure_environment <directory> <lock file> <MB of disk it takes>
  local venv=$root/$1 lock=$root/$2 megabytes=$3
  # The interpreter a venv points to may be gone after an upgrade of the distribution.
  if stamped "$venv/.stamp" "$lock" && [ -x "$venv/bin/python" ]; then return; fi
  find_python
  begin_setup "$megabytes"
  if ! stamped "$venv/.stamp" "$lock" || ! [ -x "$venv/bin/python" ]; then # not made while we waited
    say "setting up $1 with $("$PYTHON" --version) (first use, or $2 changed)"
    rm -rf "$venv"
    follow "making $1" 0 "$PYTHON" -m venv "$venv" || explain_failure "the Python environment $1"
    follow "installing" "$(grep -c '^[a-z].*==' "$lock")" \
      "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --retries 2 \
      --require-hashes --only-binary :all: -r "$lock" || explain_failure "the packages of $2"
    # With the library on its path, `.venv/bin/python -m gpu_compat` works from anywhere.
    echo "$root/lib" >"$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/gpulab.pth"
    fingerprint "$lock" >"$venv/.stamp"
  fi
  end_setup
}

ensure_collections() { # ensure_collections <environment>
  local venv=$root/$1 stamp=$state/collections/.stamp
  local wanted=("$root/requirements.yml" "$root/requirements/collections.lock")
  if stamped "$stamp" "${wanted[@]}"; then return; fi
  PYTHON=$venv/bin/python
  begin_setup 100
  if ! stamped "$stamp" "${wanted[@]}"; then
    follow "fetching the Ansible collections" 0 \
      "$venv/bin/python" "$root/scripts/install_collections.py" "$state/collections" ||
      explain_failure "the Ansible collections of requirements.yml"
    grep '^collections: ' "$log" >&2 || :
    fingerprint "${wanted[@]}" >"$stamp"
  fi
  end_setup
}

# What Ansible needs of its surroundings, whatever the caller's are.
prepare_surroundings() { # prepare_surroundings <environment>
  # Nothing of the caller's Python (a conda environment, an HPC module) may reach into ours.
  unset PYTHONHOME PYTHONPATH
  export ANSIBLE_CONFIG=$root/ansible.cfg
  # Ansible keeps temporary files in the home directory, its own and those of tasks that run on this machine.
  # Where the home is read-only, the checkout takes the former; the latter get a directory whose name holds on
  # every host and that nobody can have guessed and made before.
  if ! [ -w "${HOME:-/nonexistent}" ]; then
    export ANSIBLE_HOME=$state/home
    export ANSIBLE_REMOTE_TEMP=${ANSIBLE_REMOTE_TEMP:-$(mktemp -d /tmp/gpulab.XXXXXXXX)}
  fi
  # Ansible insists on UTF-8 and stops on a locale that this machine does not have.
  "$root/$1/bin/python" -c 'import locale; locale.setlocale(locale.LC_ALL, "")' 2>/dev/null || export LC_ALL=C.UTF-8
}

# --- one set-up at a time, with room, and in words when it fails ----------------------------------

begin_setup() { # begin_setup <MB of disk it takes>
  local free
  mkdir -p "$state" 2>/dev/null && [ -w "$root" ] && [ -w "$state" ] ||
    die 3 "cannot write to $root as user $(id -un)" \
      "set up once as the owner of that directory, or work in a copy of your own"
  free=$(df -Pm "$root" | awk 'NR == 2 {print $4}')
  [ "$free" -ge "$1" ] ||
    die 3 "$root has $free MB of free space, and the set-up takes $1 MB: free some, or move the checkout to a larger file system"
  exec 9>"$state/setup.lock"
  # Python, not flock(1), because macOS lacks the latter. The lock stays with descriptor 9.
  if ! "$PYTHON" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)' 2>/dev/null; then
    say "another start is setting up this checkout; waiting for it"
    "$PYTHON" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'
  fi
}

# The lock must not pass on to what is executed next.
end_setup() { exec 9>&-; }

# Runs a command with its output in the log and its progress on the terminal (a line now and then
# where there is none). With a number of packages, counts those that pip has come to.
follow() { # follow <what> <packages, or 0> <command>...
  local what=$1 total=$2 started=$SECONDS pid status=0 seconds=0 said=0 so_far
  shift 2
  "$@" >"$log" 2>&1 &
  pid=$!
  # A background command ignores the terminal's interrupt, so hand it on.
  trap 'kill "$pid" 2>/dev/null; wait "$pid"; say "interrupted; the next start does this step again"; exit 130' INT TERM HUP
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.3
    seconds=$((SECONDS - started))
    so_far=
    [ "$total" -gt 0 ] && so_far=", $(grep -c '^Collecting ' "$log" || :) of $total packages"
    if [ -t 2 ]; then
      printf '\r%s: %s: %d s%s  ' "$program" "$what" "$seconds" "$so_far" >&2
    elif [ $((seconds - said)) -ge 20 ]; then
      said=$seconds
      say "$what: $seconds s$so_far"
    fi
  done
  wait "$pid" || status=$?
  trap - INT TERM HUP
  [ -t 2 ] && printf '\r\033[K' >&2
  [ "$status" = 0 ] && say "$what: done in $seconds s"
  return "$status"
}

# Reads the log of a failed step and ends with what happened, what it was, and what helps.
explain_failure() { # explain_failure <what could not be had>
  local what=$1 file cause
  file=$(sed -n 's/.*No matching distribution found for \([^ ]*\).*/\1/p; s/^ *\([A-Za-z0-9._-]*==[^ ]*\) from .*/\1/p' "$log" | head -n 1)
  what="could not get ${file:+$file for }$what"
  if grep -q '^error: ' "$log"; then
    cause=$(sed -n 's/^error: //p' "$log" | tail -n 1)
  elif grep -qi 'no space left on device\|disk quota exceeded' "$log"; then
    cause="the disk is full: free some space in $root and in ${TMPDIR:-/tmp}, then start again"
  elif grep -q 'DO NOT MATCH THE HASHES' "$log"; then
    cause="the package index gave a file that differs from the locked one; a proxy or mirror may have replaced it"
  elif grep -qi 'CERTIFICATE_VERIFY_FAILED\|SSLError' "$log"; then
    cause="the package index's certificate is not trusted: point PIP_CERT at your organisation's CA bundle"
  elif grep -qi 'name resolution\|name or service not known\|nodename nor servname\|connection refused\|network is unreachable\|no route to host\|timed out\|ProxyError\|ConnectionError' "$log"; then
    cause="the package index does not answer: check the network, the proxy (HTTPS_PROXY) and pip's settings (pip config list)"
  else
    die 3 "$what; $log ends with" "$(tail -n 8 "$log")"
  fi
  die 3 "$what" "$cause" "details: $log"
}
