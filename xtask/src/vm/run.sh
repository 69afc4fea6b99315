# Runs the command on the guest's root, and leaves its exit code and the kernel's log in the shared folder.
# Put before it: RELEASE, MODULES, WORKING_DIR and DEADLINE.
share=/run/guest/share
# Whoever started the guest may be gone.
(sleep "$DEADLINE"; echo o > /proc/sysrq-trigger) &
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
export HOME=/root TERM=dumb LC_ALL=C.UTF-8 TMPDIR=/run/guest/tmp NETPLANE_GUEST="$RELEASE"
mkdir -p /dev/pts /dev/shm "/lib/modules/$RELEASE"
mount -t devpts devpts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t bpf bpf /sys/fs/bpf
mount -t tracefs tracefs /sys/kernel/tracing
mount -t cgroup2 cgroup2 /sys/fs/cgroup
for link in fd:/proc/self/fd stdin:fd/0 stdout:fd/1 stderr:fd/2; do
    ln -sf "${link#*:}" "/dev/${link%%:*}"
done
mount --bind "$MODULES" "/lib/modules/$RELEASE"
modprobe tun
ip link set lo up
stty -F /dev/hvc0 raw -echo
cd "$WORKING_DIR" || cd /
(bash "$share/command.sh" < /dev/null 2>&1; echo $? > "$share/code") | cat > /dev/hvc0
dmesg > "$share/kernel.log"
sync
echo o > /proc/sysrq-trigger
sleep 60
