# shellcheck shell=sh
#
# How an old portsentry's settings and state become ours: read by the scripts of the packages for Debian and of the RPM, as root, when
# ours takes the old one's place. It leaves to them what their package managers know: whether the old one is a 2.x (is_2, a function of
# theirs), what the old package deletes, and when services are started and stopped.

# Whoever installs may keep his own files from others; the service must read these.
umask 022

etc=/etc/portsentry
native=$etc/portsentry.toml
old=$etc/portsentry.conf
state=/var/lib/portsentry
share=/usr/share/portsentry

only_logs() {
    ! grep -q '^response = "\(ban\|command\)"' "$native"
}

# Gives the unit one of the drop-ins that come with it.
drop_in() {
    directory=/etc/systemd/system/portsentry-nft.service.d
    mkdir -p "$directory"
    [ -e "$directory/$1.conf" ] || ln -s "$share/drop-ins/$1.conf" "$directory/$1.conf"
}

# Files of the admin's by which 2.x was started with options of its own.
units_of_2() {
    for file in /etc/systemd/system/portsentry.service /etc/systemd/system/portsentry.service.d/*.conf; do
        if [ -f "$file" ] && [ ! -L "$file" ] && grep -q '^ExecStart=' "$file"; then
            echo "$file"
        fi
    done
}

# The options that it was started with.
options_of_2() {
    units_of_2 | while read -r file; do
        sed -n 's/^ExecStart=[^ ]* / /p' "$file"
    done
}

# What 2.x did and could not be told in its configuration: it saw packets before the firewall did, those to the interfaces that it
# was started with.
see_as_2() {
    interfaces=$(options_of_2 | grep -oE -e ' (-i *|--interface[ =])[^ ]+' | sed -E 's/^ (-i *|--interface.)//' \
        | grep -vxE 'ALL|ALL_NLO|any' | sed 's/.*/"&"/' | paste -s -d ,) || true
    sed -i -e '/^\[capture\]/,/^\[tcp\]/{s/^method = .*/method = "packet"/;s/^interfaces = .*/interfaces = ['"$interfaces"']/}' "$native.new"
    # Its blocked file is binary, and for others to write beside.
    sed -i '/^\[history\]/,$s/^blocked = .*/blocked = ""/' "$native.new"
}

# Has it written where the service may write, which is below its state directory alone.
keep_state_at_home() {
    text=$(sed -n '/^\[history\]/,$s/^text = "\(.*\)"/\1/p' "$native.new")
    sed -i "/^\\[history\\]/,\$s|^file = .*|file = \"$state/history.db\"|" "$native.new"
    case $text in
        '') ;;
        "$state"/*)
            [ ! -e "$text" ] || cp -p "$text" "$text.1.2"
            ;;
        *)
            # Purging the old one may delete it.
            [ ! -e "$text" ] || cp -p "$text" "$state/${text##*/}.old"
            sed -i "/^\\[history\\]/,\$s|^text = .*|text = \"$state/history.log\"|" "$native.new"
            echo "portsentry-nft: scans are written to $state/history.log, and no more to $text, where the service may not." >&2
            ;;
    esac
    sed -i "/^\\[history\\]/,\$s|^blocked = \"/.*/|blocked = \"$state/|" "$native.new"
}

# Makes a native configuration of the old portsentry's, for take_over to put in its place. Fails where that has mistakes, and tells
# them. What goes with the old package, at once or when it is purged, is copied before.
convert_old() {
    mkdir -p "$etc/1.2"
    for file in portsentry.conf portsentry.ignore portsentry.ignore.static; do
        [ ! -e "$etc/$file" ] || cp -p "$etc/$file" "$etc/1.2/$file"
    done
    modes=
    if is_2; then
        modes=--modes=stcp,sudp
        ! options_of_2 | grep -q -e '--connect' || modes=--modes=tcp,udp
    fi
    # shellcheck disable=SC2086 # nothing, where there are none
    if ! portsentry convert $modes "$old" >"$native.new"; then
        rm -f "$native.new"
        return 1
    fi
}

# Puts what convert_old has made to use, with the copies of the ignore files.
take_over() {
    # 1.2's scripts made it at each start.
    [ -e "$etc/1.2/portsentry.ignore" ] || touch "$etc/1.2/portsentry.ignore"
    sed -i "/^legacy_files = /s|\"$etc/portsentry\\.ignore|\"$etc/1.2/portsentry.ignore|g" "$native.new"
    ! is_2 || see_as_2
    install -d -m 0750 "$state"
    keep_state_at_home
    mv "$native.new" "$native"
    if grep -q '^responders = .*"hosts-deny"' "$native"; then
        if only_logs; then
            # Nobody is banned: there is no need to give it more rights. Who has it ban is told in its status what is missing.
            sed -i '/^\[hosts-deny\]/,/^\[/s/^optional = false/optional = true/' "$native"
        else
            drop_in hosts-deny
        fi
    fi
    if grep -q '^mode = .*"connect"' "$native"; then
        drop_in listen
    fi
    if grep -q '^\(run\|ban\) = \(\[.\|".\)' "$native" && grep -q '^responders = .*"command"\|^response = "command"' "$native"; then
        drop_in command
    fi
    echo "portsentry-nft: $native was made of $old, which is not read any more."
}

# Migrates whom the old one, which is stopped, has shut out, unless ours only logs. Words that are handed in come before the command.
migrate_bans() {
    only_logs || "$@" portsentry migrate --apply \
        || echo "portsentry-nft: what the old portsentry has left is not migrated; later: portsentry migrate --apply" >&2
}

# Gives the service's user what is in its state directory, and the copies of ignore files to read, which 1.2 had for root alone. After
# the migration: that believes no files that others than root may have written.
give_files() {
    install -d -m 0750 -o portsentry -g portsentry "$state"
    for file in "$state"/*; do
        [ ! -f "$file" ] || chown -h portsentry:portsentry "$file"
    done
    for file in "$etc"/1.2/portsentry.ignore*; do
        [ ! -f "$file" ] || { chgrp portsentry "$file" && chmod g+r "$file"; }
    done
}

# Links that started the old one, and lead nowhere now.
remove_dangling_links() {
    for link in /etc/systemd/system/multi-user.target.wants/portsentry.service \
        /etc/systemd/system/multi-user.target.wants/portsentry@*.service; do
        if [ -L "$link" ] && [ ! -e "$link" ]; then
            rm "$link"
        fi
    done
}

# Ours takes the old one's name, and would be started as files of the admin's for 2.x say. Undone by give_back_units_of_2.
rename_units_of_2() {
    if is_2; then
        units_of_2 | while read -r file; do
            mv "$file" "$file.old"
            echo "portsentry-nft: $file started the old portsentry, and is $file.old now." >&2
        done
    fi
}

# Ours is gone: should the old one come back, it is started as it was.
give_back_units_of_2() {
    for file in /etc/systemd/system/portsentry.service.old /etc/systemd/system/portsentry.service.d/*.conf.old; do
        if [ -f "$file" ] && [ ! -e "${file%.old}" ]; then
            mv "$file" "${file%.old}"
        fi
    done
}
