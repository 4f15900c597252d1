#!/bin/busybox sh
# The first process of a guest: makes it fit for the live tests, runs them, and says on the second
# serial line when it begins and how it ends.
export PATH=/usr/bin:/bin HOME=/root
# Nothing is mounted on /tmp and /run, which may hold what the tests run.
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp /run /root
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tracefs tracefs /sys/kernel/tracing
mount -t bpf bpf /sys/fs/bpf
mount -t cgroup2 cgroup /sys/fs/cgroup
for module in /modules/*; do
    insmod "$module" || echo "cannot load $module"
done
/usr/bin/ip link set lo up
export RST_TEST_EMULATED=1
# What the kernel's command line says of the tests.
exec > "/dev/$tests_tty" 2>&1
echo GUEST-BEGINS
/usr/bin/live --test-threads=1 --nocapture --exact $(cat /tests)
echo "GUEST-ENDS $?"
sync
poweroff -f
