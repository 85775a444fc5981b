# Shared settings; sourced by boot.sh, run-in.sh, down.sh, lib/stage1.sh.
HERE=$(cd "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/.." && pwd)   # the scripts
export LAB_DIR=${LAB_DIR:?names the folder that keeps the tree and the state of the run}
export LAB_PAYLOAD=${LAB_PAYLOAD:-$LAB_DIR/payload}                     # files laid over the root at boot
export LAB_CONTROLLERS=${LAB_CONTROLLERS:-}                            # of cgroups, for limits that hold: "memory pids"
export LAB_NAME=${LAB_NAME:-obtlab}                                     # cgroup name and host name
export LAB_BINDS=${LAB_BINDS:-}     # what the machine sees of this one, a line each: PATH read-only, FROM:TO writable
export LAB_INIT=${LAB_INIT:-/lib/systemd/systemd}                      # PID 1; another than systemd is run by a shell
SUITE=${LAB_SUITE:-bookworm}
PKGS=${LAB_PKGS:-systemd,systemd-sysv,dbus,libpam-systemd,python3,python3-venv}
TREE=$LAB_DIR/tree; RUN=$LAB_DIR/run/$LAB_NAME                         # one tree, and a run for each machine

starttime() { # starttime PID: when the process started, in clock ticks; nothing for one that is gone or a zombie
  local s; s=$(cat "/proc/$1/stat" 2>/dev/null) || return 0; s=${s##*) }; set -- $s; [ "$1" = Z ] || echo "${20}"; }
alive() { # alive FILE: FILE holds "pid starttime"; true when that very process still runs
  local p t; [ -f "$1" ] && read -r p t < "$1" && [ -n "$t" ] && [ "$(starttime "$p")" = "$t" ]; }
leader() { # the booted system's PID 1, as a pid out here
  local p t; read -r p t < "$RUN/pid"; awk '{print $1}' "/proc/$p/task/$p/children" 2>/dev/null; }
in_v1() { # hierarchies of version 1 with controllers, as "id:controllers:path"
  awk -F: '$1 != 0' /proc/self/cgroup; }
inside() { local l; l=$(leader); [ -n "$l" ] && nsenter -t "$l" -m -p -u -i -n -C --wdns=/ -- "$@"; }
