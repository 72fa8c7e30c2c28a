"""The command `completion`: a few lines for a shell, which ask `shardcast --complete` for every word.

So there is one grammar for all shells, and they know the channels and versions of the daemon.
"""

from __future__ import annotations

from typing import Final

from .output import print_result, writing

#: bash splits words at `@`, `:` and `=` too, so the words are taken from the line, and what bash has already is cut off the candidates.
_BASH: Final = r"""# bash completion of shardcast
_shardcast() {
    local line=${COMP_LINE:0:COMP_POINT} candidate words current kept
    read -ra words <<<"$line"
    [[ $line == *[[:space:]] ]] && words+=("")
    current=${words[-1]}
    kept=${current%"${current##*[@:=]}"}
    COMPREPLY=()
    while IFS=$'\t' read -r candidate _; do
        case $candidate in
            :files) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -f -- "$current") ;;
            :directories) compopt -o filenames 2>/dev/null; mapfile -t COMPREPLY < <(compgen -d -- "$current") ;;
            ?*) COMPREPLY+=("${candidate#"$kept"}") ;;
        esac
    done < <(shardcast --complete "${words[@]:1}" 2>/dev/null)
}
complete -F _shardcast shardcast
"""

_ZSH: Final = r"""#compdef shardcast
_shardcast() {
    local line candidate summary
    local -a found
    while IFS= read -r line; do
        candidate=${line%%$'\t'*}
        summary=${line#"$candidate"}
        case $candidate in
            :files) _files ;;
            :directories) _files -/ ;;
            ?*) found+=("${candidate//:/\\:}:${summary#$'\t'}") ;;
        esac
    done < <(shardcast --complete "${(@Q)words[2,CURRENT]}" 2>/dev/null)
    (( $#found )) && _describe -V shardcast found
}
if [[ $zsh_eval_context[-1] == loadautofunc ]]; then
    _shardcast "$@"
else
    compdef _shardcast shardcast
fi
"""

_FISH: Final = r"""# fish completion of shardcast
function __shardcast_candidates
    set -l words (commandline -opc) (commandline -ct)
    shardcast --complete $words[2..] 2>/dev/null | while read -l line
        switch $line
            case :files
                __fish_complete_path (commandline -ct)
            case :directories
                __fish_complete_directories (commandline -ct)
            case '*'
                echo $line
        end
    end
end
complete -c shardcast -f -k -a '(__shardcast_candidates)'
"""

_SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


def print_script(shell: str, *, as_json: bool) -> None:
    """Print what a shell is to run."""
    script = _SCRIPTS[shell]
    if as_json:
        print_result({"shell": shell, "script": script}, [], as_json=True)
        return
    with writing():
        print(script, end="")
