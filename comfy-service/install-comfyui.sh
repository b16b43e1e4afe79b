#!/usr/bin/env bash
# Installs ComfyUI from source into a folder, with its own virtual environment, custom nodes and models.
# Each step looks first whether it is done, so a run that broke off is simply started again.
set -euo pipefail

readonly REPOSITORY=https://github.com/Comfy-Org/ComfyUI.git

directory=ComfyUI
python=python3
device=cuda
torch_index=
ref=master
nodes_file=
models_file=
dry_run=false

usage() {
    cat <<'TEXT'
Usage: install-comfyui.sh [options]

Installs ComfyUI from source into a folder. Start it again to bring an installation up to date or to go on after an error.

  --dir DIR      where to install (default: ComfyUI)
  --python EXE   Python 3.10 or newer for the virtual environment (default: python3)
  --cuda         for NVIDIA GPUs (default)
  --cpu          for machines without a GPU
  --torch-index URL
                 package index to take PyTorch from, for another CUDA version or the much smaller CPU builds
                 (pytorch.org names them); default: the one that pip uses
  --ref REF      branch, tag or commit of ComfyUI (default: master)
  --nodes FILE   custom nodes: one git URL a line
  --models FILE  models: one a line, URL TARGET-SUBFOLDER [NAME] [SHA256], for example
                 https://example.org/sd15.safetensors checkpoints sd15.safetensors
  --dry-run      print the steps, do nothing
  --help         this text

In both files empty lines and lines that begin with # are skipped. A model without NAME is called as in its URL.
Needs git and curl (curl only for models). Do not run it as root: custom nodes are other people's programs.
TEXT
}

fail() {
    echo "install-comfyui: $*" >&2
    exit 1
}

misused() {
    echo "install-comfyui: $* (see --help)" >&2
    exit 2
}

say() { echo "==> $*"; }

run() {
    if $dry_run; then
        printf '    %q' "$1"
        shift
        if (($#)); then printf ' %q' "$@"; fi
        printf '\n'
    else
        "$@"
    fi
}

read_arguments() {
    while (($#)); do
        case $1 in
        --dir | --python | --torch-index | --ref | --nodes | --models)
            (($# >= 2)) || misused "$1 needs a value"
            # A value that looks like an option is a forgotten value, or would be taken for an option by git.
            [[ -n $2 && $2 != -* ]] || misused "$1 needs a value, not '$2'"
            ;;&
        --dir) directory=$2 && shift 2 ;;
        --python) python=$2 && shift 2 ;;
        --torch-index) torch_index=$2 && shift 2 ;;
        --ref) ref=$2 && shift 2 ;;
        --nodes) nodes_file=$2 && shift 2 ;;
        --models) models_file=$2 && shift 2 ;;
        --cpu) device=cpu && shift ;;
        --cuda) device=cuda && shift ;;
        --dry-run) dry_run=true && shift ;;
        --help | -h) usage && exit 0 ;;
        *) misused "unknown option '$1'" ;;
        esac
    done
}

# The lines of a list file that say something, without surrounding blanks and Windows line ends. They are read through
# descriptor 3, because git over ssh would eat what is on standard input.
entries() { sed -e 's/\r$//' -e 's/^[[:space:]]*//' -e 's/[[:space:]]*$//' -e '/^#/d' -e '/^$/d' "$1"; }

