#!/bin/sh
# Prints which crates are in the operator's program, and the text of each of their licences, for the image and for
# releases. A crate that brings no text is an error, unless it may be used under Apache-2.0, which is Shipbell's own
# licence and stands beside this list.
set -eu

cd "$(dirname "$0")/.."
sources=${CARGO_HOME:-$HOME/.cargo}/registry/src
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/texts" "$work/users"

# The sources have to be there, also of crates that only other machines need.
cargo fetch --locked --quiet
target=$(rustc -vV | sed -n 's/^host: //p')
# What is compiled into the program: neither build scripts and their needs nor procedural macros.
cargo tree --locked --package shipbell --target "$target" --edges normal,no-proc-macro \
    --prefix none --no-dedupe --format '{p}|{l}|{r}' |
    grep -v '^shipbell v' | sed 's/^\([^ ]*\) v\([^ |]*\)[^|]*|/\1|\2|/' | LC_ALL=C sort -u >"$work/crates"
[ -s "$work/crates" ] || { echo "cargo tree names no crate" >&2; exit 1; }

while IFS='|' read -r name version license repository; do
    folder=$(find "$sources" -mindepth 2 -maxdepth 2 -name "$name-$version" | head -n 1)
    [ -n "$folder" ] || { echo "$name $version: its source is not below $sources" >&2; exit 1; }
    find "$folder" -type f \( -iname 'licen[sc]e*' -o -iname 'unlicen[sc]e*' -o -iname 'copying*' \
        -o -iname 'copyright*' -o -iname 'notice*' \) ! -name '*.rs' | LC_ALL=C sort >"$work/files"
    if [ ! -s "$work/files" ]; then
        case "$license" in
            *Apache-2.0*) ;;
            *) echo "$name $version ($license) brings no text of its licence" >&2; exit 1 ;;
        esac
    fi
    # Many crates bring the same text: it is printed once, with all their names.
    while read -r file; do
        sum=$(tr -s '[:space:]' ' ' <"$file" | sha256sum | cut -d ' ' -f 1)
        cp "$file" "$work/texts/$sum"
        echo "$name $version" >>"$work/users/$sum"
    done <"$work/files"
done <"$work/crates"

echo "The Shipbell operator is made with the following crates, each under the licence that is named with it."
echo
while IFS='|' read -r name version license repository; do
    echo "- $name $version: $license${repository:+ ($repository)}"
done <"$work/crates"
# In the order of the first crate that brings each.
(cd "$work/users" && for sum in *; do echo "$(head -n 1 "$sum")|$sum"; done) | LC_ALL=C sort >"$work/order"
while IFS="|" read -r _ sum; do
    printf '\n%s\n' "================================================================================"
    sort -u "$work/users/$sum" | paste -s -d ',' | sed 's/,/, /g' | fold -s -w 100
    printf '%s\n\n' "================================================================================"
    cat "$work/texts/$sum"
    echo
done <"$work/order"

# What no crate is and every program holds. Where they stand is Debian's and rustup's way; elsewhere the list says where
# to look, as a program that was built there is not what is shipped.
further() { # TITLE FILE WHERE
    printf '\n%s\n%s\n%s\n\n' "================================================================================" "$1" \
        "================================================================================"
    if [ ! -f "$2" ]; then
        echo "See $3"
    elif [ "${2%.html}" != "$2" ]; then
        sed -e 's/<[^>]*>//g' -e 's/&lt;/</g' -e 's/&gt;/>/g' -e 's/&quot;/"/g' -e 's/&amp;/\&/g' "$2" |
            sed -e 's/^[[:space:]]*$//' | cat -s
    else
        cat "$2"
    fi
}
further "The Rust standard library" "$(rustc --print sysroot)/share/doc/rust/COPYRIGHT-library.html" \
    https://www.rust-lang.org/policies/licenses
further "The certificate authorities in the image" /usr/share/doc/ca-certificates/copyright \
    https://wiki.mozilla.org/CA
case "$target" in
    *-linux-gnu)
        further "The GNU C library, which is linked in statically" /usr/share/doc/libc6-dev/copyright \
            https://sourceware.org/glibc/
        further "GNU Lesser General Public License 2.1" /usr/share/common-licenses/LGPL-2.1 \
            https://www.gnu.org/licenses/old-licenses/lgpl-2.1.txt
        ;;
esac
