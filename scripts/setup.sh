# Sourced by the other scripts: installs what the build needs and is missing, and leaves a PATH that builds.
# shellcheck shell=bash

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

apt_install() {
    if ! command -v apt-get >/dev/null; then
        echo "missing: $* (or what they are called here); install them and try again" >&2
        return 1
    fi
    echo "installing $*" >&2
    if ! apt-cache show "$@" >/dev/null 2>&1; then as_root apt-get update >&2; fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "$@" >&2
}

have_libclang() {
    [ -n "${LIBCLANG_PATH:-}" ] || [ -n "$(find /usr/lib /usr/lib64 /usr/local/lib /opt/homebrew/opt/llvm/lib \
        -name 'libclang.so*' -o -name 'libclang-[0-9]*.so*' -o -name libclang.dylib 2>/dev/null)" ]
}

# The newest libclang of this release, with the compiler's own headers, which the bindings need as well.
install_libclang() {
    local major
    if command -v apt-get >/dev/null && ! apt-cache show libclang1-14 >/dev/null 2>&1; then
        as_root apt-get update >&2
        major=$(apt-cache search --names-only '^libclang1-[0-9]+$' | sed 's/^libclang1-\([0-9]*\).*/\1/' | sort -n | tail -1)
    fi
    apt_install "libclang1-${major:-14}" "libclang-common-${major:-14}-dev"
}

# pg_query's build would write its parser's bindings anew if it found protoc, and fail; so it must not find one.
hide_protoc() {
    local protoc before hidden=$1
    while protoc=$(command -v protoc); do
        before=$PATH
        mkdir -p "$hidden"
        find "$(dirname "$protoc")" -mindepth 1 -maxdepth 1 ! -name protoc -exec ln -sft "$hidden" {} +
        PATH=$(printf ':%s:' "$PATH" | sed "s|:$(dirname "$protoc"):|:$hidden:|g; s|^:||; s|:\$||")
        if [ "$PATH" = "$before" ]; then
            echo "take $protoc out of PATH: the build must not find it" >&2
            return 1
        fi
    done
}

set_up() {
    if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then PATH=$HOME/.cargo/bin:$PATH; fi
    if ! command -v cargo >/dev/null; then
        echo "a Rust toolchain is needed: cargo is not in PATH" >&2
        return 1
    fi
    command -v cc >/dev/null || apt_install build-essential
    have_libclang || install_libclang
    hide_protoc "$1/.pg/path"
    export PATH
}
