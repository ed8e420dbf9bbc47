#!/usr/bin/env bash
# Makes .venv from requirements.lock (exact versions, hashes checked) with whatever the machine has:
# an existing uv, else pip installs uv into .uv (a folder, so that PEP 668's "externally managed" does not
# apply), else python -m venv and its pip, else a message. Called by `make env`; safe to repeat.
#   PYTHON=python3.12 make env     chooses the Python (3.11 or newer)
set -euo pipefail
cd "$(dirname "$0")/.."

VENV=.venv
STAMP=$VENV/.stamp
# The certificates that the system trusts, not uv's own list: company networks add theirs (two names: uv renamed it).
export UV_SYSTEM_CERTS=true UV_NATIVE_TLS=true
export UV_PYTHON_DOWNLOADS=never PIP_DISABLE_PIP_VERSION_CHECK=1
# Compiled once here, not by every process: imports take a third, also where PYTHONDONTWRITEBYTECODE is set.
export UV_COMPILE_BYTECODE=1
unset VIRTUAL_ENV PYTHONHOME PYTHONPATH

say() { printf '%s\n' "$*" >&2; }
die() { say "error: $*"; exit 1; }

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

# The Python asked for, else the first of the usual names that is new enough.
find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if new_enough "$candidate"; then echo "$candidate"; return; fi
  done
  die "rayface needs Python 3.11 or newer; ${PYTHON:-python3} is" \
    "$("${PYTHON:-python3}" --version 2>/dev/null || echo "no program that can be run")." \
    "Name another one, for example: make env PYTHON=/path/to/python3.12"
}

# uv on the PATH (a version manager's shim may be there and not work: run it), in .uv, or put there by pip.
find_uv() {
  if uv --version >/dev/null 2>&1; then echo uv; return; fi
  if .uv/bin/uv --version >/dev/null 2>&1; then echo .uv/bin/uv; return; fi
  "$1" -m pip --version >/dev/null 2>&1 || return 1
  say "no uv here: installing it into .uv with pip"
  rm -rf .uv
  "$1" -m pip install --quiet --no-input --no-cache-dir --target .uv 'uv>=0.5' >&2 && echo .uv/bin/uv
}

make_venv() { # PYTHON UV: keeps a .venv that works, of the Python asked for
  local wanted version='import sys; print(*sys.version_info[:3])'
  wanted=$("$1" -c "$version")
  if new_enough $VENV/bin/python; then
    if [ -z "${PYTHON:-}" ] || [ "$($VENV/bin/python -c "$version")" = "$wanted" ]; then return; fi
  fi
  rm -rf $VENV
  if [ -n "$2" ]; then
    "$2" venv --quiet --python "$("$1" -c 'import sys; print(sys.executable)')" $VENV
  elif ! "$1" -m venv $VENV >&2; then
    rm -rf $VENV
    die "this Python has neither pip nor venv, and there is no uv. Install one of them and call make again:" \
      "'apt-get install python3-venv' (Debian, Ubuntu), 'dnf install python3-pip' (Fedora), or uv."
  fi
}

install() { # UV, or nothing: the venv's pip
  local python=$VENV/bin/python command
  if [ -n "$1" ]; then
    command=("$1" pip install --python $python)
  else
    command=($python -m pip install --no-input)
    $python -m pip --version >/dev/null 2>&1 || die "$VENV has no pip; remove $VENV and call make again."
  fi
  "${command[@]}" --require-hashes -r requirements.lock
  # The build backend is in the lock: no isolated build, so no second download.
  "${command[@]}" --quiet --no-deps --no-build-isolation -e .
}

python=$(find_python)
uv=$(find_uv "$python") || uv=""
make_venv "$python" "$uv"
say "installing the environment into $VENV (the first time 3.3 GB to download, 6.5 GB on the disk)"
install "$uv"
touch $STAMP
