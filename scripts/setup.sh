#!/usr/bin/env bash
# Installs what the project needs on Debian 12 beside rustup's Rust: Debian packages, and the source of the standard
# library (the hypervisor builds `core` for its own target). Does nothing, quickly, when all is there.
set -euo pipefail
cd "$(dirname "$0")/.."

# file to be there : package that has it
needs=(
	/usr/bin/cc:gcc
	/usr/bin/objdump:binutils
	/usr/include/stdlib.h:libc6-dev
	/usr/include/xen/xen.h:libxen-dev
	/usr/bin/qemu-system-x86_64:qemu-system-x86
	/usr/bin/bochs:bochs
	/usr/share/vgabios/vgabios.bin:vgabios
	/usr/share/seabios/bios.bin:seabios
	/usr/share/OVMF/OVMF_CODE_4M.fd:ovmf
	/usr/bin/grub-mkimage:grub-common
	/usr/bin/grub-file:grub-common
	/usr/lib/grub/i386-pc/boot.img:grub-pc-bin
	/usr/lib/grub/x86_64-efi/moddep.lst:grub-efi-amd64-bin
	/usr/bin/mcopy:mtools
	/bin/busybox:busybox-static
	/sbin/depmod:kmod
	/sbin/mke2fs:e2fsprogs
	/usr/sbin/debootstrap:debootstrap
	/usr/share/keyrings/debian-archive-keyring.gpg:debian-archive-keyring
	/usr/bin/setpriv:util-linux
	/usr/bin/xz:xz-utils
	/usr/bin/gzip:gzip
)

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing=()
for need in "${needs[@]}"; do
	[ -e "${need%%:*}" ] || missing+=("${need##*:}")
done
# The dynamic busybox has the same name.
if ! grep -q 'ok installed' < <(dpkg-query -W -f '${Status}' busybox-static 2>/dev/null); then
	missing+=(busybox-static)
fi
if [ ${#missing[@]} -gt 0 ]; then
	echo "installing: ${missing[*]}" >&2
	as_root apt-get update -q >&2
	as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >&2
fi

# The toolchain of rust-toolchain.toml.
if ! command -v cargo >/dev/null; then
	# shellcheck source=/dev/null
	[ -f "$HOME/.cargo/env" ] && . "$HOME/.cargo/env"
fi
if ! command -v cargo >/dev/null; then
	echo "error: no cargo: install Rust by rustup first (https://rustup.rs)" >&2
	exit 1
fi
if ! rustc --version >/dev/null 2>&1; then
	rustup toolchain install "$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)" --profile default >&2
fi

# The standard library's source, of exactly the compiler's version.
source_there() {
	[ -f "$(rustc --print sysroot)/lib/rustlib/src/rust/library/Cargo.lock" ]
}
rust_src_from_debian() {
	local version=1.95.0 package=1.95.0+dfsg1-2~bpo13+1
	local sha=7b76db5b880a77f9e52975d2baa6209d2f76d2c9c2789515c3088cb960e2c83b
	local cache="${XDG_CACHE_HOME:-$HOME/.cache}/xenolith"
	local apt="$cache/apt/trixie-backports" source="$cache/rust-src-$version"
	if ! rustc --version | grep -q "^rustc $version "; then
		echo "error: Debian's source package is of Rust $version, the compiler is $(rustc --version)" >&2
		return 1
	fi
	if [ ! -f "$source/library/Cargo.lock" ]; then
		echo "fetching rust-src $package from Debian's trixie-backports" >&2
		mkdir -p "$apt"/{etc/apt.conf.d,etc/preferences.d,state/lists/partial,cache/archives/partial}
		echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]" \
			"${XENOLITH_MIRROR:-http://deb.debian.org/debian} trixie-backports main" >"$apt/etc/sources.list"
		cat >"$apt/apt.conf" <<-END
			Dir::Etc "$apt/etc"; Dir::State "$apt/state"; Dir::State::status "/dev/null"; Dir::Cache "$apt/cache";
			APT::Sandbox::User ""; Acquire::Languages "none";
		END
		APT_CONFIG="$apt/apt.conf" apt-get update -q >&2
		(cd "$apt" && APT_CONFIG="$apt/apt.conf" apt-get download -q "rust-src=$package" >&2)
		local deb
		deb=$(echo "$apt"/rust-src_*.deb)
		echo "$sha  $deb" | sha256sum -c --quiet >&2
		rm -rf "$source.partial"
		dpkg -x "$deb" "$source.partial"
		rm -f "$deb"
		rm -rf "$source"
		mv "$source.partial/usr/src/rustc-$version" "$source"
		rm -rf "$source.partial"
	fi
	local place
	place="$(rustc --print sysroot)/lib/rustlib/src"
	mkdir -p "$place"
	ln -sfnT "$source" "$place/rust"
}
if ! source_there; then
	timeout 300 rustup component add rust-src >&2 || rust_src_from_debian
	source_there
fi