# Both list files are checked whole before anything is installed.
check_lists() {
    local url folder name sum rest
    if [[ -n $nodes_file ]]; then
        [[ -r $nodes_file ]] || fail "cannot read the list of nodes '$nodes_file'"
        while read -r url rest <&3; do
            [[ $url =~ ^(https|ssh|git|file)://[^[:space:]]+$ && -z $rest ]] || fail "$nodes_file: not one git URL: '$url $rest'"
            plain_name "$(basename "$url" .git)" || fail "$nodes_file: no usable folder name in '$url'"
        done 3< <(entries "$nodes_file")
    fi
    if [[ -n $models_file ]]; then
        [[ -r $models_file ]] || fail "cannot read the list of models '$models_file'"
        while read -r url folder name sum rest <&3; do
            [[ $url =~ ^(https?|file)://[^[:space:]]+$ ]] || fail "$models_file: not a URL: '$url'"
            [[ $folder =~ ^[A-Za-z0-9_][A-Za-z0-9_./-]*$ && /$folder/ != */../* ]] ||
                fail "$models_file: not a folder below models/: '$folder' (of $url)"
            plain_name "${name:-$(url_name "$url")}" || fail "$models_file: not a file name: '$name' (of $url)"
            [[ -z $sum || $sum =~ ^[0-9a-fA-F]{64}$ ]] || fail "$models_file: not a SHA-256: '$sum' (of $url)"
            [[ -z $rest ]] || fail "$models_file: too many words behind $url"
        done 3< <(entries "$models_file")
    fi
}

plain_name() { [[ $1 =~ ^[A-Za-z0-9_][A-Za-z0-9_.+-]*$ ]]; }

url_name() { basename "${1%%[?#]*}"; }

check_machine() {
    if ((EUID == 0)); then
        echo "install-comfyui: warning: running as root; custom nodes are other people's programs, use an ordinary user" >&2
    fi
    $dry_run && return
    command -v git >/dev/null || fail "git is not installed"
    [[ -z $models_file ]] || command -v curl >/dev/null || fail "curl is not installed"
    command -v "$python" >/dev/null || fail "there is no '$python'; name a Python with --python"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || fail "'$python' is older than Python 3.10"
    "$python" -c 'import ensurepip, venv' 2>/dev/null ||
        fail "'$python' cannot make virtual environments (Debian: apt-get install python3-venv)"
}

install_source() {
    say "ComfyUI ($ref) in $directory"
    if [[ -d $directory/.git ]]; then
        run git -C "$directory" fetch --tags origin
    elif [[ -e $directory && -n $(ls -A "$directory") ]]; then
        fail "'$directory' is not empty and no git checkout; choose another --dir"
    else
        run git clone "$REPOSITORY" "$directory"
    fi
    if ! $dry_run && ! git -C "$directory" diff --quiet HEAD; then
        fail "'$directory' has changed files; put them back (git stash) and start again"
    fi
    # A branch means its newest commit on the server, everything else (tag, commit) itself.
    if ! $dry_run && git -C "$directory" rev-parse --quiet --verify "origin/$ref^{commit}" >/dev/null; then
        run git -C "$directory" checkout --quiet --detach "origin/$ref"
    else
        run git -C "$directory" checkout --quiet --detach "$ref"
    fi
}

install_packages() {
    local pip=("$directory/venv/bin/python" -m pip install --disable-pip-version-check)
    say "virtual environment in $directory/venv"
    [[ -x $directory/venv/bin/python ]] || run "$python" -m venv "$directory/venv"
    say "PyTorch ($device)"
    [[ $device == cpu && -z $torch_index ]] && say "(with GPU libraries, unless --torch-index names an index of CPU builds)"
    # torch, torchvision and torchaudio come from one place: mixed ones do not load.
    run "${pip[@]}" torch torchvision torchaudio ${torch_index:+--index-url "$torch_index"}
    say "ComfyUI's requirements"
    run "${pip[@]}" -r "$directory/requirements.txt"
}

install_nodes() {
    local url rest target
    [[ -n $nodes_file ]] || return 0
    while read -r url rest <&3; do
        target=$directory/custom_nodes/$(basename "$url" .git)
        say "custom node $(basename "$target")"
        if [[ -d $target/.git ]]; then
            run git -C "$target" pull --quiet --ff-only
        else
            run git clone --quiet --depth 1 -- "$url" "$target"
        fi
        if $dry_run || [[ -f $target/requirements.txt ]]; then
            run "$directory/venv/bin/python" -m pip install --disable-pip-version-check -r "$target/requirements.txt"
        fi
    done 3< <(entries "$nodes_file")
}

install_models() {
    local url folder name sum target
    [[ -n $models_file ]] || return 0
    while read -r url folder name sum <&3; do
        name=${name:-$(url_name "$url")}
        target=$directory/models/$folder/$name
        if [[ -f $target ]]; then
            say "model $folder/$name is there"
            $dry_run || check_sum "$target" "$sum"
            continue
        fi
        say "model $folder/$name"
        run mkdir -p "$(dirname "$target")"
        # The final name appears only with the whole, checked file; a broken download goes on where it stopped.
        run curl --fail --location --retry 3 --continue-at - --output "$target.part" "$url"
        $dry_run || check_sum "$target.part" "$sum"
        run mv "$target.part" "$target"
    done 3< <(entries "$models_file")
}

check_sum() {
    local file=$1 expected=$2 found
    [[ -n $expected ]] || return 0
    found=$(sha256sum "$file" | cut -d ' ' -f 1)
    [[ $found == "${expected,,}" ]] || fail "$file has the SHA-256 $found, not $expected; delete it and start again"
}

main() {
    read_arguments "$@"
    check_lists
    check_machine
    install_source
    install_packages
    install_nodes
    install_models
    say "done; start it with:"
    local options="--listen 127.0.0.1 --port 8188"
    [[ $device == cpu ]] && options+=" --cpu"
    echo "    cd $(printf '%q' "$directory") && venv/bin/python main.py $options"
}

main "$@"
