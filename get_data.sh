#!/usr/bin/env bash
# Fetch Flickr8k (default) or Flickr30k with the kaggle command: bash get_data.sh [f8k|f30k]
# GET_DATA_TIMEOUT: seconds without a new byte after which the download is given up (default 120).
set -uo pipefail

here=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")" && pwd) || exit 1
name=${1:-f8k}
target=$here/data/$name
timeout=${GET_DATA_TIMEOUT:-120}
work=
download=

die() {
    echo "get_data.sh: $1" >&2
    exit "${2:-1}"
}

stop_download() {
    [[ -n $download ]] || return
    kill -KILL -- "-$download"
    wait "$download"
    download=
}

clean_up() {
    stop_download 2>/dev/null
    [[ -z $work ]] || rm -rf -- "$work"
}

has_pictures() {
    [[ -n $(find -L "$1/images" "$1/Images" -maxdepth 1 -iname '*.jpg' -print -quit 2>/dev/null) ]]
}

is_complete() {
    has_pictures "$target" && { [[ $name == f30k ]] || [[ -s $target/captions.txt ]]; }
}

remind_of_captions() {
    [[ $name == f8k || -s $target/dataset_flickr30k.json ]] ||
        echo "put Karpathy's dataset_flickr30k.json at data/f30k/dataset_flickr30k.json: the archive does not hold it"
}

has_token() {
    local folder
    [[ -n ${KAGGLE_API_TOKEN:-} || (-n ${KAGGLE_USERNAME:-} && -n ${KAGGLE_KEY:-}) ]] && return
    for folder in "${KAGGLE_CONFIG_DIR:-}" "${HOME:-}/.kaggle" "${XDG_CONFIG_HOME:-${HOME:-}/.config}/kaggle"; do
        [[ -s $folder/kaggle.json || -s $folder/access_token || -s $folder/credentials.json ]] && return
    done
    return 1
}

megabytes() {
    du -sk -- "$work/download" | awk '{ printf "%.1f", $1 / 1024 }'
}

last_line() {
    tr '\r' '\n' <"$work/log" | tr -cd '[:print:]\n' | grep -v '^ *$' | tail -n 1 | cut -c -300
}

fetch() { # archive
    local size='' now moved=$SECONDS
    set -m # a process group of its own, which can be ended as a whole
    (cd -- "$work/download" && exec "$kaggle" datasets download "$1" -p .) >"$work/log" 2>&1 </dev/null &
    download=$!
    set +m
    while kill -0 "$download" 2>/dev/null; do
        now=$(megabytes)
        [[ $now == "$size" ]] || { size=$now moved=$SECONDS; }
        ((SECONDS - moved < timeout)) || die "the download of $1 stood still for $timeout s: look at the network, then run this again"
        [[ ! -t 2 ]] || printf '\r%s: %s MB ' "$1" "$now" >&2
        sleep 0.2
    done
    [[ ! -t 2 ]] || echo >&2
    wait "$download" || die "kaggle could not fetch $1: $(last_line)"
    download=
}

unpack() {
    local archive
    archive=$(find "$work/download" -type f -name '*.zip' -print -quit)
    [[ -n $archive ]] || die "kaggle left no archive: run this again"
    "$python" -m zipfile -e "$archive" "$work/unpacked" >"$work/log" 2>&1 ||
        die "the archive cannot be unpacked, run this again: $(last_line)"
    rm -- "$archive"
}

# Some archives hold their pictures twice, one folder inside the other: the fullest one is taken.
fullest_folder() {
    find "$work/unpacked" -type f -iname '*.jpg' ! -name '.*' | sed 's|/[^/]*$||' | sort | uniq -c | sort -rn |
        sed -n '1s/^ *[0-9]* //p'
}

arrange() {
    local images captions
    images=$(fullest_folder)
    [[ -n $images ]] || die "the archive holds no pictures: its layout has changed"
    mkdir -- "$work/done" && mv -- "$images" "$work/done/images" || die "no room in data/: make some and run this again"
    [[ $name == f8k ]] || return 0
    captions=$(find "$work/unpacked" -type f -name captions.txt -print -quit)
    [[ -n $captions ]] || die "the archive holds no captions.txt: its layout has changed"
    mv -- "$captions" "$work/done/captions.txt"
}

# A rename is all or nothing, and refuses a folder that is not empty.
publish() { # from to
    "$python" -c 'import os, sys; os.rename(*sys.argv[1:])' "$1" "$2" 2>/dev/null ||
        die "data/$name is there but not complete: move it away and run this again"
}

case $name in
    f8k) archive=adityajn105/flickr8k ;;
    f30k) archive=hsankesara/flickr-image-dataset ;;
    *) die "unknown data set $name: give f8k or f30k" 2 ;;
esac
(($# <= 1)) || die "give one data set: f8k or f30k" 2
[[ $timeout =~ ^[1-9][0-9]{0,6}$ ]] || die "GET_DATA_TIMEOUT is $timeout: give a whole number of seconds, 1 or more" 2

if is_complete; then
    echo "data/$name is there already"
    remind_of_captions
    exit 0
fi
if [[ -L $target || -e $target ]] && [[ $name == f8k || ! -d $target || -e $target/images ]]; then
    rmdir -- "$target" 2>/dev/null || die "data/$name is there but not complete: move it away and run this again"
fi
PATH=$here/.venv/bin:$PATH
python=$(command -v python3 || command -v python) || die "no python: install the requirements as the README says"
kaggle=$(command -v kaggle) || die "no kaggle command: install the requirements as the README says"
has_token || die "no Kaggle token: make one in your Kaggle account's settings (API) and save it as ~/.kaggle/kaggle.json, or set KAGGLE_USERNAME and KAGGLE_KEY"

trap clean_up EXIT
trap 'exit 130' INT TERM HUP
mkdir -p -- "$here/data" && work=$(mktemp -d "$here/data/.$name.XXXXXX") && mkdir -- "$work/download" ||
    die "cannot write to data/: look at its permissions and its disk"
fetch "$archive"
unpack
arrange
if [[ -d $target ]]; then
    publish "$work/done/images" "$target/images"
else
    publish "$work/done" "$target"
fi
echo "data/$name is ready"
remind_of_captions
