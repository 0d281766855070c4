#compdef limpet
# zsh completion for limpet; limpet completion zsh prints this script.
#
# It asks limpet itself: the words so far, the one being typed last. Each line
# of the answer is a word, a tab and its description.

_limpet() {
    local line
    local -a lines found
    if [[ "${words[2]}" == kubectl && $CURRENT -gt 2 ]]; then
        lines=("${(@f)$("${words[1]}" kubectl __complete "${(@)words[3,CURRENT]}" 2>/dev/null)}")
    else
        lines=("${(@f)$("${words[1]}" "${(@)words[2,CURRENT]}" --generate-bash-completion 2>/dev/null)}")
    fi
    for line in $lines; do
        [[ -z "$line" || "$line" == :* ]] && continue
        found+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( $#found )); then
        _describe limpet found
    else
        _files
    fi
}

if [[ "$funcstack[1]" == _limpet ]]; then
    _limpet
else
    compdef _limpet limpet
fi
