# Installs what a build needs and the machine lacks, through the system's package manager, saying so. Sourced.
# need_build_tools: a C++ compiler and libclang, which the bindings of RocksDB are made with.
# need_fault_tools: what the fault tests use (network namespaces, packet filter, small file systems, failing system
# calls); they skip loudly without it.

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif have sudo; then sudo "$@"
  else fail "cannot install packages: not root, and there is no sudo" "as root, run: $*"
  fi
}

# install_packages WHY APT DNF PACMAN ZYPPER APK: one word list for each package manager, "-" for none.
install_packages() {
  local why=$1 apt=$2 dnf=$3 pacman=$4 zypper=$5 apk=$6
  if have apt-get; then
    say "installing $apt ($why) with apt-get"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 || say "apt-get update failed; trying with the lists at hand"
    # shellcheck disable=SC2086 # a list of words
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $apt >&2
  elif have dnf; then say "installing $dnf ($why) with dnf"; as_root dnf install -y -q $dnf >&2
  elif have pacman; then say "installing $pacman ($why) with pacman"; as_root pacman -S --noconfirm --needed $pacman >&2
  elif have zypper; then say "installing $zypper ($why) with zypper"; as_root zypper -n install $zypper >&2
  elif have apk; then say "installing $apk ($why) with apk"; as_root apk add $apk >&2
  else return 1
  fi
}

have_libclang() {
  [ -n "${LIBCLANG_PATH:-}" ] && return 0
  compgen -G '/usr/lib/llvm-*/lib/libclang*.so*' >/dev/null && compgen -G '/usr/lib/llvm-*/lib/clang/*/include/stddef.h' >/dev/null && return 0
  compgen -G '/usr/lib/llvm*/lib/libclang.so*' >/dev/null && return 0
  compgen -G '/usr/lib*/libclang.so*' >/dev/null && return 0
  compgen -G '/Library/Developer/CommandLineTools/usr/lib/libclang.dylib' >/dev/null
}

need_build_tools() {
  have cargo || fail "there is no Rust compiler (cargo) on this machine" "install one: https://rustup.rs"
  have c++ || have g++ || install_packages 'the C++ compiler RocksDB is built with' g++ gcc-c++ gcc gcc-c++ g++ \
    || fail "there is no C++ compiler, and no package manager this script knows" "install g++ or clang++ and run this again"
  have_libclang || install_packages 'RocksDB'"'"'s bindings are made with it' libclang-dev clang-devel clang clang-devel clang-dev \
    || fail "there is no libclang, and no package manager this script knows" "install libclang (clang's development files) and run this again"
}

need_fault_tools() {
  { have ip && have iptables && have mkfs.ext4 && have strace; } || install_packages 'fault tests use it' \
    'iproute2 iptables e2fsprogs strace' 'iproute iptables e2fsprogs strace' 'iproute2 iptables e2fsprogs strace' \
    'iproute2 iptables e2fsprogs strace' 'iproute2 iptables e2fsprogs strace' \
    || say "note: ip, iptables, mkfs.ext4 or strace is missing; the tests that need them will be skipped"
}
