#!/bin/bash
# PID 1 of fresh pid, mount, uts, ipc, net and cgroup namespaces: lays out what a container gets, then becomes systemd.
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/common.sh"
R=$1; ro() { mount --bind "$1" "$1"; mount -o "remount,bind,ro,nosuid,nodev,noexec" "$1"; }
hostname "$LAB_NAME"
mount -t proc -o nosuid,nodev,noexec proc "$R/proc"
mount -t tmpfs -o mode=755,nosuid,nodev tmpfs "$R/run"; mkdir -p "$R/run/host"
cat /proc/sys/kernel/random/uuid > "$R/run/host/boot_id"           # a boot id of its own, as nspawn gives
mount --bind "$R/run/host/boot_id" "$R/proc/sys/kernel/random/boot_id"
mount --rbind "$R/proc/sys" "$R/proc/sys"; mount -o remount,bind,ro,nosuid,nodev,noexec "$R/proc/sys"
for p in sysrq-trigger irq bus fs acpi; do [ ! -e "$R/proc/$p" ] || ro "$R/proc/$p"; done
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs "$R/sys"
if [ -s "$RUN/v1" ]; then   # what systemd takes for the hybrid hierarchy; it mounts the rest itself
  mount -t tmpfs -o mode=755,nosuid,nodev,noexec tmpfs "$R/sys/fs/cgroup"; mkdir "$R/sys/fs/cgroup/unified"
  mount -t cgroup2 -o rw,nosuid,nodev,noexec cgroup2 "$R/sys/fs/cgroup/unified"
else mount -t cgroup2 -o rw,nosuid,nodev,noexec cgroup2 "$R/sys/fs/cgroup"; fi
mount -t tmpfs -o mode=755,nosuid tmpfs "$R/dev"
for d in "null 1 3" "zero 1 5" "full 1 7" "random 1 8" "urandom 1 9" "tty 5 0"; do set -- $d; mknod -m 666 "$R/dev/$1" c "$2" "$3"; done
mkdir "$R/dev/pts" "$R/dev/shm"; ln -s pts/ptmx "$R/dev/ptmx"
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts "$R/dev/pts"
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/dev/shm"
for i in "/proc/self/fd fd" "fd/0 stdin" "fd/1 stdout" "fd/2 stderr"; do set -- $i; ln -s "$1" "$R/dev/$2"; done
mount -t tmpfs -o mode=1777,nosuid,nodev tmpfs "$R/tmp"
cd "$R"; mkdir -p .old; pivot_root . .old; cd /; umount -l /.old; rmdir /.old
mount --make-rshared /    # in a container systemd leaves this to the manager; without it LoadCredential= files are unreadable
if [ "$LAB_INIT" != /lib/systemd/systemd ]; then   # a shell takes in what is orphaned
  exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin /bin/bash -c "$LAB_INIT & wait"
fi
exec env -i container="lab" PATH=/usr/sbin:/usr/bin:/sbin:/bin setpriv \
  --bounding-set=-sys_module,-sys_time,-sys_rawio,-syslog,-sys_boot,-audit_control,-audit_read,-audit_write,-wake_alarm,-mac_admin,-mac_override \
  -- /lib/systemd/systemd --show-status=no --log-target=journal
