#!/bin/bash
# job_ends.sh WAY PROGRAM: runs PROGRAM on 4 ranks, of which rank 1 goes wrong in the given way, and checks status and messages.
set -u
way=$1 program=$2
output=$(mktemp)
trap 'rm -f "$output"' EXIT

expect_status() {
  [ "$status" = "$1" ] || { echo "status $status instead of $1"; failed=1; }
}
expect_lines() {  # COUNT PATTERN
  local count
  count=$(grep -c -- "$2" "$output")
  [ "$count" = "$1" ] || { echo "$count lines instead of $1 match: $2"; failed=1; }
}

failed=0
run="mpirun --allow-run-as-root --oversubscribe --bind-to none -np 4"
[ "$way" = alone ] && run=
SECONDS=0
$run "$program" "$way" > "$output" 2>&1
status=$?
[ $SECONDS -le 20 ] || { echo "it took $SECONDS s to end"; failed=1; }

case $way in
  throws) expect_status 6; expect_lines 1 '^offramp: rank 1 on [^ ]*: step 3: the loss is NaN' ;;
  dies) expect_status 137 ;;
  stops)
    expect_status 7
    expect_lines 3 'no progress for 1 s: step 3, waiting for all_reduce of 8 bytes over control group of 4 (ranks 0 1 2 3)'
    for rank in 0 2 3; do expect_lines 1 "^offramp: rank $rank on "; done ;;
  agrees) expect_status 3; expect_lines 1 'cannot read its data'; expect_lines 1 '^offramp: rank 1 on [^ ]*: rank 1 cannot read its data' ;;
  alone) expect_status 0; expect_lines 1 '^1 ranks are done' ;;
esac
[ $failed = 0 ] || cat "$output"
exit $failed
