"""The same unseen mails, answered by the base model and then with the adapter, and counted.

`python -m examples.compare MODEL_FOLDER ADAPTER_FOLDER`. Nothing of Tunesmith is used to load the
adapter: this is what anyone would write with transformers and PEFT.
"""

import json
import sys

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from examples.tickets.make_tickets import HELD_OUT_FILE
from examples.tickets.ticket import is_valid, question

_MAX_NEW_TOKENS = 56
_SHOWN_CHARACTERS = 110
_ENOUGH = 7


def compare(model_folder: str, adapter_folder: str) -> bool:
    """Print both answers to every held-out mail; whether the adapter learned its task."""
    mails = [json.loads(line)["prompt"] for line in HELD_OUT_FILE.read_text().splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(adapter_folder, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    before = _answers(model, tokenizer, mails)
    after = _answers(PeftModel.from_pretrained(model, adapter_folder), tokenizer, mails)
    for mail, plain, tuned in zip(mails, before, after, strict=True):
        print(
            f"\n  mail     {_short(mail)}\n  base     {_short(plain)}\n  adapter  {_short(tuned)}"
        )
    count_before, count_after = (sum(map(is_valid, answers)) for answers in (before, after))
    print(
        f"\nValid tickets: {count_before} of {len(mails)} from the base model, "
        f"{count_after} of {len(mails)} with the adapter."
    )
    return count_after >= _ENOUGH


@torch.inference_mode()
def _answers(
    model: PreTrainedModel | PeftModel, tokenizer: PreTrainedTokenizerBase, mails: list[str]
) -> list[str]:
    chats = [question(mail) for mail in mails]
    batch = tokenizer.apply_chat_template(
        chats, add_generation_prompt=True, padding=True, return_dict=True, return_tensors="pt"
    )
    model.eval()
    generated = model.generate(
        **batch,
        max_new_tokens=_MAX_NEW_TOKENS,
        do_sample=False,
        pad_token_id=tokenizer.pad_token_id,
    )
    prompt_tokens = batch["input_ids"].shape[1]
    return [
        text.strip()
        for text in tokenizer.batch_decode(generated[:, prompt_tokens:], skip_special_tokens=True)
    ]


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _SHOWN_CHARACTERS else f"{line[: _SHOWN_CHARACTERS - 2]} …"


if __name__ == "__main__":
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    sys.exit(0 if compare(sys.argv[1], sys.argv[2]) else 1)
