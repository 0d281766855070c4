# bash completion for limpet; limpet completion bash prints this script.
#
# It asks limpet itself: the words so far, the one being typed last. Each line
# of the answer is a word, a tab and its description.

_limpet() {
    local words=() cur prefix word previous="" line ask
    # readline splits words at = and : too; limpet wants them as they were typed.
    for word in "${COMP_WORDS[@]:1:COMP_CWORD}"; do
        if [[ ${#words[@]} -gt 0 && ("$word" == [=:] || "$previous" == [=:]) ]]; then
            words[${#words[@]} - 1]+="$word"
        else
            words+=("$word")
        fi
        previous="$word"
    done
    cur="${words[${#words[@]} - 1]}"

    ask=("${COMP_WORDS[0]}" "${words[@]}" --generate-bash-completion)
    if [[ "${words[0]}" == kubectl && ${#words[@]} -gt 1 ]]; then
        ask=("${COMP_WORDS[0]}" kubectl __complete "${words[@]:1}")
    fi
    COMPREPLY=()
    while IFS=$'\t' read -r line _; do
        # A line that begins with : is an instruction of kubectl's to its own script.
        [[ "$line" == :* ]] || COMPREPLY+=("$line")
    done < <("${ask[@]}" 2>/dev/null)

    # readline replaces only what follows the last = or :
    prefix="${cur%"${cur##*[=:]}"}"
    if [[ -n "$prefix" && ${#COMPREPLY[@]} -gt 0 ]]; then
        COMPREPLY=("${COMPREPLY[@]#"$prefix"}")
    fi
}

complete -o bashdefault -o default -F _limpet limpet
