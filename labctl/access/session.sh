# In the guest: puts an sshd of its own at this end of a channel, and prints the host key by which it can be known.
# $1: the channel's name. $2: a word that is said first, where the session begins. $3: the public key that may log in.
set -eu
port=/dev/virtio-ports/$1 state=/run/labctl/$1 word=$2
# The other end is ours alone: whoever still has this one serves somebody who is gone.
for _ in $(seq 100); do
    fuser -s -k -KILL "$port" || break
    sleep 0.05
done
# Out of the agent's control group: systemd would end the session with the agent.
[ ! -w /sys/fs/cgroup/cgroup.procs ] || echo 0 >/sys/fs/cgroup/cgroup.procs
mkdir -p /run/labctl /run/sshd
printf '%s\n' "$3" >"$state.keys"
# -f none: a guest's own sshd_config, whatever is in it, is about a network, and so are PAM's limits on logins.
set -- -i -f none -E "$state.log" -o HostKey=/etc/ssh/ssh_host_ed25519_key -o "AuthorizedKeysFile=$state.keys" \
    -o AuthenticationMethods=publickey -o UsePAM=no -o UseDNS=no -o PrintLastLog=no -o SetEnv=LANG=C.UTF-8 \
    -o 'Subsystem=sftp internal-sftp'
: >"$state.log"
# Nobody may poll(2) a port by two descriptors, as sshd does with its input and output: when virtio_console's
# port_fops_poll (Linux 6.12) finds data for the second, the interrupt finds none, and who waits on the first sleeps on.
# One session in thirty hung so. cat(1) reads and writes without polling. Its input ends when the host's end is closed;
# its output would then wait for another host, so all end.
setsid --fork /bin/sh -c 'printf "%s\n" "$0"; { cat; sleep 1; kill 0; } | /usr/sbin/sshd "$@" | cat' "$word" "$@" \
    <>"$port" >&0 2>>"$state.log"
cat /etc/ssh/ssh_host_ed25519_key.pub
