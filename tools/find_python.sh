#!/bin/sh
# Print CPython interpreters >= 3.11 by their real paths, one a line, one for each minor version.
#   find_python.sh         the first suitable one: $PYTHON if set, else what the PATH has
#   find_python.sh --all   all that the PATH and pyenv have
# A name on the PATH proves nothing (pyenv leaves shims for versions that are not active): each
# candidate is run and asked.

ask='import sys
if sys.version_info < (3, 11) or sys.implementation.name != "cpython": sys.exit(1)
print("%d.%d" % sys.version_info[:2], sys.executable)'

candidates() {
    for name in python3.13 python3.14 python3.12 python3.11 python3 python; do
        command -v "$name"
    done
    if [ "${1:-}" = --all ] && command -v pyenv >/dev/null; then
        # Its versions, also where HOME is not the one that it was installed in.
        for root in "$(pyenv root)" "$(dirname "$(dirname "$(command -v pyenv)")")"; do
            ls -d "$root"/versions/*/bin/python 2>/dev/null
        done
    fi
}

if [ -n "${PYTHON:-}" ] && [ "${1:-}" != --all ]; then
    found=$("$PYTHON" -Ic "$ask" 2>/dev/null) || {
        echo "PYTHON=$PYTHON is not a CPython >= 3.11 that runs" >&2
        exit 1
    }
else
    found=$(candidates "$@" | while read -r python; do "$python" -Ic "$ask" 2>/dev/null; done |
        awk '!seen[$1]++')
fi

if [ -z "$found" ]; then
    echo "no CPython >= 3.11 on the PATH; install one, or name it: make PYTHON=/path/to/python3.12" >&2
    exit 1
fi
if [ "${1:-}" != --all ]; then
    found=$(echo "$found" | head -n 1)
fi
echo "$found" | cut -d ' ' -f 2-
