# Removed, not upgraded.
if [ "$1" -eq 0 ]; then
    if [ -d /run/systemd/system ]; then
        systemctl --no-reload disable --now rst-daemon.service || :
    else
        systemctl --no-reload disable rst-daemon.service || :
    fi
fi
