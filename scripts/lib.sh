# Shared by the scripts in this folder, to be sourced: finds Python, creates the environment.
# shellcheck shell=bash
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=${HYPERSDK_VENV:-$root/.venv}
cache=${XDG_CACHE_HOME:-$HOME/.cache}/hypersdk

say() { printf '\033[1m==> %s\033[0m\n' "$*" >&2; }
die() {
  printf '%s\n' "$*" >&2
  exit 1
}

# -h: what the script says about itself in its first lines.
case "${1:-}" in
  -h | --help)
    sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"
    exit 0
    ;;
esac

# Prints a Python >= 3.11, or stops.
find_python() {
  local name
  for name in "${PYTHON:-}" python3 python3.13 python3.12 python3.11; do
    if [ -n "$name" ] && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      command -v "$name"
      return
    fi
  done
  die "Python 3.11 or newer is needed. On Debian 12 and Ubuntu 24.04: sudo apt-get install python3"
}

# pip_wheel: prints the path of a pip wheel. Debian's python3 has neither pip nor ensurepip; its package python3-pip-whl
# holds a pip, and apt-get download needs no root.
pip_wheel() {
  local found dir=$cache/pip-wheel
  for found in /usr/share/python-wheels/pip-*.whl "$dir"/usr/share/python-wheels/pip-*.whl; do
    [ -e "$found" ] && { printf '%s\n' "$found"; return; }
  done
  command -v dpkg-deb >/dev/null 2>&1 ||
    die "This Python cannot make virtual environments and there is no pip. Install your distribution's venv package (python3-venv)."
  mkdir -p "$dir/lists/partial" "$dir/archives/partial"
  (
    cd "$dir"
    # Use the system's package lists if they exist; otherwise fetch lists into a folder of our own, which needs no root.
    apt-get -qq download python3-pip-whl 2>/dev/null || {
      own=(-o "Dir::State::lists=$dir/lists" -o "Dir::Cache::archives=$dir/archives" -o "Dir::Cache::pkgcache=" -o "Dir::Cache::srcpkgcache=" -o Debug::NoLocking=1)
      apt-get "${own[@]}" -qq update && apt-get "${own[@]}" -qq download python3-pip-whl
    }
    dpkg-deb -x python3-pip-whl_*.deb .
  ) >&2 || die "pip could not be fetched. With root: apt-get install python3-venv"
  found=$(ls "$dir"/usr/share/python-wheels/pip-*.whl) && printf '%s\n' "$found"
}

# make_venv: a virtual environment with pip in $venv, even if this Python lacks venv, ensurepip or pip.
make_venv() {
  [ -x "$venv/bin/python" ] && "$venv/bin/python" -m pip --version >/dev/null 2>&1 && return
  local python
  python=$(find_python)
  say "making a virtual environment with $("$python" --version)"
  rm -rf "$venv"
  if "$python" -c 'import ensurepip' 2>/dev/null && "$python" -m venv "$venv" 2>/dev/null; then
    return
  fi
  rm -rf "$venv"
  local wheel
  wheel=$(pip_wheel)
  "$python" -m venv --without-pip "$venv"
  # A wheel is a zip file: Python runs the pip in it, which installs itself.
  "$venv/bin/python" "$wheel/pip" --quiet --disable-pip-version-check install --no-index --find-links "$(dirname "$wheel")" pip
}

# Whether the environment's HyperSDK is this tree.
is_editable() {
  "$venv/bin/python" -P -c 'import hypersdk, sys; sys.exit(not hypersdk.__file__.startswith(sys.argv[1]))' "$root/src/" 2>/dev/null
}

# install_requirements NAME: installs what requirements/NAME.txt pins, with hashes, and HyperSDK itself; does nothing if that is installed already.
install_requirements() {
  local file=$root/requirements/$1.txt stamp=$venv/.installed-$1 want
  want=$(cat "$file" "$root/pyproject.toml" | sha256sum)
  # The README installs a copy into the same environment; the scripts use the tree itself.
  if [ "$(cat "$stamp" 2>/dev/null)" != "$want" ] || ! is_editable; then
    say "installing $(grep -c '==' "$file") packages into $venv"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --require-hashes -r "$file"
    "$venv/bin/python" -m pip --quiet --disable-pip-version-check install --no-deps --no-build-isolation --editable "$root"
    printf '%s\n' "$want" >"$stamp"
  fi
}
