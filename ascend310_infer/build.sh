#!/usr/bin/env bash
# Build the C++ program; the last line is its path. Nothing is written beside the sources.
#
#   bash ascend310_infer/build.sh
#   LITE_HOME=/opt/mindspore-lite-2.3.1-linux-aarch64 bash ascend310_infer/build.sh        # an unpacked tarball
#   SANITIZE=ON bash ascend310_infer/build.sh                                              # ASan and UBSan
#
# Without LITE_HOME the wheel of MindSpore Lite 2.0 is fetched into the cache once; x86-64 and aarch64.
# Cache: $LIGHTCNN_CACHE, else ~/.cache/lightcnn.
set -euo pipefail
source=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cache=${LIGHTCNN_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/lightcnn}
version=2.0.0
fail() { echo "error: $*" >&2; exit 1; }

for tool in cmake g++ make; do
    command -v $tool > /dev/null || fail "$tool is not there; Debian and Ubuntu: apt-get install cmake g++ make"
done

fetch() {       # the wheel of MindSpore Lite -> $1, whole or not at all
    local python platform temporary
    python=$(bash "$source/../scripts/python.sh")
    case $(uname -m) in
        x86_64) platform=manylinux1_x86_64 ;;
        aarch64) platform=manylinux2014_aarch64 ;;
        *) fail "MindSpore Lite has no wheel for $(uname -m); set LITE_HOME to an unpacked tarball" ;;
    esac
    mkdir -p "$cache"
    temporary=$(mktemp -d -p "$cache")
    # the wheel is for Python 3.7, which is not needed: its C++ headers and libraries are
    "$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.7 \
        --implementation cp --platform "$platform" --dest "$temporary" "mindspore-lite==$version" >&2 ||
        { rm -rf "$temporary"; fail "MindSpore Lite $version could not be fetched; set LITE_HOME to an unpacked tarball"; }
    "$python" -m zipfile -e "$temporary"/mindspore_lite-*.whl "$temporary/wheel" && rm "$temporary"/*.whl
    mv -T "$temporary/wheel" "$1" 2> /dev/null || [[ -d $1 ]] || fail "$1 could not be made"
    rm -rf "$temporary"
}

lite=${LITE_HOME:-$cache/mindspore_lite-$version-$(uname -m)}
[[ -n ${LITE_HOME:-} || -d $lite ]] || { echo "fetching MindSpore Lite $version" >&2; fetch "$lite"; }
lite=$(realpath -m "$lite")
[[ -f $lite/runtime/include/api/model.h || -f $lite/mindspore_lite/include/api/model.h ]] ||
    fail "$lite: no runtime/include/api/model.h in it; expected an unpacked MindSpore Lite tarball (LITE_HOME)"

build=$cache/build-$(printf '%s %s %s' "$source" "$lite" "${SANITIZE:-OFF}" | sha256sum | cut -c1-16)
log=$build/build.log
mkdir -p "$build"
if ! { cmake -S "$source" -B "$build" -DLITE_HOME="$lite" -DSANITIZE="${SANITIZE:-OFF}" &&
       cmake --build "$build" --parallel; } > "$log" 2>&1; then
    tail -n 20 "$log" >&2
    fail "the build failed, log $log"
fi
echo "$build/main"
