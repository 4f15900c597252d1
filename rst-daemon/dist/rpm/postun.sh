if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload || :
    # Upgraded.
    if [ "$1" -ge 1 ]; then
        systemctl try-restart rst-daemon.service || :
    fi
fi
# Removed, not upgraded: the counts go with it.
if [ "$1" -eq 0 ]; then
    rm -rf /sys/fs/bpf/rst
fi
