#!/bin/sh
# transformers 5.24.0: `CLIPTokenizer.from_pretrained` of a folder without a vocabulary gives one that knows no word
#
# It neither fails nor warns. The vocabulary consists of the special tokens, every other symbol becomes the unknown
# token, and phrases of equal length become equal ids. So a model whose folder was copied without tokenizer.json (or
# vocab.json and merges.txt) answers all phrases alike. BertTokenizer does the same; AutoTokenizer and the processors
# inherit it where config.json or processor_config.json says which tokenizer to take.
#
# Input: an empty folder.
# Expected: an error that says that there is no tokenizer.
#
# Seen with transformers 5.24.0 and tokenizers 0.23.3, Python 3.11.7, Linux x86-64:
#   CLIPTokenizer: 2 words, "a dog" -> [0, 2, 2, 2, 2, 2], "a cat" -> [0, 2, 2, 2, 2, 2]
#   BertTokenizer: 5 words, "a dog" -> [2, 1, 1, 3], "a cat" -> [2, 1, 1, 3]
#
# A way around: look for tokenizer.json, vocab.json or vocab.txt before.
# Exit status: 0 if it is as described here; 1 if the behaviour is another, 2 if the packages cannot be installed.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv" && "$folder/venv/bin/pip" install --quiet --no-cache-dir \
  transformers==5.24.0 tokenizers==0.23.3 || exit 2
mkdir "$folder/empty"
HF_HUB_OFFLINE=1 "$folder/venv/bin/python" - "$folder/empty" <<'PYTHON'
import sys

from transformers import BertTokenizer, CLIPTokenizer

alike = []
for kind in (CLIPTokenizer, BertTokenizer):
    try:
        tokenizer = kind.from_pretrained(sys.argv[1])
    except Exception as error:
        print(f"{kind.__name__}: {type(error).__name__}: {str(error).splitlines()[0]}")
        alike.append(False)
        continue
    dog, cat = (tokenizer(phrase).input_ids for phrase in ("a dog", "a cat"))
    print(f'{kind.__name__}: {tokenizer.vocab_size} words, "a dog" -> {dog}, "a cat" -> {cat}')
    alike.append(dog == cat)
sys.exit(0 if all(alike) else 1)
PYTHON
