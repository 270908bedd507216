#!/bin/bash
# Boots systemd in the namespaces of this process, on a copy of this machine's root that vanishes with it:
# bootedsystem.sh STATE FILE... (the files are copied into its /root).
#
# Nothing of the machine is started, and nothing of it changes: all writes go to a tmpfs; /proc/sys and /sys are read-only.
set -eu
state=$1
shift
mount --make-rprivate /
mount -t tmpfs tmpfs "$state"
mkdir "$state/upper" "$state/work" "$state/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$state/upper,workdir=$state/work" "$state/root"
cd "$state/root"
cp -- "$@" root/
# Only what the test starts: no service that the machine has enabled, none of its guests and networks, no login on a console.
rm -rf etc/systemd/system/*.wants etc/libvirt/qemu/*.xml etc/libvirt/qemu/networks/autostart var/lib/hypersdk
for unit in console-getty systemd-udevd systemd-udev-trigger systemd-timesyncd; do
  ln -sf /dev/null "etc/systemd/system/$unit.service"
done
: >etc/machine-id
ip link set lo up
mount -t proc proc proc
mount --bind proc/sys proc/sys
mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/net dev/pts dev/shm
for device in null zero full random urandom tty kvm net/tun; do
  [ ! -e "/dev/$device" ] || cp -a "/dev/$device" "dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s null dev/console
mkdir .old
pivot_root . .old # not chroot, in which no user namespace can be made
umount -l .old
mount --make-rshared / # systemd passes credentials by mounts that its services see
exec env -i container=test PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 /lib/systemd/systemd --unit=multi-user.target
