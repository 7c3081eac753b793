#!/usr/bin/env bash
# Runs the GPU tests of this bundle, one executable after the other, and prints a table.
# Needs a driver and a GPU, and no Rust. Arguments select executables by a part of their name. Unpacks
# them first, and the command line: ./gannet.
set -uo pipefail
cd "$(dirname "$0")"
export GANNET_SHARED="$PWD/shared" GANNET_REQUIRE_GPU=1
export INSTA_WORKSPACE_ROOT="$PWD" INSTA_UPDATE=no

[ -d tests ] || tar -xJf programs.tar.xz

rows="" reasons=""
passed=0 failed=0 skipped=0
for executable in tests/*; do
    name=$(basename "$executable")
    [[ $# -gt 0 && ! $name =~ $(IFS='|'; echo "$*") ]] && continue
    echo "== $name"
    start=$SECONDS
    "$executable" --test-threads=1 --show-output 2>&1 | tee "$name.log"
    status=${PIPESTATUS[0]}
    counts=$(grep -E '^test result: ' "$name.log" | tail -n 1)
    p=$(sed -nE 's/.* ([0-9]+) passed.*/\1/p' <<<"$counts")
    f=$(sed -nE 's/.* ([0-9]+) failed.*/\1/p' <<<"$counts")
    p=${p:-0} f=${f:-0}
    # An executable that dies prints no counts.
    [[ $status -ne 0 && $f -eq 0 ]] && f=1
    # Tests that printed "skipped:" verified nothing; each counts once.
    s=$(awk '/^---- .* stdout ----$/ { counted = 0 }
             /^successes:$/ { failing = 0 }
             /^failures:$/ { failing = 1 }
             /^ *skipped:/ && !counted && !failing { n++; counted = 1 }
             END { print n + 0 }' "$name.log")
    reasons+=$(grep -hE '^ *skipped:' "$name.log")$'\n'
    p=$((p > s ? p - s : 0))
    result=pass
    [[ $p -eq 0 ]] && result="nothing ran"
    [[ $f -gt 0 ]] && result=FAIL
    rows+=$(printf '%-36s %6d %6d %7d %6ds  %s' "$name" "$p" "$f" "$s" $((SECONDS - start)) "$result")$'\n'
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done

echo
printf '%-36s %6s %6s %7s %7s\n%s' executable passed failed skipped time "$rows"
sed '/^$/d' <<<"$reasons"
echo "$passed passed, $failed failed, $skipped skipped"
[[ $failed -eq 0 && $passed -gt 0 ]]
