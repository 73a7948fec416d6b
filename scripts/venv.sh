# A virtual environment in the checkout, for the other scripts. Source it, then call
# `venv EXTRA` with an extra of setup.cfg: standalone, docs, test or bench. It makes .venv or brings it
# up to date, says so only when there is something to do, and sets
#
#     PYTHON  the environment's interpreter
#     ROOT    the checkout
#
# With VENV_VERSION (3.12, say) the environment is one of that version, in .venv-3.12.
#
# POSIX sh, and bash. Whoever sources it lies one directory below the checkout's root, as this
# file does. A failure is told on standard error and ends the script with status 1.

ROOT=$(CDPATH= cd "$(dirname "${BASH_SOURCE:-$0}")/.." && pwd) || exit 1
VENV=$ROOT/.venv${VENV_VERSION:+-$VENV_VERSION}
PYTHON=$VENV/bin/python

venv() {
    # What is installed is noted in a file per extra: where, and the state of the two files that
    # say what to install.
    venv_state=$( (echo "$ROOT" && cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml") | cksum)
    venv_is_current "$1" && return
    if command -v flock >/dev/null; then
        exec 9<"$ROOT/setup.cfg" # of two scripts started together one installs, the other waits
        flock 9
        venv_is_current "$1" || venv_install "$1"
        exec 9<&-
    else
        venv_install "$1"
    fi
}

venv_is_current() {
    "$PYTHON" -c '' 2>/dev/null || return 1
    venv_enough=
    for venv_extra in standalone docs test bench; do # each contains those before it
        [ "$venv_extra" = "$1" ] && venv_enough=yes
        [ "$venv_enough" ] || continue
        [ "$(cat "$VENV/has-$venv_extra" 2>/dev/null)" = "$venv_state" ] && return
    done
    return 1
}

venv_install() {
    venv_make
    echo "Installing what gearhorn needs ($1) into ${VENV##*/}, once" >&2
    "$PYTHON" -m pip install -qq --disable-pip-version-check --editable "${ROOT}[$1]" >&2 ||
        venv_fail "pip could not install what is needed; its own words are above"
    echo "$venv_state" >"$VENV/has-$1"
}

# Make the environment, unless there is one that works; one that was moved does not.
venv_make() {
    venv_home=$(cat "$VENV/made-in" 2>/dev/null) || venv_home=$ROOT
    [ "$venv_home" = "$ROOT" ] && venv_is_new_enough "$PYTHON" && return
    venv_base=$(venv_find_python) || exit 1
    venv_need_module "$venv_base"
    echo "Making a virtual environment in ${VENV##*/} with $("$venv_base" --version)" >&2
    "$venv_base" -m venv --clear "$VENV" || venv_fail "$venv_base -m venv failed"
    echo "$ROOT" >"$VENV/made-in"
}

venv_is_new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Print the path of the first Python that is new enough, or of the version that was asked for.
venv_find_python() {
    if [ "${VENV_VERSION:-}" ]; then
        venv_find_version
        return
    fi
    venv_old=
    for venv_name in python3 python3.11 python3.12 python3.13 python3.14; do
        venv_path=$(command -v "$venv_name") || continue
        if venv_is_new_enough "$venv_path"; then
            echo "$venv_path"
            return
        fi
        # what cannot even tell its version is a wrapper around nothing
        venv_version=$("$venv_path" --version 2>/dev/null) || continue
        venv_old="$venv_old, $venv_path is $venv_version"
    done
    venv_fail "Python 3.11 or newer is needed${venv_old:-, and there is no Python on the PATH}." \
        "On Debian 12 and later: apt-get install python3 python3-venv"
}

# pyenv's wrappers are there for versions that are not: what cannot tell its version is none.
venv_find_version() {
    for venv_path in "python$VENV_VERSION" \
        "${PYENV_ROOT:-$HOME/.pyenv}/versions/$VENV_VERSION".*/bin/python; do
        "$venv_path" --version >/dev/null 2>&1 || continue
        command -v "$venv_path"
        return
    done
    venv_fail "Python $VENV_VERSION is not installed"
}

# Debian's Python comes without what makes environments.
venv_need_module() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null && return
    venv_package=$("$1" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        venv_fail "$1 cannot make virtual environments." \
            "On Debian, as root: apt-get install $venv_package"
    fi
    echo "Installing $venv_package" >&2
    venv_words=$(venv_apt install "$venv_package" 2>&1) ||
        venv_words=$(venv_apt update 2>&1 && venv_apt install "$venv_package" 2>&1) ||
        venv_fail "apt-get install $venv_package failed: $venv_words"
}

venv_apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends "$@"
}

venv_fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}
