#!/usr/bin/env bash
# Counts the files, functions and types of the project that one happy call through recommended()
# executes. Needs valgrind. Runs a debug build, in which no function is inlined.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
row="${1:-all six, as recommended}"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

bench=$(CARGO_PROFILE_DEV_DEBUG=1 cargo build -p tower-claude-benches --bench overhead --message-format json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*overhead[^"]*\)".*/\1/p' | tail -n 1)
# The first calls warm up: they fill the maps and learn the first headers.
valgrind --tool=callgrind --callgrind-out-file="$out/calls" --toggle-collect='*one_call*' \
    "$bench" --case "$row" --calls 20 >/dev/null 2>&1

# "fl", "fi" and "fe" lines name a file and "fn" lines a function, each as "(number) name" the first
# time and as "(number)" after that.
awk '
    /^f[lie]=/ { id = $0; sub(/^f[lie]=/, "", id); name = id; sub(/^\([0-9]+\) ?/, "", name)
                 sub(/\).*/, ")", id); if (name != "") file[id] = name; here = file[id]; next }
    /^fn=/     { id = $0; sub(/^fn=/, "", id); name = id; sub(/^\([0-9]+\) ?/, "", name)
                 sub(/\).*/, ")", id); if (name != "") fun[id] = name; now = fun[id]; next }
    /^c[a-z]+=/ { if ($0 ~ /^cfn=/) { id = $0; sub(/^cfn=/, "", id); name = id
                  sub(/^\([0-9]+\) ?/, "", name); sub(/\).*/, ")", id); if (name != "") fun[id] = name }
                  else if ($0 ~ /^cf[il]=/) { id = $0; sub(/^cf[il]=/, "", id); name = id
                  sub(/^\([0-9]+\) ?/, "", name); sub(/\).*/, ")", id); if (name != "") file[id] = name }
                  next }
    /^[0-9+*-]/ { if (here ~ /(^|\/)crates\//) { sub(/.*crates\//, "crates/", here); files[here] = 1
                  plain = now; gsub(/<[^<>]*>/, "", plain); gsub(/<[^<>]*>/, "", plain)
                  gsub(/<[^<>]*>/, "", plain); functions[plain " " here] = 1
                  if (match(now, /[A-Za-z_0-9:]*::[A-Z][A-Za-z0-9_]*/)) types[substr(now, RSTART, RLENGTH)] = 1 } }
    END { for (f in files) { n++; print "  " f | "sort" } close("sort")
          for (f in functions) m++; for (t in types) k++
          printf "files %d, functions %d, types %d\n", n, m, k }
' "$out/calls"
