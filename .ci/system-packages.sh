#!/usr/bin/env bash
# Installs the programs of Debian (or Ubuntu) that tests drive and pip has not. Does nothing where they are there;
# where they cannot be installed it says so and goes on, as the tests that need them are skipped with that reason.
#   PROGRAM=PACKAGE, for each
set -euo pipefail

wanted=(chromium=chromium prometheus=prometheus)

say() { printf '%s\n' "$*" >&2; }

missing=()
for pair in "${wanted[@]}"; do
  command -v "${pair%%=*}" >/dev/null || missing+=("${pair#*=}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

without() { say "not installed: ${missing[*]} ($1). Tests that need them are skipped."; exit 0; }

command -v apt-get >/dev/null || without "there is no apt-get here; install them by hand"
as_root=()
if [ "$(id -u)" != 0 ]; then
  # -n: never asks for a password, which nobody may be there to give.
  sudo -n true 2>/dev/null || without "that takes root; run 'sudo apt-get install ${missing[*]}'"
  as_root=(sudo -n)
fi
say "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq || without "apt-get update failed"
"${as_root[@]}" apt-get install --yes --quiet --no-install-recommends "${missing[@]}" >&2 || without "apt-get install failed"
