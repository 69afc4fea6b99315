#!/bin/busybox sh
# The guest's first process. It makes the host's files the guest's root: read-only over 9p, below a layer in
# memory that takes what is written. `guest.rs` gives the other half, `run.sh`.
b=/bin/busybox
$b mount -t devtmpfs dev /dev
$b mount -t proc proc /proc
$b mount -t sysfs sys /sys
die() {
    echo "guest: $*" > /dev/ttyS0
    echo o > /proc/sysrq-trigger
    $b sleep 60
}
while read -r module; do
    $b insmod "/modules/$module" || die "insmod $module"
done < /modules/order
options=trans=virtio,version=9p2000.L,msize=512000
$b mount -t 9p -o "$options,cache=loose,ro" host /lower || die "mount the host's root"
$b mount -t tmpfs -o mode=755 upper /upper
$b mkdir /upper/files /upper/work
$b mount -t overlay -o lowerdir=/lower,upperdir=/upper/files,workdir=/upper/work root /top || die "overlay"
$b mount -t tmpfs -o mode=755 run /top/run
$b mkdir -p /top/run/lock /top/run/guest/share /top/run/guest/tmp
$b mount -t 9p -o "$options,cache=none,rw" share /top/run/guest/share || die "mount the shared folder"
for place in dev sys proc; do
    $b mount --move "/$place" "/top/$place"
done
exec $b switch_root /top /bin/sh /run/guest/share/run.sh
