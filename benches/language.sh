#!/bin/bash
# Figures of the language in docs and names: for crates/*/src without tests, for all Rust files, and
# for Markdown. With `list` as an argument, prints each finding with its file and line.
set -euo pipefail
cd "$(dirname "$0")/.."

list=0
[ "${1-}" = list ] && list=1

sources() { git ls-files 'crates/*/src/*.rs' 'crates/*/src/**/*.rs' | grep -vE '/tests/|/tests\.rs$' | sort -u; }
all() { git ls-files '*.rs' | sort -u; }

# One pass: doc blocks, sentences, long lines, words and type declarations.
figures() {
    tr '\n' '\0' | xargs -0 awk -v list="$list" '
    function found(kind) { if (list) printf "%s: %s:%d: %s\n", kind, FILENAME, FNR, $0 > "/dev/stderr" }
    # Counts listed words, as whole words and as parts of identifiers.
    function words(text, is_code,   t, parts, n, i, w) {
        t = text
        # camelCase and snake_case become words.
        while (match(t, /[a-z0-9][A-Z]/))
            t = substr(t, 1, RSTART) " " substr(t, RSTART + 1)
        t = tolower(t)
        if (!is_code) {
            for (w in phrases)
                if (match(t, "(^|[^a-z])" w "([^a-z]|$)")) { uses[w]++; found("word " w) }
        }
        n = split(t, parts, /[^a-z]+/)
        for (i = 1; i <= n; i++)
            if (parts[i] in listed) { uses[listed[parts[i]]]++; found("word " listed[parts[i]]) }
    }
    BEGIN {
        n = split("hall door desk room seat ticket whoever nobody journey", single, " ")
        for (i = 1; i <= n; i++) { listed[single[i]] = single[i]; listed[single[i] "s"] = single[i] }
        phrases["goes up"]; phrases["further in"]; phrases["is told"]
        opening = "^(What|Who|Whether|How|Where|When|Which)([^a-z]|$)"
    }
    FNR == 1 { previous = ""; fence = 0 }
    { lines++ }
    # Tables, code and link targets cannot be wrapped. Continuation bytes of UTF-8 are no columns.
    /^[ \t]*\/\// && !/^[ \t]*\/\/[\/!] (\||\[[^]]*\]: )/ && !fence {
        columns = $0
        gsub(/[\200-\277]/, "", columns)
        if (length(columns) > 100) { long++; found("long") }
    }
    /^[ \t]*\/\/[\/!]/ && !/^[ \t]*\/\/\/\// {
        kind = ($0 ~ /^[ \t]*\/\/!/) ? "!" : "/"
        text = $0
        sub(/^[ \t]*\/\/[\/!] ?/, "", text)
        if (kind != previous) {
            fence = 0
            docs++
            if (kind == "!") modules++
            if (text ~ opening) { bad++; if (kind == "!") bad_modules++; found("opening") }
        }
        previous = kind
        if (text ~ /^[ \t]*```/) { fence = !fence; next }
        if (fence) next
        plain = text
        gsub(/`[^`]*`/, "x", plain)
        gsub(/https?:[^ )>]*/, "x", plain)
        if (plain !~ /^\|/ && plain !~ /^\[.*\]:/) {
            s = gsub(/;/, ";", plain)
            if (s) { semicolons += s; found("semicolon") }
            sentences += gsub(/[.!?:]( |$)/, ".", plain)
        }
        words(text, 0)
        next
    }
    /^[ \t]*#\[/ && previous != "" { previous = "x"; next }
    { previous = "" }
    {
        code = $0
        gsub(/"([^"\\]|\\.)*"/, "", code)
        comment = ""
        if ((at = index(code, "//")) > 0) { comment = substr(code, at); code = substr(code, 1, at - 1) }
        if (comment != "") words(comment, 0)
        words(code, 1)
    }
    END {
        printf "%-56s %d\n", "lines", lines
        printf "%-56s %d of %d (%.1f %%)\n", "docs that begin with What, Who, Whether, How, ...", bad, docs, docs ? 100 * bad / docs : 0
        printf "%-56s %d of %d\n", "  of these, module docs", bad_modules, modules
        printf "%-56s %.3f (%d in %d)\n", "semicolons per sentence in docs", sentences ? semicolons / sentences : 0, semicolons, sentences
        printf "%-56s %d\n", "doc and comment lines over 100 columns (no tables)", long
        m = split("hall,door,desk,room,seat,ticket,whoever,nobody,journey,goes up,further in,is told", order, ",")
        for (i = 1; i <= m; i++) { total += uses[order[i]]; row = row sprintf(" %s %d,", order[i], uses[order[i]]) }
        printf "%-56s %d:%s\n", "uses of words to avoid", total, substr(row, 1, length(row) - 1)
    }'
}

# Names of types, traits and aliases that more than one module declares. Associated types and
# types inside of functions do not count.
homonyms() {
    tr '\n' '\0' | xargs -0 grep -HoE '^(pub(\([a-z: ]*\))? )?(struct|enum|union|trait|type) [A-Z][A-Za-z0-9]*' |
        sed -E 's/^([^:]*):.* ([A-Za-z0-9]+)$/\2 \1/' | sort -u |
        awk '{ n[$1]++; where[$1] = where[$1] "\n        " $2 }
             END { for (name in n) if (n[name] > 1) { printf "    %s (%d)%s\n", name, n[name], where[name] } }' |
        awk '/^    [A-Z]/ { name = $1 } { print name "\t" NR "\t" $0 }' | sort -s -k1,1 -k2,2n | cut -f3-
}

# Declarations of the types that had several meanings in the review of the language.
reviewed() {
    local names="Ticket Verdict Refusal Class Route Pool Place Ramp Seen Ask Ending Entry Answer Kind Call State Shared"
    tr '\n' '\0' | xargs -0 grep -hoE '^(pub(\([a-z: ]*\))? )?(struct|enum|union|trait|type) [A-Z][A-Za-z0-9]*' |
        awk -v names="$names" '{ n[$NF]++ }
            END { m = split(names, name, " ")
                  for (i = 1; i <= m; i++) row = row sprintf(" %s %d,", name[i], n[name[i]])
                  printf "%-56s%s\n", "declarations of the homonyms of the review", substr(row, 1, length(row) - 1) }'
}

# Markdown prose over 100 columns: no tables, code, headings, images or link targets.
markdown() {
    git ls-files '*.md' | tr '\n' '\0' | xargs -0 awk -v list="$list" '
    FNR == 1 { fence = 0 }
    /^[ \t]*```/ { fence = !fence; next }
    fence || /^[ \t]*(\||#|<|!?\[[^]]*\]: )/ { next }
    {
        lines++
        columns = $0
        gsub(/[\200-\277]/, "", columns)
        if (length(columns) > 100) { long++; if (list) printf "long: %s:%d: %s\n", FILENAME, FNR, $0 > "/dev/stderr" }
    }
    END { printf "%-56s %d of %d\n", "lines over 100 columns", long, lines }'
}

report() {
    "$1" | figures
    local doubled
    doubled=$("$1" | homonyms)
    printf '%-56s %d:' "type names with more than one declaration" "$(grep -cE '^    [A-Z]' <<<"$doubled" || true)"
    grep -E '^    [A-Z]' <<<"$doubled" | tr -s ' \n' ' ' || true
    echo
    "$1" | reviewed
    if [ "$list" = 1 ]; then echo "$doubled"; fi
}

echo '== crates/*/src without tests'
report sources
echo
echo '== all Rust files'
report all
echo
echo '== prose in Markdown'
markdown
