#!/bin/bash
# Runs in a private mount namespace: the root as an overlay, a cgroup2 hierarchy, then stage2.sh in new namespaces.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/common.sh"
mount --make-rprivate /
m=$RUN/mnt; mkdir -p "$m"; mount -t tmpfs -o mode=755,size=2G lab "$m"; mkdir "$m"/{up,wk,root}
mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$m/up,workdir=$m/wk" "$m/root"
R=$m/root
tar -C "$LAB_PAYLOAD" --owner=0 --group=0 -cf - . | tar -C "$R" -xf - --no-overwrite-dir --keep-directory-symlink
while read -r bind; do   # at the same place below the root: "from:to", or one path, read-only
  [ -n "$bind" ] || continue
  from=${bind%%:*} to=$R${bind#*:}
  if [ -d "$from" ]; then mkdir -p "$to"; else mkdir -p "${to%/*}"; [ -e "$to" ] || : > "$to"; fi
  mount --bind "$from" "$to"
  case $bind in *:*) ;; *) mount -o remount,bind,ro "$to";; esac
done <<< "$LAB_BINDS"
tr -d - </proc/sys/kernel/random/uuid > "$R/etc/machine-id"
# This view of /sys/fs/cgroup becomes the cgroup2 hierarchy, in this mount namespace only; the host's mounts stay.
umount -R /sys/fs/cgroup 2>/dev/null || :; mount -t cgroup2 cgroup2 /sys/fs/cgroup
own() { # own FOLDER: a cgroup of this machine's below it; one of the controller cpuset starts empty and takes nobody
  mkdir -p "$1/$LAB_NAME"
  for f in cpuset.cpus cpuset.mems; do [ ! -f "$1/$f" ] || [ ! -w "$1/$LAB_NAME/$f" ] || cat "$1/$f" > "$1/$LAB_NAME/$f"; done
  echo $$ > "$1/$LAB_NAME/cgroup.procs"; }
own /sys/fs/cgroup
for c in $LAB_CONTROLLERS; do echo "+$c" > /sys/fs/cgroup/cgroup.subtree_control || :; done 2>/dev/null
# A host that keeps controllers in version 1 gives this machine a part of each such hierarchy: systemd mounts them all.
if [ -n "$LAB_CONTROLLERS" ]; then
  in_v1 > "$RUN/v1"; mkdir "$m/v1"
  while IFS=: read -r _ c p <&3; do mount -t cgroup -o "$c" cgroup "$m/v1"; own "$m/v1$p"; umount "$m/v1"; done 3< "$RUN/v1"
fi
cd /; echo "$$ $(starttime $$)" > "$RUN/pid"
exec unshare --fork --kill-child --pid --mount --uts --ipc --net --cgroup -- "$HERE/lib/stage2.sh" "$R"
