# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_portsentry_global_optspecs
    string join \n c/config= h/help V/version
end

function __fish_portsentry_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_portsentry_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_portsentry_using_subcommand
    set -l cmd (__fish_portsentry_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c portsentry -n "__fish_portsentry_needs_command" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_needs_command" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_needs_command" -s V -l version -d 'Print version'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "run" -d 'Watch for port scans and ban who scans, in the foreground'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "check" -d 'Look for mistakes in the configuration and in the ignore files it names'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "convert" -d 'Print a configuration, such as that of portsentry 1.2, as a complete and explained native one'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "migrate" -d 'Show what an old portsentry (1.2 or 2.x) has left in the kernel and on disk, and turn it into timed bans'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "status" -d 'Tell how the daemon is; exit status 1 when none runs or when bans are not in force'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "list" -d 'List the bans in force'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "ban" -d 'Ban an address or a prefix'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "import" -d 'Ban all that a list names'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "export" -d 'Print the bans in force as a list that `import` takes: the sources, with ends and reasons as comments'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "unban" -d 'Lift every ban that covers an address'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "ignore" -d 'Say who is never banned: edit or list the ignore files'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "history" -d 'Show past and present bans, the newest first'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "explain" -d 'Tell all that is known of an address: its probes, its bans and where they stand, its history, who it is'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "reload" -d 'Have the daemon read its configuration and ignore files again'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "test-responders" -d 'Ban a documentation address through each responder, look whether it is there, lift the ban, and look again'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "withdraw" -d 'Take down everything of ours, in the kernel and in hosts.deny; history stays'
complete -c portsentry -n "__fish_portsentry_needs_command" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c portsentry -n "__fish_portsentry_using_subcommand run" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand run" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand check" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand check" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand convert" -l modes -d 'The modes portsentry 1.2 is started in: tcp, udp, stcp, sudp, atcp, audp [default: as its init scripts say]' -r
complete -c portsentry -n "__fish_portsentry_using_subcommand convert" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand convert" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand migrate" -l from -d 'The old portsentry\'s configuration; then only the history and blocked files that it names are read [default: /etc/portsentry/portsentry.conf, if there is one, and the files that Debian\'s packages of 1.2 and 2.x have]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand migrate" -l hosts-deny -d 'The file that the old portsentry added its lines to' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand migrate" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand migrate" -l apply -d 'Ban whom the old portsentry shut out, and take away what it left; without this, only show it'
complete -c portsentry -n "__fish_portsentry_using_subcommand migrate" -l json -d 'Print JSON'
complete -c portsentry -n "__fish_portsentry_using_subcommand migrate" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand status" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand status" -l json -d 'Print JSON'
complete -c portsentry -n "__fish_portsentry_using_subcommand status" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand list" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand list" -l json -d 'Print JSON'
complete -c portsentry -n "__fish_portsentry_using_subcommand list" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand ban" -l for -d 'How long: 2h, 30d, "1h 30m", or ever [default: ban.duration]' -r
complete -c portsentry -n "__fish_portsentry_using_subcommand ban" -l reason -d 'Why, for the list, the history and the set\'s comment' -r
complete -c portsentry -n "__fish_portsentry_using_subcommand ban" -l revert -d 'Undo the ban after this time, unless it is confirmed by then: for who might shut himself out. Needs the daemon' -r
complete -c portsentry -n "__fish_portsentry_using_subcommand ban" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand ban" -l force -d 'Ban a friend too, while this ban lasts: one that is ignored, a gateway, a name server, somebody who is logged in. Never this host\'s own addresses, loopback and the like'
complete -c portsentry -n "__fish_portsentry_using_subcommand ban" -l confirm -d 'Keep a ban that was made with --revert; its time begins anew'
complete -c portsentry -n "__fish_portsentry_using_subcommand ban" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand import" -l for -d 'How long each is banned: 2h, 30d, "1h 30m", or ever [default: ban.duration]. Who is banned for longer already stays so' -r
complete -c portsentry -n "__fish_portsentry_using_subcommand import" -l reason -d 'Why, for the list, the history and the set\'s comment [default: imported]' -r
complete -c portsentry -n "__fish_portsentry_using_subcommand import" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand import" -l json -d 'Print JSON'
complete -c portsentry -n "__fish_portsentry_using_subcommand import" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand export" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand export" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand unban" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand unban" -l all -d 'Lift every ban'
complete -c portsentry -n "__fish_portsentry_using_subcommand unban" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and not __fish_seen_subcommand_from add remove list help" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and not __fish_seen_subcommand_from add remove list help" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and not __fish_seen_subcommand_from add remove list help" -f -a "add" -d 'Never ban an address, a prefix, or whoever has a name, again, and lift its ban'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and not __fish_seen_subcommand_from add remove list help" -f -a "remove" -d 'Take an address, a prefix or a name out of the ignore files'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and not __fish_seen_subcommand_from add remove list help" -f -a "list" -d 'List who is ignored, and where that is written'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and not __fish_seen_subcommand_from add remove list help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from add" -l remark -d 'What to write behind it' -r
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from add" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from add" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from remove" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from remove" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from list" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from list" -l json -d 'Print JSON'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from list" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from help" -f -a "add" -d 'Never ban an address, a prefix, or whoever has a name, again, and lift its ban'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from help" -f -a "remove" -d 'Take an address, a prefix or a name out of the ignore files'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from help" -f -a "list" -d 'List who is ignored, and where that is written'
complete -c portsentry -n "__fish_portsentry_using_subcommand ignore; and __fish_seen_subcommand_from help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c portsentry -n "__fish_portsentry_using_subcommand history" -s n -l limit -d 'Show at most this many, the newest' -r
complete -c portsentry -n "__fish_portsentry_using_subcommand history" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand history" -l json -d 'Print JSON'
complete -c portsentry -n "__fish_portsentry_using_subcommand history" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand explain" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand explain" -l json -d 'Print JSON'
complete -c portsentry -n "__fish_portsentry_using_subcommand explain" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand reload" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand reload" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand test-responders" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand test-responders" -l json -d 'Print JSON'
complete -c portsentry -n "__fish_portsentry_using_subcommand test-responders" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand withdraw" -s c -l config -d 'The configuration file: TOML, or one of portsentry 1.2 where its name ends in .conf [default: /etc/portsentry/portsentry.toml, or portsentry.conf where there is none]' -r -F
complete -c portsentry -n "__fish_portsentry_using_subcommand withdraw" -l clockless -d 'Only what would never end by itself: our lines in hosts.deny'
complete -c portsentry -n "__fish_portsentry_using_subcommand withdraw" -s h -l help -d 'Print help'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "run" -d 'Watch for port scans and ban who scans, in the foreground'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "check" -d 'Look for mistakes in the configuration and in the ignore files it names'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "convert" -d 'Print a configuration, such as that of portsentry 1.2, as a complete and explained native one'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "migrate" -d 'Show what an old portsentry (1.2 or 2.x) has left in the kernel and on disk, and turn it into timed bans'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "status" -d 'Tell how the daemon is; exit status 1 when none runs or when bans are not in force'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "list" -d 'List the bans in force'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "ban" -d 'Ban an address or a prefix'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "import" -d 'Ban all that a list names'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "export" -d 'Print the bans in force as a list that `import` takes: the sources, with ends and reasons as comments'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "unban" -d 'Lift every ban that covers an address'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "ignore" -d 'Say who is never banned: edit or list the ignore files'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "history" -d 'Show past and present bans, the newest first'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "explain" -d 'Tell all that is known of an address: its probes, its bans and where they stand, its history, who it is'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "reload" -d 'Have the daemon read its configuration and ignore files again'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "test-responders" -d 'Ban a documentation address through each responder, look whether it is there, lift the ban, and look again'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "withdraw" -d 'Take down everything of ours, in the kernel and in hosts.deny; history stays'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and not __fish_seen_subcommand_from run check convert migrate status list ban import export unban ignore history explain reload test-responders withdraw help" -f -a "help" -d 'Print this message or the help of the given subcommand(s)'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and __fish_seen_subcommand_from ignore" -f -a "add" -d 'Never ban an address, a prefix, or whoever has a name, again, and lift its ban'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and __fish_seen_subcommand_from ignore" -f -a "remove" -d 'Take an address, a prefix or a name out of the ignore files'
complete -c portsentry -n "__fish_portsentry_using_subcommand help; and __fish_seen_subcommand_from ignore" -f -a "list" -d 'List who is ignored, and where that is written'
