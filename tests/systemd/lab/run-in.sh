#!/bin/bash
# run-in.sh [-i] 'command': run a bash command in the booted system as root; output and exit code pass through.
# -i passes standard input. LAB_TIMEOUT bounds the command, in seconds (default 300).
set -euo pipefail
. "$(dirname "$(readlink -f "$0")")/lib/common.sh"
I=; [ "${1:-}" = -i ] && { I=1; shift; }
alive "$RUN/pid" || { echo "lab: not up" >&2; exit 125; }
[ -n "$I" ] || exec </dev/null
L=$(leader); [ -n "$L" ] || { echo "lab: no leader" >&2; exit 125; }
# Joins init.scope, so that the command is not outside the system's own cgroup root.
nsenter -t "$L" -m -p -u -i -n -C --wdns=/ -- /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 TERM=dumb \
  /bin/bash -c 'for g in /sys/fs/cgroup/{,unified/,memory/,pids/}init.scope; do [ ! -d $g ] || echo $BASHPID > $g/cgroup.procs; done 2>/dev/null; exec timeout "$1" /bin/bash -c "$2"' _ "${LAB_TIMEOUT:-300}" "$1"
