systemd-sysusers rst.conf
if [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload || :
fi
# Enabled where the host's presets say so; never started unasked.
if [ "$1" -eq 1 ]; then
    systemctl --no-reload preset rst-daemon.service || :
fi
