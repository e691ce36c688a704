# bash completion for refseg; made by 'python -m refseg_cli._manual', do not edit

_refseg() {
    local current=${COMP_WORDS[COMP_CWORD]} option=${COMP_WORDS[COMP_CWORD - 1]}
    local command=refseg dashes= i
    COMPREPLY=()
    # bash splits --option=value at the sign
    if [[ $current == "=" ]]; then
        current=
    elif [[ $option == "=" ]]; then
        option=${COMP_WORDS[COMP_CWORD - 2]}
    fi
    for ((i = 1; i < COMP_CWORD; i++)); do
        if [[ ${COMP_WORDS[i]} == -- ]]; then
            dashes=1
            break
        fi
        case "$command ${COMP_WORDS[i]}" in
            "refseg train" | "refseg eval" | "refseg predict" | "refseg export" | "refseg bench" | "refseg prepare" | "refseg prepare refcoco" | "refseg prepare refcoco+" | "refseg prepare refcocog" | "refseg prepare refclef" | "refseg prepare grefcoco" | "refseg prepare scenes" | "refseg prepare check") command+=" ${COMP_WORDS[i]}" ;;
        esac
    done
    if [[ -z $dashes ]]; then
        case "$command $option" in
            "refseg --color") _refseg_words auto always never; return ;;
            "refseg --progress") _refseg_words auto lines never; return ;;
            "refseg train --data") compopt -o dirnames; return ;;
            "refseg train --arch") _refseg_words align vlt; return ;;
            "refseg train --recipe") compopt -o default; _refseg_words align-tiny vlt-darknet53-refcoco vlt-darknet53-refcoco+ vlt-darknet53-refcocog-google vlt-darknet53-refcocog-umd vlt-swin-b-refcoco vlt-swin-b-refcoco+ vlt-swin-b-refcocog-google vlt-swin-b-refcocog-umd vlt-tiny; return ;;
            "refseg train --set") return ;;
            "refseg train --out" | "refseg train -o") compopt -o dirnames; return ;;
            "refseg train --init") compopt -o dirnames; return ;;
            "refseg train --tracker") _refseg_words none tensorboard; return ;;
            "refseg train --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg eval --data") compopt -o dirnames; return ;;
            "refseg eval --model") compopt -o dirnames; return ;;
            "refseg eval --split") _refseg_words train val test testA testB; return ;;
            "refseg eval --records") compopt -o default; return ;;
            "refseg eval --batch-images") return ;;
            "refseg eval --limit") return ;;
            "refseg eval --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg predict --output" | "refseg predict -o") compopt -o default; return ;;
            "refseg predict --format" | "refseg predict -f") _refseg_words png overlay rle json; return ;;
            "refseg predict --model") compopt -o dirnames; return ;;
            "refseg predict --threshold") return ;;
            "refseg predict --no-target-threshold") return ;;
            "refseg predict --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg export --output" | "refseg export -o") compopt -o default; return ;;
            "refseg export --model") compopt -o dirnames; return ;;
            "refseg export --format" | "refseg export -f") _refseg_words onnx pt2; return ;;
            "refseg bench --model") compopt -o dirnames; return ;;
            "refseg bench --arch") _refseg_words align vlt; return ;;
            "refseg bench --recipe") compopt -o default; _refseg_words align-tiny vlt-darknet53-refcoco vlt-darknet53-refcoco+ vlt-darknet53-refcocog-google vlt-darknet53-refcocog-umd vlt-swin-b-refcoco vlt-swin-b-refcoco+ vlt-swin-b-refcocog-google vlt-swin-b-refcocog-umd vlt-tiny; return ;;
            "refseg bench --set") return ;;
            "refseg bench --batch-sizes") return ;;
            "refseg bench --phrases") return ;;
            "refseg bench --repeat") return ;;
            "refseg bench --warmup") return ;;
            "refseg bench --precision") _refseg_words fp32 bf16 fp16; return ;;
            "refseg bench --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg prepare refcoco --root") compopt -o dirnames; return ;;
            "refseg prepare refcoco --out" | "refseg prepare refcoco -o") compopt -o dirnames; return ;;
            "refseg prepare refcoco --images") compopt -o dirnames; return ;;
            "refseg prepare refcoco --split-by") _refseg_words unc google; return ;;
            "refseg prepare refcoco --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare refcoco --workers") return ;;
            "refseg prepare refcoco --on-error") _refseg_words fail skip; return ;;
            "refseg prepare refcoco+ --root") compopt -o dirnames; return ;;
            "refseg prepare refcoco+ --out" | "refseg prepare refcoco+ -o") compopt -o dirnames; return ;;
            "refseg prepare refcoco+ --images") compopt -o dirnames; return ;;
            "refseg prepare refcoco+ --split-by") _refseg_words unc; return ;;
            "refseg prepare refcoco+ --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare refcoco+ --workers") return ;;
            "refseg prepare refcoco+ --on-error") _refseg_words fail skip; return ;;
            "refseg prepare refcocog --root") compopt -o dirnames; return ;;
            "refseg prepare refcocog --out" | "refseg prepare refcocog -o") compopt -o dirnames; return ;;
            "refseg prepare refcocog --images") compopt -o dirnames; return ;;
            "refseg prepare refcocog --split-by") _refseg_words umd google; return ;;
            "refseg prepare refcocog --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare refcocog --workers") return ;;
            "refseg prepare refcocog --on-error") _refseg_words fail skip; return ;;
            "refseg prepare refclef --root") compopt -o dirnames; return ;;
            "refseg prepare refclef --out" | "refseg prepare refclef -o") compopt -o dirnames; return ;;
            "refseg prepare refclef --images") compopt -o dirnames; return ;;
            "refseg prepare refclef --split-by") _refseg_words unc berkeley; return ;;
            "refseg prepare refclef --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare refclef --workers") return ;;
            "refseg prepare refclef --on-error") _refseg_words fail skip; return ;;
            "refseg prepare grefcoco --root") compopt -o dirnames; return ;;
            "refseg prepare grefcoco --out" | "refseg prepare grefcoco -o") compopt -o dirnames; return ;;
            "refseg prepare grefcoco --images") compopt -o dirnames; return ;;
            "refseg prepare grefcoco --split-by") _refseg_words unc; return ;;
            "refseg prepare grefcoco --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare grefcoco --workers") return ;;
            "refseg prepare grefcoco --on-error") _refseg_words fail skip; return ;;
            "refseg prepare scenes --out" | "refseg prepare scenes -o") compopt -o dirnames; return ;;
            "refseg prepare scenes --images") return ;;
            "refseg prepare scenes --seed") return ;;
            "refseg prepare scenes --raw") compopt -o dirnames; return ;;
            "refseg prepare scenes --workers") return ;;
        esac
        if [[ $current == -* ]]; then
            case $command in
                "refseg") _refseg_words --version --quiet -q --verbose -v --color --progress --help -h ;;
                "refseg train") _refseg_words --data --arch --recipe --set --out -o --init --resume --tracker --shuffle-phrases --device --json --quiet -q --help -h ;;
                "refseg eval") _refseg_words --data --model --split --records --batch-images --limit --device --json --quiet -q --help -h ;;
                "refseg predict") _refseg_words --output -o --format -f --json --model --threshold --no-target-threshold --no-target-ok --demo --device --quiet -q --help -h ;;
                "refseg export") _refseg_words --output -o --model --format -f --json --quiet -q --help -h ;;
                "refseg bench") _refseg_words --model --arch --recipe --set --batch-sizes --phrases --repeat --warmup --precision --device --json --quiet -q --help -h ;;
                "refseg prepare") _refseg_words --help -h ;;
                "refseg prepare refcoco") _refseg_words --root --out -o --images --split-by --splits --workers --on-error --overwrite --json --quiet -q --help -h ;;
                "refseg prepare refcoco+") _refseg_words --root --out -o --images --split-by --splits --workers --on-error --overwrite --json --quiet -q --help -h ;;
                "refseg prepare refcocog") _refseg_words --root --out -o --images --split-by --splits --workers --on-error --overwrite --json --quiet -q --help -h ;;
                "refseg prepare refclef") _refseg_words --root --out -o --images --split-by --splits --workers --on-error --overwrite --json --quiet -q --help -h ;;
                "refseg prepare grefcoco") _refseg_words --root --out -o --images --split-by --splits --workers --on-error --overwrite --json --quiet -q --help -h ;;
                "refseg prepare scenes") _refseg_words --out -o --images --seed --raw --workers --overwrite --json --quiet -q --help -h ;;
                "refseg prepare check") _refseg_words --json --quiet -q --help -h ;;
            esac
            return
        fi
    fi
    case $command in
        "refseg") _refseg_words train eval predict export bench prepare ;;
        "refseg train") ;;
        "refseg eval") ;;
        "refseg predict") compopt -o default; ;;
        "refseg export") ;;
        "refseg bench") ;;
        "refseg prepare") _refseg_words refcoco refcoco+ refcocog refclef grefcoco scenes check ;;
        "refseg prepare refcoco") ;;
        "refseg prepare refcoco+") ;;
        "refseg prepare refcocog") ;;
        "refseg prepare refclef") ;;
        "refseg prepare grefcoco") ;;
        "refseg prepare scenes") ;;
        "refseg prepare check") compopt -o dirnames; ;;
    esac
}

_refseg_words() {
    mapfile -t COMPREPLY < <(compgen -W "$*" -- "$current")
}

complete -F _refseg refseg
