#!/bin/sh
# Run pytest with the given arguments on each CPython >= 3.11 of this machine, each in an environment
# of its own under .venvs/; with --others first, not on the one that .venv has. All are tried; the
# exit status says whether all passed.
set -eu
cd "$(dirname "$0")/.."

skip=
if [ "${1:-}" = --others ]; then
    shift
    skip=$(.venv/bin/python -c 'import sys; print("%d.%d" % sys.version_info[:2])')
fi

failed=
for python in $(tools/find_python.sh --all); do
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    if [ "$version" = "$skip" ]; then continue; fi
    echo "== Python $version ($python)"
    venv=.venvs/$version
    { make test-tools VENV="$venv" PYTHON="$python" && "$venv/bin/python" -m pytest "$@"; } ||
        failed="$failed $version"
done

if [ -n "$failed" ]; then
    echo "failed on:$failed" >&2
    exit 1
fi
