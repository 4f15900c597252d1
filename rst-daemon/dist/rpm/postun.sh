if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload || :
    # Upgraded.
    if [ "$1" -ge 1 ]; then
        systemctl try-restart rst-daemon.service || :
    fi
fi
