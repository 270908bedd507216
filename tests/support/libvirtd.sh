#!/bin/bash
# Runs virtlogd and libvirtd in the namespaces of this process: libvirtd.sh STATE CAPABILITIES [--listen]
#
# libvirt's folders are compiled in, and the daemons lock them. So folders below STATE are mounted over them: daemons of
# several tests, and the system's own, know nothing of each other. CAPABILITIES is shared: libvirt asks each qemu binary what
# it can do, which takes 10 s, and remembers it there. /var/lock has the locks of consoles, with the number of a process:
# in each of these namespaces libvirtd has the same one, and would take a dead one's lock for that of a living.
set -eu
state=$1 capabilities=$2
for folder in /etc/libvirt /run/libvirt /var/lock /var/cache/libvirt /var/lib/libvirt /var/log/libvirt; do
  mkdir -p "$state$folder" "$folder"
  mount --bind "$state$folder" "$folder"
done
mkdir -p /var/cache/libvirt/qemu/capabilities
mount --bind "$capabilities" /var/cache/libvirt/qemu/capabilities
virtlogd -d -p "$state/virtlogd.pid"
# Not exec: process 1 of a namespace has to reap the orphans, and libvirtd does not. One that a test kills comes back, as
# under systemd.
status=137
while [ $status -eq 137 ]; do
  status=0
  libvirtd -f "$state/libvirtd.conf" -p "$state/libvirtd.pid" "${@:3}" &
  wait $! || status=$?
done
