#!/usr/bin/env bash
# Counts the files, functions and types of the project that one happy call through recommended()
# executes. Needs valgrind. Runs a debug build, in which no function is inlined.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
row="${1:-all six, as recommended}"
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

bench=$(cargo build -p tower-claude-benches --bench overhead --message-format json-render-diagnostics |
    sed -n 's/.*"executable":"\([^"]*overhead[^"]*\)".*/\1/p' | tail -n 1)

# Prints "instructions file function" for a number of calls.
profile() {
    valgrind --tool=callgrind --callgrind-out-file="$out/calls" --toggle-collect='*one_call*' \
        "$bench" --case "$row" --calls "$1" >/dev/null 2>&1
    # "fl", "fi" and "fe" lines name a file and "fn" lines a function, each as "(number) name" the
    # first time and as "(number)" after that. The line after "calls=" is the cost of the callee.
    awk '
        function name(line, table) {
            sub(/^[a-z]+=/, "", line)
            id = line; sub(/\).*/, ")", id)
            sub(/^\([0-9]+\) ?/, "", line)
            if (line != "") table[id] = line
            return table[id]
        }
        /^(fl|fi|fe)=/ { here = name($0, file); next }
        /^fn=/ { now = name($0, fun); next }
        /^cf[il]=/ { name($0, file); next }
        /^cfn=/ { name($0, fun); next }
        /^calls=/ { skip = 1; next }
        /^[0-9+*-]/ {
            if (!skip && here ~ /(^|\/)crates\// && here !~ /core_arch/) {
                path = here; sub(/.*crates\//, "crates/", path)
                cost[path " " now] += $NF
            }
            skip = 0
        }
        END { for (key in cost) print cost[key], key }
    ' "$out/calls" | sort -k 2
}

profile 5 >"$out/few"
profile 45 >"$out/many"
# The first calls fill maps and learn limits. Later calls execute only what grows with their number.
awk '
    NR == FNR { few[substr($0, index($0, " ") + 1)] = $1; next }
    {
        key = substr($0, index($0, " ") + 1)
        if ($1 - few[key] < 40) next
        split(key, part, " ")
        files[part[1]] += ($1 - few[key]) / 40
        functions[key] = 1
        if (match(key, /[A-Za-z_0-9:]*::[A-Z][A-Za-z0-9_]*/)) types[substr(key, RSTART, RLENGTH)] = 1
    }
    END {
        for (f in files) { n++; printf "%8d %s\n", files[f], f | "sort -rn" }
        close("sort -rn")
        for (f in functions) m++
        for (t in types) k++
        printf "files %d, functions %d, types %d\n", n, m, k
    }
' "$out/few" "$out/many"
