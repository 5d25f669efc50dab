# shellcheck shell=bash disable=SC2154
# The pictures of docs/benchmarks.md, drawn from its tables. Sourced by scripts/bench, never run.

# rows HEADING TABLE COLUMN...: the rows of a table of the page, which is number TABLE below the heading (or below one of its
# subheadings): "LABEL"<TAB>the first number of each column.
rows() {
    local heading=$1 table=$2
    shift 2
    awk -v heading="## $heading" -v table="$table" -v columns="$*" '
        BEGIN { FS = " *[|] *"; count = split(columns, column, " ") }
        /^## / { inside = $0 == heading; tables = 0 }
        !inside { next }
        /^[|]/ && !within { within = 1; tables++; line = 0 }
        !/^[|]/ { within = 0; next }
        tables != table || ++line <= 2 { next }
        {
            label = $2
            gsub(/[`"]/, "", label)
            printf "\"%s\"", label
            for (i = 1; i <= count; i++) {
                # A number may have commas; what stands in brackets after it is the range.
                value = $(column[i] + 1)
                gsub(",", "", value)
                match(value, /[0-9.]+/)
                printf "\t%s", RSTART ? substr(value, RSTART, RLENGTH) : "NaN"
            }
            print ""
        }' "$root/docs/benchmarks.md"
}

# picture FILE HEADING TABLE TITLE COLUMN=NAME...: horizontal bars, one for each of the columns in each row.
picture() {
    local file=$1 heading=$2 table=$3 title=$4 data series at=2 name lines columns=()
    shift 4
    for name in "$@"; do columns+=("${name%%=*}"); done
    data=$(mktemp)
    rows "$heading" "$table" "${columns[@]}" >"$data"
    lines=$(wc -l <"$data")
    ((lines)) || die "docs/benchmarks.md has no table $table below \"## $heading\""
    series="'$data' using (0):0:ytic(1) with points pointtype 0 notitle"
    for name in "$@"; do
        # In its row, the bars stand one below the other.
        series+=", '$data' using (\$$at/2):(\$0-0.4+0.8*($at-1.5)/$#):(\$$at/2):(0.36/$#) with boxxyerror title '${name#*=}'"
        ((at++))
    done
    gnuplot <<END
set terminal svg size 1000,$((110 + lines * (10 + 10 * $#))) font 'sans-serif,12' background 'white'
set output '$root/docs/plots/$file.svg'
set datafile separator '\t'
set title '$title' noenhanced
set style fill solid 0.8 noborder
set ytics noenhanced scale 0
set grid xtics
set xtics font ',9'
set xrange [0:*]
set yrange [$lines-0.5:-0.5]
set key outside right top vertical noenhanced samplen 1
plot $series
END
    rm "$data"
    say "docs/plots/$file.svg"
}

bench_report() {
    command -v gnuplot >/dev/null || die "report needs gnuplot: apt-get install gnuplot-nox"
    mkdir -p "$root/docs/plots"
    picture add-and-del "ADD and DEL" 1 "ADD and DEL as processes, ms" 2=ADD 4=DEL
    picture in-parallel "ADD and DEL" 2 "100 of them, 20 at a time, ms" "2=ADD, all" "5=DEL, all"
    picture path Throughput 1 "Between two containers, ratio to a bare veth pair" 3=TCP_RR 5=TCP_CRR 7=UDP_RR 9=stream
    picture path-out Throughput 2 "To a machine beside the node, ratio to plain routing" 3=TCP_RR 5=TCP_CRR 7=UDP_RR 9=stream
    picture programs "The programs" 1 "ns of a program" 2=established "4=new flow"
    picture services Services 1 "Connections per second to a ClusterIP, ratio" "3=1 service" "5=1,000 services" "7=10,000 services"
    picture cluster "A large cluster" 2 "From the word of the API server to the maps, ms (100,000 pods)" 2=p50 3=p99
}
