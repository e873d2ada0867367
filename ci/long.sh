#!/usr/bin/env bash
# The long run: every check that is too long for ci/check.sh, one after the other. A check that
# fails stops none; a table of all ends the run, which fails where one did.
#
#   ci/long.sh                     all of them: hours
#   ci/long.sh bytes kills         these, by the names below
#   ci/long.sh --resume            all but those that have passed at this commit
#   ci/long.sh --list
#
# MLP_XP_VENV   where the environment of ci/check.sh lies (default .venv-check)
# LONG_LOGS     where each check's output and result go (default build/long)
# LONG_SCALE    what numbers of rounds and kills are multiplied by (default 1); 0.05 to try it
set -uo pipefail
cd "$(dirname "$0")/.."

export MLP_XP_VENV=${MLP_XP_VENV:-.venv-check}
logs=${LONG_LOGS:-build/long}
scale=${LONG_SCALE:-1}
python=$MLP_XP_VENV/bin/python
kills=$("$python" -c "print(max(2, round(500 * $scale)))") || exit 2

exhaustive() { "$python" -m pytest -q -p no:cacheprovider --exhaustive "$@"; }
check() {
    case $1 in
        headers) exhaustive tests/test_hostile_files.py tests/test_checkpoints.py ;;
        bytes) exhaustive tests/test_hostile_bytes.py ;;
        schedules) exhaustive tests/test_interleaved.py ;;
        memory) exhaustive tests/test_memory.py ;;
        flat) "$python" bench/flat.py --scale "$scale" ;;
        kills) "$python" bench/kills.py --kills "$kills" ;;
        address) bash ci/sanitize.sh address ;;
        thread) bash ci/sanitize.sh thread ;;
        arm64) bash ci/arm64.sh ;;
        package) bash ci/package.sh ;;
        everything) bash ci/check.sh --exhaustive ;; # lint, types and all tests
    esac
}
all=(headers bytes schedules memory flat kills address thread arm64 package everything)

resume=
chosen=()
for argument in "$@"; do
    case $argument in
        --list) printf '%s\n' "${all[@]}"; exit ;;
        --resume) resume=yes ;;
        *) if [[ " ${all[*]} " != *" $argument "* ]]; then
            echo "no check is named $argument: expected some of ${all[*]}" >&2
            exit 2
        fi
        chosen+=("$argument") ;;
    esac
done
[ ${#chosen[@]} -gt 0 ] || chosen=("${all[@]}")

mkdir -p "$logs"
at=$(git describe --always --dirty)
for name in "${chosen[@]}"; do
    result=$logs/$name.result # commit, exit status, seconds
    if [ "$resume" ] && [[ "$(cat "$result" 2> /dev/null)" == "$at 0 "* ]]; then continue; fi
    rm -f "$result"
    echo "== $name: $logs/$name.log"
    began=$SECONDS
    check "$name" > "$logs/$name.log" 2>&1
    echo "$at $? $((SECONDS - began))" > "$result"
done

worst=0
printf '%-12s %6s %8s  %s\n' check status seconds "last line"
for name in "${chosen[@]}"; do
    read -r _ status seconds < "$logs/$name.result"
    printf '%-12s %6s %8s  %s\n' "$name" "$status" "$seconds" "$(tail -n 1 "$logs/$name.log" | cut -c 1-80)"
    [ "$status" = 0 ] || worst=1
done
exit "$worst"
