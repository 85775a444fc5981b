#!/bin/bash
# Runs in a private mount namespace: the root as an overlay, a cgroup2 hierarchy, then stage2.sh in new namespaces.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/common.sh"
mount --make-rprivate /
m=$RUN/mnt; mkdir -p "$m"; mount -t tmpfs -o mode=755,size=2G lab "$m"; mkdir "$m"/{up,wk,root}
mount -t overlay overlay -o "lowerdir=$TREE,upperdir=$m/up,workdir=$m/wk" "$m/root"
R=$m/root
tar -C "$LAB_PAYLOAD" --owner=0 --group=0 -cf - . | tar -C "$R" -xf - --no-overwrite-dir --keep-directory-symlink
tr -d - </proc/sys/kernel/random/uuid > "$R/etc/machine-id"
# This view of /sys/fs/cgroup becomes the cgroup2 hierarchy, in this mount namespace only; the host's mounts stay.
umount -R /sys/fs/cgroup 2>/dev/null || :; mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir -p "/sys/fs/cgroup/$LAB_NAME"; echo $$ > "/sys/fs/cgroup/$LAB_NAME/cgroup.procs"
cd /; echo "$$ $(starttime $$)" > "$RUN/pid"
exec unshare --fork --kill-child --pid --mount --uts --ipc --net --cgroup -- "$HERE/lib/stage2.sh" "$R"
