# SPDX-License-Identifier: Apache-2.0
# zarya-common.sh - what the scripts beside it share: where the programs are, and where the logs go. Read with ".", never run.
# ZARYA_HERE is the scripts' own folder, links followed.

# Prints the path of a program: beside the scripts, in $ZARYA_BIN, in the search path.
zarya_program() {
    for dir in "$ZARYA_BIN" "$ZARYA_HERE"; do
        if [ -n "$dir" ] && [ -x "$dir/$1" ]; then
            echo "$dir/$1"
            return 0
        fi
    done
    if command -v "$1" 2> /dev/null; then return 0; fi
    echo "$1 is neither in $ZARYA_HERE nor in the search path; ZARYA_BIN may name its folder" >&2
    return 1
}

# zarya_run LOGNAME FACE [arguments]: becomes the daemon. What it says goes to the console and is appended to the log file;
# the process keeps this script's id, so that what started it can stop it.
zarya_run() {
    log_name=$1
    face=$2
    shift 2
    program=$(zarya_program zarya) || exit 1
    for arg; do
        case $arg in
        -p | -m | -h | --help | --version | --check | --print-config) exec "$program" "$face" "$@" ;; # it only prints
        esac
    done
    log_dir=${ROCKETMQ_LOG_DIR:-${HOME:-/tmp}/logs/rocketmqlogs}
    if ! mkdir -p "$log_dir" 2> /dev/null || ! : 2> /dev/null >> "$log_dir/$log_name.log"; then
        echo "The log $log_dir/$log_name.log cannot be written; logging to the console only" >&2
        exec "$program" "$face" "$@"
    fi
    log=$log_dir/$log_name.log
    if [ "$(wc -c < "$log")" -gt 104857600 ]; then mv -f "$log" "$log.1"; fi
    pipe=$(mktemp -d) && mkfifo "$pipe/log" || exit 1
    tee -i -a "$log" < "$pipe/log" & # ends when the daemon has closed its end
    exec 3> "$pipe/log"
    rm -rf "$pipe"
    exec "$program" "$face" "$@" >&3 2>&1 3>&-
}
