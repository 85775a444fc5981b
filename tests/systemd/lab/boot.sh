#!/bin/bash
# boot.sh: boot a Debian (12, or LAB_SUITE) with systemd as PID 1 in namespaces of its own; idempotent. Needs root.
# Builds and caches the tree (first run about a minute); boot.sh --tree does only that.
# Everything under $LAB_PAYLOAD is laid over the root.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib/common.sh"
mkdir -p "$LAB_DIR/dl" "$LAB_PAYLOAD" "$RUN"; cd "$LAB_DIR"
exec 9>"$LAB_DIR/.lock"; flock 9
if alive "$RUN/pid"; then echo "already up: pid $(cut -d' ' -f1 "$RUN/pid")"; exit 0; fi

get() { # get DEST PKG...: download packages with the ordinary apt client, unpack under DEST, install nothing
  local d=$1; shift; mkdir -p "$d"
  ( cd "$LAB_DIR/dl"; apt-get -q download "$@" >"$RUN/apt.log" 2>&1 ||
    { apt-get -q update >>"$RUN/apt.log" 2>&1; apt-get -q download "$@" >>"$RUN/apt.log" 2>&1; } ||
    { cat "$RUN/apt.log" >&2; exit 1; } )
  local p f; for p in "$@"; do f=$(ls -t "$LAB_DIR/dl/${p}"_*.deb | head -1); dpkg-deb -x "$f" "$d"; done; }

mirror() { # the Debian mirror that this machine's own apt uses
  apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 2>/dev/null | head -1; }
build_tree() {
  local debootstrap mirror=${LAB_MIRROR:-$(mirror)}
  [ -n "$mirror" ] || { apt-get -q update >"$RUN/apt.log" 2>&1; mirror=$(mirror); }
  if command -v debootstrap >/dev/null; then debootstrap=debootstrap
  else [ -x tools/usr/sbin/debootstrap ] || get "$LAB_DIR/tools" debootstrap
    debootstrap=$LAB_DIR/tools/usr/sbin/debootstrap; export DEBOOTSTRAP_DIR=$LAB_DIR/tools/usr/share/debootstrap; fi
  rm -rf --one-file-system "$TREE" "$TREE.tmp"
  # In two stages, so that dpkg learns between them not to wait for the disk: what breaks off is built anew.
  { "$debootstrap" --foreign --variant=minbase --include="$PKGS" "$SUITE" "$TREE.tmp" "$mirror" &&
    mkdir -p "$TREE.tmp/etc/dpkg/dpkg.cfg.d" && echo force-unsafe-io > "$TREE.tmp/etc/dpkg/dpkg.cfg.d/lab" &&
    # the second stage has its own copy of what the folder of the first holds
    env -u DEBOOTSTRAP_DIR chroot "$TREE.tmp" /debootstrap/debootstrap --second-stage; } >"$RUN/debootstrap.log" 2>&1 9>&- ||
    { tail -n 5 "$RUN/debootstrap.log" "$TREE.tmp/debootstrap/debootstrap.log" >&2 || :; exit 1; }
  rm "$TREE.tmp/etc/dpkg/dpkg.cfg.d/lab"
  rm -rf "$TREE.tmp"/var/cache/apt/archives/*.deb "$TREE.tmp"/var/lib/apt/lists/* "$TREE.tmp"/var/lib/dbus/machine-id
  : > "$TREE.tmp/etc/machine-id"; echo "$LAB_NAME" > "$TREE.tmp/etc/hostname"; rm -f "$TREE.tmp/etc/resolv.conf"
  for u in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer systemd-journald-audit.socket; do
    ln -sf /dev/null "$TREE.tmp/etc/systemd/system/$u"; done
  echo "$SUITE $PKGS" > "$TREE.tmp/.lab"; mv "$TREE.tmp" "$TREE"
}

[ "$(cat "$TREE/.lab" 2>/dev/null)" = "$SUITE $PKGS" ] || build_tree
[ "${1:-}" != --tree ] || exit 0
rm -f "$RUN/pid" "$RUN/v1"
trap 'rc=$?; [ $rc = 0 ] || { echo "boot failed; its log:" >&2; tail -n 20 "$RUN/boot.log" >&2; flock -u 9; "$HERE/down.sh" -f >&2 || :; }' EXIT
setsid unshare --mount -- "$HERE/lib/stage1.sh" >"$RUN/boot.log" 2>&1 </dev/null 9>&- &
state=
for _ in $(seq 1 1200); do
  sleep 0.05
  [ -f "$RUN/pid" ] || continue
  alive "$RUN/pid" || exit 1
  if [ "$LAB_INIT" != /lib/systemd/systemd ]; then
    # Its root is the tree's own once everything is laid out.
    if inside test -f /.lab -a ! -e /.old; then state=running; break; fi
    continue
  fi
  state=$(inside systemctl is-system-running 2>/dev/null || :)
  case $state in running|degraded) break;; esac
done
case $state in running|degraded) echo "up: $state";; *) echo "state after 60 s: $state" >&2; exit 1;; esac
