#!/bin/bash
# down.sh [-f]: orderly poweroff (-f: at once), then remove what is left; signals only recorded processes.
set -uo pipefail
. "$(dirname "$(readlink -f "$0")")/lib/common.sh"
exec 9>"$LAB_DIR/.lock"; flock 9
if alive "$RUN/pid"; then
  read -r P _ < "$RUN/pid"; L=$(leader); LS=$( [ -z "$L" ] || starttime "$L" )
  if [ "${1:-}" != -f ] && [ -n "$L" ]; then
    kill -RTMIN+4 "$L"     # systemd: start poweroff.target
    for _ in $(seq 1 600); do alive "$RUN/pid" || break; sleep 0.05; done
  fi
  if alive "$RUN/pid"; then
    [ -n "$L" ] && [ "$(starttime "$L")" = "$LS" ] && kill -KILL "$L"
    kill -KILL "$P" 2>/dev/null; sleep 0.3
  fi
fi
rm -f "$RUN/pid"
unshare --mount -- bash -c 'mount --make-rprivate /; umount -R /sys/fs/cgroup 2>/dev/null
gone() { if mount -t "$1" -o "$2" "$1" /sys/fs/cgroup; then
  [ ! -d "/sys/fs/cgroup$3" ] || find "/sys/fs/cgroup$3" -depth -type d -exec rmdir {} +; umount /sys/fs/cgroup; fi; }
gone cgroup2 rw "/$1"; while IFS=: read -r _ c p; do gone cgroup "$c" "${p%/}/$1"; done' _ "$LAB_NAME" 2>/dev/null < <(cat "$RUN/v1" 2>/dev/null)
exit 0
