# fish completion for limpet; limpet completion fish prints this script.
#
# It asks limpet itself: the words so far, the one being typed last. Each line
# of the answer is a word, a tab and its description, which is what fish reads.

function __limpet_complete
    set -l words (commandline --tokenize --cut-at-cursor --current-process)
    set -l current (commandline --cut-at-cursor --current-token)
    set -l found
    if test (count $words) -gt 1; and test "$words[2]" = kubectl
        # A line that begins with : is an instruction of kubectl's to its own script.
        set found ($words[1] kubectl __complete $words[3..] "$current" 2>/dev/null | string match --invert --regex '^:')
    else
        set found ($words[1] $words[2..] "$current" --generate-bash-completion 2>/dev/null)
    end
    if set --query found[1]
        printf '%s\n' $found
    else
        __fish_complete_path "$current"
    end
end

complete --command limpet --no-files --arguments '(__limpet_complete)'
