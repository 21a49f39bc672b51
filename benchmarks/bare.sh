#!/bin/bash
# The work of labctl's save and reset in bare virsh and qemu-img commands, to compare with; see lab_state.py.
#
#     bare.sh reset DIRECTORY LAB KEY NODE...   put the nodes of a running lab into the saved state KEY
#     bare.sh save DIRECTORY LAB KEY NODE...    save them, let them run on, and remove what was saved (KEY is a new name)
#
# Prints the seconds of each phase. DIRECTORY is that of labctl's pool.
set -euo pipefail
export LIBVIRT_DEFAULT_URI=${LABCTL_URI:-qemu:///system}
verb=$1 pool=$2 lab=$3 key=$4
shift 4
nodes=("$@")

each() { # FUNCTION: for all nodes side by side
    local node pids=() pid
    for node in "${nodes[@]}"; do "$1" "$node" & pids+=($!); done
    for pid in "${pids[@]}"; do wait "$pid"; done
}
phase() { # NAME FUNCTION
    local began=$EPOCHREALTIME
    each "$2"
    echo "$1 $(awk "BEGIN { print $EPOCHREALTIME - $began }")"
}

power_off() { virsh -q destroy "$lab.$1" >/dev/null; }
overlay() {
    rm -f "$pool/lab.$lab.$1.qcow2"
    qemu-img create -q -f qcow2 -F qcow2 -b "$pool/state.$key.$1.qcow2" "$pool/lab.$lab.$1.qcow2"
}
restore() { virsh -q restore --paused "$pool/state.$key.$1.ram" >/dev/null; }
resume() { virsh -q resume "$lab.$1" >/dev/null; }
pause() { virsh -q suspend "$lab.$1" >/dev/null; }
save() {
    virsh -q save --image-format sparse "$lab.$1" "$pool/state.$key.$1.ram" >/dev/null
    cp --sparse=always "$pool/lab.$lab.$1.qcow2" "$pool/state.$key.$1.qcow2"
}
remove() { rm -f "$pool/state.$key.$1.ram" "$pool/state.$key.$1.qcow2"; }
agent() {
    until virsh -q qemu-agent-command "$lab.$1" '{"execute": "guest-ping"}' --timeout 1 >/dev/null 2>&1; do sleep 0.1; done
    virsh -q qemu-agent-command "$lab.$1" '{"execute": "guest-exec", "arguments": {"path": "/bin/date",
        "arg": ["--utc", "--set=@'"$(date +%s.%N)"'"]}}' >/dev/null
}

case $verb in
reset)
    phase "power off" power_off
    phase "new overlays" overlay
    phase "restore paused" restore
    phase "resume together" resume
    phase "agents answer, clocks set" agent
    ;;
save)
    phase "pause" pause
    phase "save RAM, copy overlays" save
    phase "restore paused" restore
    phase "resume together" resume
    phase "agents answer, clocks set" agent
    each remove
    ;;
esac
