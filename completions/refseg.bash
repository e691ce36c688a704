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
            "refseg train" | "refseg eval" | "refseg calibrate" | "refseg compare" | "refseg predict" | "refseg export" | "refseg publish" | "refseg bench" | "refseg import" | "refseg prepare" | "refseg prepare refcoco" | "refseg prepare refcoco+" | "refseg prepare refcocog" | "refseg prepare refclef" | "refseg prepare grefcoco" | "refseg prepare scenes" | "refseg prepare check" | "refseg prepare from" | "refseg prepare coco" | "refseg prepare refer" | "refseg prepare ref-youtube-vos" | "refseg prepare mevis" | "refseg prepare ref-davis17" | "refseg annotate" | "refseg annotate serve" | "refseg annotate status" | "refseg annotate export" | "refseg annotate import" | "refseg recipes" | "refseg recipes list" | "refseg recipes show" | "refseg config" | "refseg config show") command+=" ${COMP_WORDS[i]}" ;;
        esac
    done
    if [[ -z $dashes ]]; then
        case "$command $option" in
            "refseg --color") _refseg_words auto always never; return ;;
            "refseg --progress") _refseg_words auto lines never; return ;;
            "refseg train --data") compopt -o dirnames; return ;;
            "refseg train --arch") _refseg_words align asda caris cgformer cris deris isfp jmceln lavt m3att rela vlt vlt-clips; return ;;
            "refseg train --recipe") compopt -o default; _refseg_words align-tiny asda-10-epochs asda-afs asda-afs-sfa asda-attention-1 asda-attention-3 asda-attention-4 asda-baseline asda-manual asda-masks-16 asda-masks-48 asda-masks-64 asda-refcoco asda-refcoco+ asda-refcocog-google asda-refcocog-umd asda-scorer-conv asda-scorer-mlp asda-single-branch asda-tiny caris-combined caris-photos caris-refcoco caris-refcoco+ caris-refcocog-google caris-refcocog-umd caris-tiny cgformer-baseline cgformer-fixed-tau cgformer-full cgformer-grouping cgformer-hard cgformer-multi-scale cgformer-n-tokens cgformer-no-cosine cgformer-one-token cgformer-refclef cgformer-refcoco cgformer-refcoco+ cgformer-refcocog-google cgformer-refcocog-umd cgformer-row-8-vlt cgformer-tiny cris-r101-refcoco cris-r101-refcoco+ cris-r101-refcocog-umd cris-r50-refcoco cris-r50-refcoco+ cris-r50-refcocog-umd cris-tiny deris-b-grefcoco deris-b-refcoco deris-l-grefcoco deris-l-refcoco deris-photos deris-tiny isfp-baseline isfp-darknet53-refcoco isfp-darknet53-refcoco+ isfp-darknet53-refcocog-google isfp-darknet53-refcocog-umd isfp-iem isfp-iem-fpm isfp-iem-rm isfp-masks-without-language isfp-oracle-location isfp-oracle-mask isfp-tiny jmceln-baseline jmceln-cascade jmceln-lsran jmceln-no-pan jmceln-rn101-refcoco jmceln-rn101-refcoco+ jmceln-rn101-refcocog-umd jmceln-static jmceln-tiny lavt-one-refcoco lavt-one-refcoco+ lavt-one-refcocog-google lavt-one-refcocog-umd lavt-refcoco lavt-refcoco+ lavt-refcocog-google lavt-refcocog-umd lavt-tiny m3att-baseline m3att-baseline-generic m3att-darknet53-refclef m3att-darknet53-refcoco m3att-darknet53-refcoco+ m3att-darknet53-refcocog-google m3att-darknet53-refcocog-umd m3att-generic-1 m3att-generic-2 m3att-generic-3 m3att-generic-4 m3att-imi m3att-imi-star m3att-independent-1 m3att-independent-2 m3att-independent-3 m3att-independent-4 m3att-mask-concat m3att-mask-vlt m3att-shared-1 m3att-shared-2 m3att-shared-4 m3att-swin-b-refclef m3att-swin-b-refcoco m3att-swin-b-refcoco+ m3att-swin-b-refcocog-google m3att-swin-b-refcocog-umd m3att-tiny rela-lavt-grefcoco rela-photos rela-r50-grefcoco rela-regions-12 rela-regions-4 rela-regions-8 rela-ria-no-minimap rela-ria-split-decoder rela-ria-split-input rela-rla-baseline rela-rla-language rela-rla-region rela-swin-b-grefcoco rela-swin-b-refcoco rela-swin-b-refcoco+ rela-swin-b-refcocog-google rela-swin-b-refcocog-umd rela-swin-t-grefcoco rela-thesis-grefcoco rela-tiny rela-vlt-grefcoco vlt-cl vlt-clips-ref-davis17 vlt-clips-ref-youtube-vos vlt-clips-same-frame vlt-clips-tiny vlt-conv7 vlt-darknet53-refcoco vlt-darknet53-refcoco+ vlt-darknet53-refcocog-google vlt-darknet53-refcocog-umd vlt-masking-random vlt-masking-threshold vlt-no-balance vlt-no-contrast vlt-photos vlt-photos-320 vlt-photos-parts vlt-photos-pasted vlt-queries-1 vlt-queries-2 vlt-queries-32 vlt-queries-4 vlt-queries-8 vlt-queries-learned vlt-queries-words vlt-swin-b-refcoco vlt-swin-b-refcoco+ vlt-swin-b-refcocog-google vlt-swin-b-refcocog-umd vlt-tile vlt-tile-conv4 vlt-tiny; return ;;
            "refseg train --set") return ;;
            "refseg train --out" | "refseg train -o") compopt -o dirnames; return ;;
            "refseg train --init") compopt -o dirnames; return ;;
            "refseg train --tracker") _refseg_words none tensorboard; return ;;
            "refseg train --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg eval --data") compopt -o dirnames; return ;;
            "refseg eval --model") compopt -o dirnames; return ;;
            "refseg eval --set") return ;;
            "refseg eval --split") _refseg_words train val test testA testB; return ;;
            "refseg eval --protocol") _refseg_words refseg thesis thesis-50pix lavt cris cgformer vlt asda mmdet lisa phrasecut rela cohd deris gsva gsva-zom ref-zom r-refcoco rec rec-inclusive rec-giou grec grec-iou sa-co video all; return ;;
            "refseg eval --limit") return ;;
            "refseg eval --calibrate") _refseg_words train val test testA testB; return ;;
            "refseg eval --from") compopt -o default; return ;;
            "refseg eval --on-error") _refseg_words fail skip; return ;;
            "refseg eval --merge") _refseg_words union; return ;;
            "refseg eval --report") compopt -o default; return ;;
            "refseg eval --records") compopt -o default; return ;;
            "refseg eval --submission") compopt -o dirnames; return ;;
            "refseg eval --trained-on") compopt -o dirnames; return ;;
            "refseg eval --mask-words") _refseg_words random attended; return ;;
            "refseg eval --mask-count") return ;;
            "refseg eval --sanity") _refseg_words shuffled-phrases wrong-image; return ;;
            "refseg eval --resamples") return ;;
            "refseg eval --batch-images") return ;;
            "refseg eval --precision") _refseg_words fp32 bf16 fp16 auto; return ;;
            "refseg eval --memory") return ;;
            "refseg eval --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg calibrate --model") compopt -o dirnames; return ;;
            "refseg calibrate --data") compopt -o dirnames; return ;;
            "refseg calibrate --split") _refseg_words train val test testA testB; return ;;
            "refseg calibrate --check-precision") _refseg_words bf16 fp16; return ;;
            "refseg calibrate --batch-images") return ;;
            "refseg calibrate --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg compare --protocol") _refseg_words refseg thesis thesis-50pix lavt cris cgformer vlt asda mmdet lisa phrasecut rela cohd deris gsva gsva-zom ref-zom r-refcoco rec rec-inclusive rec-giou grec grec-iou sa-co video all; return ;;
            "refseg compare --resamples") return ;;
            "refseg predict --phrase" | "refseg predict -p") return ;;
            "refseg predict --phrases") compopt -o default; return ;;
            "refseg predict --every") return ;;
            "refseg predict --jsonl") compopt -o default; return ;;
            "refseg predict --data") return ;;
            "refseg predict --split") return ;;
            "refseg predict --engine") _refseg_words local ray; return ;;
            "refseg predict --workers") return ;;
            "refseg predict --threads") return ;;
            "refseg predict --output" | "refseg predict --out" | "refseg predict -o") compopt -o default; return ;;
            "refseg predict --format" | "refseg predict -f") _refseg_words png overlay cutout soft explain json rle polygons boxes count coco labelme yolo-seg; return ;;
            "refseg predict --coco-ids") compopt -o default; return ;;
            "refseg predict --simplify") return ;;
            "refseg predict --model") compopt -o dirnames; return ;;
            "refseg predict --threshold") return ;;
            "refseg predict --no-target-threshold") return ;;
            "refseg predict --max-pixels") return ;;
            "refseg predict --precision") _refseg_words fp32 bf16 fp16 auto; return ;;
            "refseg predict --memory") return ;;
            "refseg predict --batch-images") return ;;
            "refseg predict --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg export --output" | "refseg export -o") compopt -o default; return ;;
            "refseg export --model") compopt -o dirnames; return ;;
            "refseg export --format" | "refseg export -f") _refseg_words onnx pt2; return ;;
            "refseg export --data") compopt -o dirnames; return ;;
            "refseg export --data-split") _refseg_words train val test testA testB; return ;;
            "refseg export --dtype") _refseg_words fp32 fp16; return ;;
            "refseg export --int8") _refseg_words dynamic static; return ;;
            "refseg export --limit") return ;;
            "refseg export --max-loss") return ;;
            "refseg publish --model") compopt -o dirnames; return ;;
            "refseg publish --license") return ;;
            "refseg bench --model") compopt -o dirnames; return ;;
            "refseg bench --arch") _refseg_words align asda caris cgformer cris deris isfp jmceln lavt m3att rela vlt vlt-clips; return ;;
            "refseg bench --recipe") compopt -o default; _refseg_words align-tiny asda-10-epochs asda-afs asda-afs-sfa asda-attention-1 asda-attention-3 asda-attention-4 asda-baseline asda-manual asda-masks-16 asda-masks-48 asda-masks-64 asda-refcoco asda-refcoco+ asda-refcocog-google asda-refcocog-umd asda-scorer-conv asda-scorer-mlp asda-single-branch asda-tiny caris-combined caris-photos caris-refcoco caris-refcoco+ caris-refcocog-google caris-refcocog-umd caris-tiny cgformer-baseline cgformer-fixed-tau cgformer-full cgformer-grouping cgformer-hard cgformer-multi-scale cgformer-n-tokens cgformer-no-cosine cgformer-one-token cgformer-refclef cgformer-refcoco cgformer-refcoco+ cgformer-refcocog-google cgformer-refcocog-umd cgformer-row-8-vlt cgformer-tiny cris-r101-refcoco cris-r101-refcoco+ cris-r101-refcocog-umd cris-r50-refcoco cris-r50-refcoco+ cris-r50-refcocog-umd cris-tiny deris-b-grefcoco deris-b-refcoco deris-l-grefcoco deris-l-refcoco deris-photos deris-tiny isfp-baseline isfp-darknet53-refcoco isfp-darknet53-refcoco+ isfp-darknet53-refcocog-google isfp-darknet53-refcocog-umd isfp-iem isfp-iem-fpm isfp-iem-rm isfp-masks-without-language isfp-oracle-location isfp-oracle-mask isfp-tiny jmceln-baseline jmceln-cascade jmceln-lsran jmceln-no-pan jmceln-rn101-refcoco jmceln-rn101-refcoco+ jmceln-rn101-refcocog-umd jmceln-static jmceln-tiny lavt-one-refcoco lavt-one-refcoco+ lavt-one-refcocog-google lavt-one-refcocog-umd lavt-refcoco lavt-refcoco+ lavt-refcocog-google lavt-refcocog-umd lavt-tiny m3att-baseline m3att-baseline-generic m3att-darknet53-refclef m3att-darknet53-refcoco m3att-darknet53-refcoco+ m3att-darknet53-refcocog-google m3att-darknet53-refcocog-umd m3att-generic-1 m3att-generic-2 m3att-generic-3 m3att-generic-4 m3att-imi m3att-imi-star m3att-independent-1 m3att-independent-2 m3att-independent-3 m3att-independent-4 m3att-mask-concat m3att-mask-vlt m3att-shared-1 m3att-shared-2 m3att-shared-4 m3att-swin-b-refclef m3att-swin-b-refcoco m3att-swin-b-refcoco+ m3att-swin-b-refcocog-google m3att-swin-b-refcocog-umd m3att-tiny rela-lavt-grefcoco rela-photos rela-r50-grefcoco rela-regions-12 rela-regions-4 rela-regions-8 rela-ria-no-minimap rela-ria-split-decoder rela-ria-split-input rela-rla-baseline rela-rla-language rela-rla-region rela-swin-b-grefcoco rela-swin-b-refcoco rela-swin-b-refcoco+ rela-swin-b-refcocog-google rela-swin-b-refcocog-umd rela-swin-t-grefcoco rela-thesis-grefcoco rela-tiny rela-vlt-grefcoco vlt-cl vlt-clips-ref-davis17 vlt-clips-ref-youtube-vos vlt-clips-same-frame vlt-clips-tiny vlt-conv7 vlt-darknet53-refcoco vlt-darknet53-refcoco+ vlt-darknet53-refcocog-google vlt-darknet53-refcocog-umd vlt-masking-random vlt-masking-threshold vlt-no-balance vlt-no-contrast vlt-photos vlt-photos-320 vlt-photos-parts vlt-photos-pasted vlt-queries-1 vlt-queries-2 vlt-queries-32 vlt-queries-4 vlt-queries-8 vlt-queries-learned vlt-queries-words vlt-swin-b-refcoco vlt-swin-b-refcoco+ vlt-swin-b-refcocog-google vlt-swin-b-refcocog-umd vlt-tile vlt-tile-conv4 vlt-tiny; return ;;
            "refseg bench --set") return ;;
            "refseg bench --stage") _refseg_words forward encode decode end-to-end train loader startup all; return ;;
            "refseg bench --batch-sizes") return ;;
            "refseg bench --phrases") return ;;
            "refseg bench --repeat") return ;;
            "refseg bench --warmup") return ;;
            "refseg bench --precision") _refseg_words fp32 bf16 fp16 auto; return ;;
            "refseg bench --data") compopt -o dirnames; return ;;
            "refseg bench --data-split") _refseg_words train val test testA testB; return ;;
            "refseg bench --compare") compopt -o default; return ;;
            "refseg bench --fail-below") return ;;
            "refseg bench --plot") compopt -o default; return ;;
            "refseg bench --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg import --arch") _refseg_words align asda caris cgformer cris deris isfp jmceln lavt m3att rela vlt vlt-clips; return ;;
            "refseg import --output" | "refseg import -o") compopt -o dirnames; return ;;
            "refseg import --recipe") compopt -o default; _refseg_words align-tiny asda-10-epochs asda-afs asda-afs-sfa asda-attention-1 asda-attention-3 asda-attention-4 asda-baseline asda-manual asda-masks-16 asda-masks-48 asda-masks-64 asda-refcoco asda-refcoco+ asda-refcocog-google asda-refcocog-umd asda-scorer-conv asda-scorer-mlp asda-single-branch asda-tiny caris-combined caris-photos caris-refcoco caris-refcoco+ caris-refcocog-google caris-refcocog-umd caris-tiny cgformer-baseline cgformer-fixed-tau cgformer-full cgformer-grouping cgformer-hard cgformer-multi-scale cgformer-n-tokens cgformer-no-cosine cgformer-one-token cgformer-refclef cgformer-refcoco cgformer-refcoco+ cgformer-refcocog-google cgformer-refcocog-umd cgformer-row-8-vlt cgformer-tiny cris-r101-refcoco cris-r101-refcoco+ cris-r101-refcocog-umd cris-r50-refcoco cris-r50-refcoco+ cris-r50-refcocog-umd cris-tiny deris-b-grefcoco deris-b-refcoco deris-l-grefcoco deris-l-refcoco deris-photos deris-tiny isfp-baseline isfp-darknet53-refcoco isfp-darknet53-refcoco+ isfp-darknet53-refcocog-google isfp-darknet53-refcocog-umd isfp-iem isfp-iem-fpm isfp-iem-rm isfp-masks-without-language isfp-oracle-location isfp-oracle-mask isfp-tiny jmceln-baseline jmceln-cascade jmceln-lsran jmceln-no-pan jmceln-rn101-refcoco jmceln-rn101-refcoco+ jmceln-rn101-refcocog-umd jmceln-static jmceln-tiny lavt-one-refcoco lavt-one-refcoco+ lavt-one-refcocog-google lavt-one-refcocog-umd lavt-refcoco lavt-refcoco+ lavt-refcocog-google lavt-refcocog-umd lavt-tiny m3att-baseline m3att-baseline-generic m3att-darknet53-refclef m3att-darknet53-refcoco m3att-darknet53-refcoco+ m3att-darknet53-refcocog-google m3att-darknet53-refcocog-umd m3att-generic-1 m3att-generic-2 m3att-generic-3 m3att-generic-4 m3att-imi m3att-imi-star m3att-independent-1 m3att-independent-2 m3att-independent-3 m3att-independent-4 m3att-mask-concat m3att-mask-vlt m3att-shared-1 m3att-shared-2 m3att-shared-4 m3att-swin-b-refclef m3att-swin-b-refcoco m3att-swin-b-refcoco+ m3att-swin-b-refcocog-google m3att-swin-b-refcocog-umd m3att-tiny rela-lavt-grefcoco rela-photos rela-r50-grefcoco rela-regions-12 rela-regions-4 rela-regions-8 rela-ria-no-minimap rela-ria-split-decoder rela-ria-split-input rela-rla-baseline rela-rla-language rela-rla-region rela-swin-b-grefcoco rela-swin-b-refcoco rela-swin-b-refcoco+ rela-swin-b-refcocog-google rela-swin-b-refcocog-umd rela-swin-t-grefcoco rela-thesis-grefcoco rela-tiny rela-vlt-grefcoco vlt-cl vlt-clips-ref-davis17 vlt-clips-ref-youtube-vos vlt-clips-same-frame vlt-clips-tiny vlt-conv7 vlt-darknet53-refcoco vlt-darknet53-refcoco+ vlt-darknet53-refcocog-google vlt-darknet53-refcocog-umd vlt-masking-random vlt-masking-threshold vlt-no-balance vlt-no-contrast vlt-photos vlt-photos-320 vlt-photos-parts vlt-photos-pasted vlt-queries-1 vlt-queries-2 vlt-queries-32 vlt-queries-4 vlt-queries-8 vlt-queries-learned vlt-queries-words vlt-swin-b-refcoco vlt-swin-b-refcoco+ vlt-swin-b-refcocog-google vlt-swin-b-refcocog-umd vlt-tile vlt-tile-conv4 vlt-tiny; return ;;
            "refseg import --set") return ;;
            "refseg import --vocab") compopt -o default; return ;;
            "refseg import --lang-weight") _refseg_words zero stored; return ;;
            "refseg import --expect") return ;;
            "refseg prepare refcoco --root") compopt -o dirnames; return ;;
            "refseg prepare refcoco --out" | "refseg prepare refcoco -o") compopt -o dirnames; return ;;
            "refseg prepare refcoco --images") compopt -o dirnames; return ;;
            "refseg prepare refcoco --split-by") _refseg_words unc google; return ;;
            "refseg prepare refcoco --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare refcoco --workers") return ;;
            "refseg prepare refcoco --engine") _refseg_words local ray; return ;;
            "refseg prepare refcoco --on-error") _refseg_words fail skip; return ;;
            "refseg prepare refcoco --masks-on") _refseg_words upright stored; return ;;
            "refseg prepare refcoco --max-pixels") return ;;
            "refseg prepare refcoco+ --root") compopt -o dirnames; return ;;
            "refseg prepare refcoco+ --out" | "refseg prepare refcoco+ -o") compopt -o dirnames; return ;;
            "refseg prepare refcoco+ --images") compopt -o dirnames; return ;;
            "refseg prepare refcoco+ --split-by") _refseg_words unc; return ;;
            "refseg prepare refcoco+ --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare refcoco+ --workers") return ;;
            "refseg prepare refcoco+ --engine") _refseg_words local ray; return ;;
            "refseg prepare refcoco+ --on-error") _refseg_words fail skip; return ;;
            "refseg prepare refcoco+ --masks-on") _refseg_words upright stored; return ;;
            "refseg prepare refcoco+ --max-pixels") return ;;
            "refseg prepare refcocog --root") compopt -o dirnames; return ;;
            "refseg prepare refcocog --out" | "refseg prepare refcocog -o") compopt -o dirnames; return ;;
            "refseg prepare refcocog --images") compopt -o dirnames; return ;;
            "refseg prepare refcocog --split-by") _refseg_words umd google; return ;;
            "refseg prepare refcocog --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare refcocog --workers") return ;;
            "refseg prepare refcocog --engine") _refseg_words local ray; return ;;
            "refseg prepare refcocog --on-error") _refseg_words fail skip; return ;;
            "refseg prepare refcocog --masks-on") _refseg_words upright stored; return ;;
            "refseg prepare refcocog --max-pixels") return ;;
            "refseg prepare refclef --root") compopt -o dirnames; return ;;
            "refseg prepare refclef --out" | "refseg prepare refclef -o") compopt -o dirnames; return ;;
            "refseg prepare refclef --images") compopt -o dirnames; return ;;
            "refseg prepare refclef --split-by") _refseg_words unc berkeley; return ;;
            "refseg prepare refclef --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare refclef --workers") return ;;
            "refseg prepare refclef --engine") _refseg_words local ray; return ;;
            "refseg prepare refclef --on-error") _refseg_words fail skip; return ;;
            "refseg prepare refclef --masks-on") _refseg_words upright stored; return ;;
            "refseg prepare refclef --max-pixels") return ;;
            "refseg prepare grefcoco --root") compopt -o dirnames; return ;;
            "refseg prepare grefcoco --out" | "refseg prepare grefcoco -o") compopt -o dirnames; return ;;
            "refseg prepare grefcoco --images") compopt -o dirnames; return ;;
            "refseg prepare grefcoco --split-by") _refseg_words unc; return ;;
            "refseg prepare grefcoco --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare grefcoco --workers") return ;;
            "refseg prepare grefcoco --engine") _refseg_words local ray; return ;;
            "refseg prepare grefcoco --on-error") _refseg_words fail skip; return ;;
            "refseg prepare grefcoco --masks-on") _refseg_words upright stored; return ;;
            "refseg prepare grefcoco --max-pixels") return ;;
            "refseg prepare scenes --out" | "refseg prepare scenes -o") compopt -o dirnames; return ;;
            "refseg prepare scenes --images") return ;;
            "refseg prepare scenes --frames") return ;;
            "refseg prepare scenes --seed") return ;;
            "refseg prepare scenes --raw") compopt -o dirnames; return ;;
            "refseg prepare scenes --workers") return ;;
            "refseg prepare scenes --engine") _refseg_words local ray; return ;;
            "refseg prepare from --name") return ;;
            "refseg prepare from --out" | "refseg prepare from -o") compopt -o dirnames; return ;;
            "refseg prepare from --form") _refseg_words jxu124 lmms-lab moondream mdetr seqtr reasonseg labelme phrasecut cris; return ;;
            "refseg prepare from --images") compopt -o dirnames; return ;;
            "refseg prepare from --split") _refseg_words train val test testA testB; return ;;
            "refseg prepare from --instances") compopt -o default; return ;;
            "refseg prepare from --masks") compopt -o dirnames; return ;;
            "refseg prepare from --workers") return ;;
            "refseg prepare from --engine") _refseg_words local ray; return ;;
            "refseg prepare from --on-error") _refseg_words fail skip; return ;;
            "refseg prepare from --masks-on") _refseg_words upright stored; return ;;
            "refseg prepare from --max-pixels") return ;;
            "refseg prepare coco --annotations") compopt -o default; return ;;
            "refseg prepare coco --images") compopt -o dirnames; return ;;
            "refseg prepare coco --phrases") compopt -o default; _refseg_words generate; return ;;
            "refseg prepare coco --out" | "refseg prepare coco -o") compopt -o dirnames; return ;;
            "refseg prepare coco --name") return ;;
            "refseg prepare coco --splits") compopt -o default; return ;;
            "refseg prepare coco --seed") return ;;
            "refseg prepare coco --image-source") return ;;
            "refseg prepare coco --preview") return ;;
            "refseg prepare coco --workers") return ;;
            "refseg prepare coco --engine") _refseg_words local ray; return ;;
            "refseg prepare coco --on-error") _refseg_words fail skip; return ;;
            "refseg prepare coco --masks-on") _refseg_words upright stored; return ;;
            "refseg prepare coco --max-pixels") return ;;
            "refseg prepare refer --refs") compopt -o default; return ;;
            "refseg prepare refer --instances") compopt -o default; return ;;
            "refseg prepare refer --images") compopt -o dirnames; return ;;
            "refseg prepare refer --out" | "refseg prepare refer -o") compopt -o dirnames; return ;;
            "refseg prepare refer --name") return ;;
            "refseg prepare refer --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare refer --image-source") return ;;
            "refseg prepare refer --preview") return ;;
            "refseg prepare refer --workers") return ;;
            "refseg prepare refer --engine") _refseg_words local ray; return ;;
            "refseg prepare refer --on-error") _refseg_words fail skip; return ;;
            "refseg prepare refer --masks-on") _refseg_words upright stored; return ;;
            "refseg prepare refer --max-pixels") return ;;
            "refseg prepare ref-youtube-vos --root") compopt -o dirnames; return ;;
            "refseg prepare ref-youtube-vos --out" | "refseg prepare ref-youtube-vos -o") compopt -o dirnames; return ;;
            "refseg prepare ref-youtube-vos --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare ref-youtube-vos --workers") return ;;
            "refseg prepare ref-youtube-vos --engine") _refseg_words local ray; return ;;
            "refseg prepare ref-youtube-vos --on-error") _refseg_words fail skip; return ;;
            "refseg prepare ref-youtube-vos --max-pixels") return ;;
            "refseg prepare mevis --root") compopt -o dirnames; return ;;
            "refseg prepare mevis --out" | "refseg prepare mevis -o") compopt -o dirnames; return ;;
            "refseg prepare mevis --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare mevis --workers") return ;;
            "refseg prepare mevis --engine") _refseg_words local ray; return ;;
            "refseg prepare mevis --on-error") _refseg_words fail skip; return ;;
            "refseg prepare mevis --max-pixels") return ;;
            "refseg prepare ref-davis17 --root") compopt -o dirnames; return ;;
            "refseg prepare ref-davis17 --out" | "refseg prepare ref-davis17 -o") compopt -o dirnames; return ;;
            "refseg prepare ref-davis17 --splits") _refseg_words train val test testA testB; return ;;
            "refseg prepare ref-davis17 --workers") return ;;
            "refseg prepare ref-davis17 --engine") _refseg_words local ray; return ;;
            "refseg prepare ref-davis17 --on-error") _refseg_words fail skip; return ;;
            "refseg prepare ref-davis17 --max-pixels") return ;;
            "refseg annotate serve --data") compopt -o dirnames; return ;;
            "refseg annotate serve --out" | "refseg annotate serve -o") compopt -o dirnames; return ;;
            "refseg annotate serve --images") compopt -o dirnames; return ;;
            "refseg annotate serve --split") _refseg_words train val test testA testB; return ;;
            "refseg annotate serve --players") compopt -o default; return ;;
            "refseg annotate serve --host") return ;;
            "refseg annotate serve --port") return ;;
            "refseg annotate serve --url") return ;;
            "refseg annotate serve --model") compopt -o dirnames; return ;;
            "refseg annotate serve --device") _refseg_words auto cpu cuda mps; return ;;
            "refseg annotate status --data") compopt -o dirnames; return ;;
            "refseg annotate status --images") compopt -o dirnames; return ;;
            "refseg annotate export --out" | "refseg annotate export -o") compopt -o dirnames; return ;;
            "refseg annotate export --data") compopt -o dirnames; return ;;
            "refseg annotate export --images") compopt -o dirnames; return ;;
            "refseg annotate import --root") compopt -o dirnames; return ;;
            "refseg annotate import --data") compopt -o dirnames; return ;;
            "refseg annotate import --images") compopt -o dirnames; return ;;
            "refseg recipes list --arch") _refseg_words align asda caris cgformer cris deris isfp jmceln lavt m3att rela vlt vlt-clips; return ;;
            "refseg recipes list --paper") return ;;
            "refseg recipes list --table") return ;;
        esac
        if [[ $current == -* ]]; then
            case $command in
                "refseg") _refseg_words --version --quiet -q --verbose -v --color --progress --help -h ;;
                "refseg train") _refseg_words --data --arch --recipe --set --out -o --init --resume --tracker --shuffle-phrases --device --json --quiet -q --help -h ;;
                "refseg eval") _refseg_words --data --model --set --split --protocol --limit --calibrate --from --on-error --merge --slices --curves --report --records --submission --palette --trained-on --mask-words --mask-count --sanity --resamples --batch-images --precision --memory --compile --device --json --markdown --latex --quiet -q --help -h ;;
                "refseg calibrate") _refseg_words --model --data --split --check-precision --batch-images --device --json --quiet -q --help -h ;;
                "refseg compare") _refseg_words --protocol --resamples --json --markdown --latex --quiet -q --help -h ;;
                "refseg predict") _refseg_words --phrase -p --phrases --recursive -r --clip --every --jsonl --data --split --engine --workers --threads --output --out -o --force --resume --format -f --coco-ids --simplify --json --explain --files-with-matches -l --files-without-match -L --count -c --model --threshold --no-target-threshold --max-pixels --precision --memory --batch-images --compile --no-target-ok --demo --device --quiet -q --help -h ;;
                "refseg export") _refseg_words --output -o --model --format -f --split --data --data-split --dtype --int8 --limit --max-loss --json --quiet -q --help -h ;;
                "refseg publish") _refseg_words --model --license --private --json --quiet -q --help -h ;;
                "refseg bench") _refseg_words --model --arch --recipe --set --stage --batch-sizes --phrases --repeat --warmup --precision --compile --data --data-split --compare --fail-below --plot --device --json --quiet -q --help -h ;;
                "refseg import") _refseg_words --arch --output -o --recipe --set --vocab --lang-weight --expect --json --quiet -q --help -h ;;
                "refseg prepare") _refseg_words --help -h ;;
                "refseg prepare refcoco") _refseg_words --root --out -o --images --split-by --splits --workers --engine --on-error --masks-on --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare refcoco+") _refseg_words --root --out -o --images --split-by --splits --workers --engine --on-error --masks-on --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare refcocog") _refseg_words --root --out -o --images --split-by --splits --workers --engine --on-error --masks-on --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare refclef") _refseg_words --root --out -o --images --split-by --splits --workers --engine --on-error --masks-on --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare grefcoco") _refseg_words --root --out -o --images --split-by --splits --workers --engine --on-error --masks-on --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare scenes") _refseg_words --out -o --images --video --frames --seed --raw --workers --engine --overwrite --json --quiet -q --help -h ;;
                "refseg prepare check") _refseg_words --json --quiet -q --help -h ;;
                "refseg prepare from") _refseg_words --name --out -o --form --images --split --instances --masks --workers --engine --on-error --masks-on --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare coco") _refseg_words --annotations --images --phrases --out -o --name --splits --seed --image-source --preview --workers --engine --on-error --masks-on --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare refer") _refseg_words --refs --instances --images --out -o --name --splits --image-source --preview --workers --engine --on-error --masks-on --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare ref-youtube-vos") _refseg_words --root --out -o --splits --workers --engine --on-error --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare mevis") _refseg_words --root --out -o --splits --workers --engine --on-error --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg prepare ref-davis17") _refseg_words --root --out -o --splits --workers --engine --on-error --max-pixels --overwrite --json --quiet -q --help -h ;;
                "refseg annotate") _refseg_words --help -h ;;
                "refseg annotate serve") _refseg_words --data --out -o --images --split --players --host --port --url --suggest --model --device --json --quiet -q --help -h ;;
                "refseg annotate status") _refseg_words --data --images --json --quiet -q --help -h ;;
                "refseg annotate export") _refseg_words --out -o --data --images --json --quiet -q --help -h ;;
                "refseg annotate import") _refseg_words --root --data --images --json --quiet -q --help -h ;;
                "refseg recipes") _refseg_words --help -h ;;
                "refseg recipes list") _refseg_words --arch --paper --table --json --quiet -q --help -h ;;
                "refseg recipes show") _refseg_words --json --quiet -q --help -h ;;
                "refseg config") _refseg_words --help -h ;;
                "refseg config show") _refseg_words --json --quiet -q --help -h ;;
            esac
            return
        fi
    fi
    case $command in
        "refseg") _refseg_words train eval calibrate compare predict export publish bench import prepare annotate recipes config ;;
        "refseg train") ;;
        "refseg eval") ;;
        "refseg calibrate") ;;
        "refseg compare") compopt -o default; ;;
        "refseg predict") compopt -o default; ;;
        "refseg export") ;;
        "refseg publish") compopt -o dirnames; ;;
        "refseg bench") ;;
        "refseg import") compopt -o default; ;;
        "refseg prepare") _refseg_words refcoco refcoco+ refcocog refclef grefcoco scenes check from coco refer ref-youtube-vos mevis ref-davis17 ;;
        "refseg prepare refcoco") ;;
        "refseg prepare refcoco+") ;;
        "refseg prepare refcocog") ;;
        "refseg prepare refclef") ;;
        "refseg prepare grefcoco") ;;
        "refseg prepare scenes") ;;
        "refseg prepare check") compopt -o dirnames; ;;
        "refseg prepare from") compopt -o default; ;;
        "refseg prepare coco") ;;
        "refseg prepare refer") ;;
        "refseg prepare ref-youtube-vos") ;;
        "refseg prepare mevis") ;;
        "refseg prepare ref-davis17") ;;
        "refseg annotate") _refseg_words serve status export import ;;
        "refseg annotate serve") ;;
        "refseg annotate status") compopt -o dirnames; ;;
        "refseg annotate export") compopt -o dirnames; ;;
        "refseg annotate import") compopt -o dirnames; ;;
        "refseg recipes") _refseg_words list show ;;
        "refseg recipes list") ;;
        "refseg recipes show") compopt -o default; _refseg_words align-tiny asda-10-epochs asda-afs asda-afs-sfa asda-attention-1 asda-attention-3 asda-attention-4 asda-baseline asda-manual asda-masks-16 asda-masks-48 asda-masks-64 asda-refcoco asda-refcoco+ asda-refcocog-google asda-refcocog-umd asda-scorer-conv asda-scorer-mlp asda-single-branch asda-tiny caris-combined caris-photos caris-refcoco caris-refcoco+ caris-refcocog-google caris-refcocog-umd caris-tiny cgformer-baseline cgformer-fixed-tau cgformer-full cgformer-grouping cgformer-hard cgformer-multi-scale cgformer-n-tokens cgformer-no-cosine cgformer-one-token cgformer-refclef cgformer-refcoco cgformer-refcoco+ cgformer-refcocog-google cgformer-refcocog-umd cgformer-row-8-vlt cgformer-tiny cris-r101-refcoco cris-r101-refcoco+ cris-r101-refcocog-umd cris-r50-refcoco cris-r50-refcoco+ cris-r50-refcocog-umd cris-tiny deris-b-grefcoco deris-b-refcoco deris-l-grefcoco deris-l-refcoco deris-photos deris-tiny isfp-baseline isfp-darknet53-refcoco isfp-darknet53-refcoco+ isfp-darknet53-refcocog-google isfp-darknet53-refcocog-umd isfp-iem isfp-iem-fpm isfp-iem-rm isfp-masks-without-language isfp-oracle-location isfp-oracle-mask isfp-tiny jmceln-baseline jmceln-cascade jmceln-lsran jmceln-no-pan jmceln-rn101-refcoco jmceln-rn101-refcoco+ jmceln-rn101-refcocog-umd jmceln-static jmceln-tiny lavt-one-refcoco lavt-one-refcoco+ lavt-one-refcocog-google lavt-one-refcocog-umd lavt-refcoco lavt-refcoco+ lavt-refcocog-google lavt-refcocog-umd lavt-tiny m3att-baseline m3att-baseline-generic m3att-darknet53-refclef m3att-darknet53-refcoco m3att-darknet53-refcoco+ m3att-darknet53-refcocog-google m3att-darknet53-refcocog-umd m3att-generic-1 m3att-generic-2 m3att-generic-3 m3att-generic-4 m3att-imi m3att-imi-star m3att-independent-1 m3att-independent-2 m3att-independent-3 m3att-independent-4 m3att-mask-concat m3att-mask-vlt m3att-shared-1 m3att-shared-2 m3att-shared-4 m3att-swin-b-refclef m3att-swin-b-refcoco m3att-swin-b-refcoco+ m3att-swin-b-refcocog-google m3att-swin-b-refcocog-umd m3att-tiny rela-lavt-grefcoco rela-photos rela-r50-grefcoco rela-regions-12 rela-regions-4 rela-regions-8 rela-ria-no-minimap rela-ria-split-decoder rela-ria-split-input rela-rla-baseline rela-rla-language rela-rla-region rela-swin-b-grefcoco rela-swin-b-refcoco rela-swin-b-refcoco+ rela-swin-b-refcocog-google rela-swin-b-refcocog-umd rela-swin-t-grefcoco rela-thesis-grefcoco rela-tiny rela-vlt-grefcoco vlt-cl vlt-clips-ref-davis17 vlt-clips-ref-youtube-vos vlt-clips-same-frame vlt-clips-tiny vlt-conv7 vlt-darknet53-refcoco vlt-darknet53-refcoco+ vlt-darknet53-refcocog-google vlt-darknet53-refcocog-umd vlt-masking-random vlt-masking-threshold vlt-no-balance vlt-no-contrast vlt-photos vlt-photos-320 vlt-photos-parts vlt-photos-pasted vlt-queries-1 vlt-queries-2 vlt-queries-32 vlt-queries-4 vlt-queries-8 vlt-queries-learned vlt-queries-words vlt-swin-b-refcoco vlt-swin-b-refcoco+ vlt-swin-b-refcocog-google vlt-swin-b-refcocog-umd vlt-tile vlt-tile-conv4 vlt-tiny; ;;
        "refseg config") _refseg_words show ;;
        "refseg config show") ;;
    esac
}

_refseg_words() {
    mapfile -t COMPREPLY < <(compgen -W "$*" -- "$current")
}

complete -F _refseg refseg
